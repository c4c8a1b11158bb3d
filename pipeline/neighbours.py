"""Near-duplicates: the same picture under several patients, re-encoded, re-windowed or moved by a pixel.

Slices of different chests resemble each other, so that a perceptual hash alone cries wolf. Here it proposes pairs only
(hashes at most 10 of 63 bits apart). A pair counts where the two also agree in what is 1.5 to 3 pixels wide on a grid
of 64 x 64: a correlation of at least 0.92 at the best shift of up to two such pixels. Measured on 1,000 images of each
class of MedNIST (499,500 pairs a class) and on the CT slices of ct100:

* Pairs of different people reach 0.81 (CT slices, 4,880 pairs of patients), 0.86 (chest films) and 0.91 (hands); of
  a million pairs of chest films hashes alone propose 2,600, of hands 55,000.
* Found are 99 % or more of images windowed 25 % narrower, 10 % brighter, of another gamma, as JPEG of quality 50 or
  with noise of 2 % of the range; of those with 4 % noise 41 % (a noisy chest window) to 100 %; of those moved by half a
  pixel 94 to 100 %, by one 97 to 100 %, by one along both axes 78 to 100 %, by two 59 to 87 %.
* What is found among MedNIST's own CT and MR slices (9 to 78 in 100,000 pairs; it names no patients) are neighbouring
  slices of one person, but for head CTs: there rings of bone of different people pass too, 18 in 100,000 at most.

Below 48 pixels a side less detail is left, and a pair has to agree by 0.985. At 32 x 32 no two of 1,000 chest films or
of 1,000 hands reach that (0.87 and 0.92 at most); of procedural chests, each drawn on its own, no two of 2,961 do at
24 x 24 or 40 x 40 (0.984). Found at 32 x 32 are all of 300 images of a class made 10 % brighter or of another gamma, 84
to 100 % of those windowed 25 % narrower, 25 % (chest CTs) to 100 % of those as JPEG of quality 50 or with noise, and
few of those moved by half a pixel before they were averaged down. BreastMNIST's 780 ultrasound images of 28 x 28 hold
103 pairs, 58 of them across its published split; at 0.92, where the pairs looked at are one picture too, 208 and 119.

Procedural chests have little detail of their own at any size: 1,005 of 330 patients hold 1,222 pairs at 48 x 48 by 0.92
and none at 47 x 47 by 0.985. Of them nothing is looked for: each is known to be another's.

Where more than 100,000 pairs are proposed, only those of closer hashes are looked at: "no two" is of those.

Not found: pictures moved further (by two pixels along both axes 14 to 46 % are), turned, mirrored or cropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter1d

LIMIT = 50_000
"""Images; the time grows with their square."""
DISTANCE = 10
"""Bits that two hashes may differ by."""
SIMILARITY = 0.92
CANDIDATES = 100_000
"""Proposed pairs that are looked at closely; with more, closer hashes are asked for."""
EXAMPLES = 20
GRID = 64
SHIFT = 2
BAND = (1.5, 3.0)
FLAT = 0.002
"""Band-passed images whose values scatter less than this (1 is the range of the codes) show nothing to compare."""
BLOCK = 256
SMALL, SIMILARITY_SMALL = 48, 0.985
"""Pixels a side below which less detail is left to tell people apart, and what a pair then has to agree in."""
SMALLEST = 24
"""Pixels a side below which nothing is looked for."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class NearDuplicates:
    """What was found; no names, and rows of the dataset's arrays only.

    Attributes:
        status: "done", "part" (more alike pairs than could be looked at closely) or "not looked for".
        images: in the dataset.
        pairs: near-duplicates under different patients.
        across_splits: of these, pairs with their images in different splits.
        images_across_splits: images in such a pair.
        examples: row numbers of the first 20 pairs, those across splits first.
        distance: bits by which the hashes of proposed pairs differed at most.
        note: the reason where the status is not "done".
    """

    status: Literal["done", "part", "not looked for"]
    images: int
    pairs: int = 0
    across_splits: int = 0
    images_across_splits: int = 0
    examples: tuple[tuple[int, int], ...] = ()
    distance: int = DISTANCE
    note: str = ""


def near_pairs(
    codes: NDArray[np.uint16], patients: NDArray[np.int64], splits: NDArray[np.uint8], limit: int = LIMIT
) -> NearDuplicates:
    """Looks for the same picture under different patients.

    Args:
        codes: prepared images, may be memory-mapped, [N, 1, H, W].
        patients: patient number of each image, [N].
        splits: split of each image, [N].
        limit: images beyond which nothing is looked for.
    """
    height, width = codes.shape[-2:]
    if min(height, width) < SMALLEST:
        note = f"images of {height} x {width} pixels; below {SMALLEST} different people look alike"
        return NearDuplicates("not looked for", len(codes), note=note)
    if len(codes) > limit:
        note = f"{len(codes):,} images; every one is compared with every other up to {limit:,} only"
        return NearDuplicates("not looked for", len(codes), note=note)
    least = SIMILARITY_SMALL if min(height, width) < SMALL else SIMILARITY
    first, second, distance, whole = _propose(hashes(codes), np.asarray(patients))
    same = np.concatenate(
        [np.zeros(0, bool)]
        + [
            similarity(codes, first[start : start + 1000], second[start : start + 1000]) >= least
            for start in range(0, len(first), 1000)
        ]
    )
    first, second = first[same], second[same]
    apart = splits[first] != splits[second]
    order = np.lexsort((second, first, ~apart))[:EXAMPLES]
    return NearDuplicates(
        status="done" if whole else "part",
        images=len(codes),
        pairs=len(first),
        across_splits=int(apart.sum()),
        images_across_splits=len(np.unique(np.concatenate([first[apart], second[apart]]))),
        examples=tuple((int(first[one]), int(second[one])) for one in order),
        distance=distance,
        note="" if whole else f"only {CANDIDATES:,} of the pairs with equal hashes were looked at closely",
    )


def describe(found: NearDuplicates) -> list[str]:
    """One warning where the same picture lies in several splits, or under several patients."""
    if not found.pairs:
        return []
    least = "at least " if found.status == "part" else ""
    where = f"{found.across_splits} of them in different splits" if found.across_splits else "none in different splits"
    return [
        f"near-duplicates: {least}{found.pairs} pair(s) of images under different patients show almost the same "
        f"picture, {where}; where they are one patient, give them one identity, or test results are too good"
    ]


def hashes(codes: NDArray[np.uint16]) -> NDArray[np.uint64]:
    """Perceptual hash of each image: which low frequencies are above their median.

    The image is averaged down to 32 x 32; of its cosine transform the lowest 8 x 8 coefficients without the constant
    give 63 bits. Brightness and contrast change none of them.

    Args:
        codes: [N, 1, H, W].
    """
    height, width = (_area(side, 32) for side in codes.shape[2:])
    words = np.zeros(len(codes), np.uint64)
    for start in range(0, len(codes), BLOCK):
        small = height @ _floats(codes[start : start + BLOCK]) @ width.T
        low = dctn(small, axes=(1, 2), norm="ortho")[:, :8, :8].reshape(len(small), 64)[:, 1:]
        bits = low > np.median(low, axis=1, keepdims=True)
        words[start : start + BLOCK] = bits @ (np.uint64(1) << np.arange(63, dtype=np.uint64))
    return words


def similarity(codes: NDArray[np.uint16], first: NDArray[np.intp], second: NDArray[np.intp]) -> Floats:
    """Correlation of band-passed images at the best shift, in [-1, 1]; -1 where an image is flat.

    Args:
        codes: [N, 1, H, W].
        first: rows, [P].
        second: rows, [P].
    """
    rows, where = np.unique(np.concatenate([first, second]), return_inverse=True)
    bands = _bands(_floats(codes[rows]))
    one, other = bands[where[: len(first)]], bands[where[len(first) :]]
    inner = GRID - 2 * SHIFT
    middle = other[:, SHIFT : SHIFT + inner, SHIFT : SHIFT + inner]
    middle = middle - middle.mean(axis=(1, 2), keepdims=True)
    best = np.full(len(first), -1.0, np.float32)
    strength = np.sqrt(np.einsum("nij,nij->n", middle, middle))
    for down in range(2 * SHIFT + 1):
        for across in range(2 * SHIFT + 1):
            moved = one[:, down : down + inner, across : across + inner]
            spread = np.einsum("nij,nij->n", moved, moved) - moved.mean(axis=(1, 2)) ** 2 * inner**2
            size = strength * np.sqrt(np.maximum(spread, 0))
            alike = np.einsum("nij,nij->n", moved, middle) / np.maximum(size, 1e-12)
            best = np.maximum(best, np.where(size > (FLAT * inner) ** 2, alike, -1))
    return best


def _propose(
    words: NDArray[np.uint64], patients: NDArray[np.int64]
) -> tuple[NDArray[np.intp], NDArray[np.intp], int, bool]:
    """Pairs of different patients with close hashes: first, second, distance asked for, whether these are all."""
    distance, whole = DISTANCE, True
    first, second, apart = np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0, np.uint8)
    for start in range(0, len(words), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(words)))
        bits = np.bitwise_count(words[rows, None] ^ words[None, start:])
        close = (bits <= distance) & (patients[rows, None] != patients[None, start:])
        above, right = np.nonzero(np.triu(close, 1))
        first = np.concatenate([first, above + start])
        second = np.concatenate([second, right + start])
        apart = np.concatenate([apart, bits[above, right]])
        while len(first) > CANDIDATES and distance > 0:
            distance -= 1
            keep = apart <= distance
            first, second, apart = first[keep], second[keep], apart[keep]
        if len(first) > CANDIDATES:
            whole = False
            first, second, apart = first[:CANDIDATES], second[:CANDIDATES], apart[:CANDIDATES]
    return first, second, distance, whole


def _floats(codes: NDArray[np.uint16]) -> Floats:
    return codes[:, 0].astype(np.float32) / np.float32(np.iinfo(np.uint16).max)


def _bands(images: Floats) -> Floats:
    """Averaged to 64 x 64, and of that what is between 1 and 3 pixels wide (difference of Gaussians)."""
    height, width = (_area(side, GRID) for side in images.shape[1:])
    fine, coarse = (
        gaussian_filter1d(height, sigma, axis=0) @ images @ gaussian_filter1d(width, sigma, axis=0).T for sigma in BAND
    )
    return fine - coarse


def _area(source: int, target: int) -> Floats:
    """Weights [target, source] of each source pixel in the average that a target pixel is."""
    edges = np.arange(target + 1) * source / target
    pixel = np.arange(source)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weights = np.maximum(overlap, 0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
