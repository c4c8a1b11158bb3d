"""Scans as PNG inside the page: exact grey values, whole-number enlargement."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.report.estimates import Evidence

TILE = 96
"""Smaller images are enlarged, by repeating pixels, to at least this many."""

LARGEST, LARGEST_STEP = 256, 96
"""Larger ones are averaged down to at most this many (in a walk), so that the page stays one that can be mailed."""


@dataclass(frozen=True)
class Picture:
    """A sheet of images, or the reason why there is none.

    Attributes:
        uri: data URI of a PNG; "" where there is none.
        width: its width in pixels.
        height: its height in pixels.
        shown: images on it.
        why: the reason, where there is none.
    """

    uri: str = ""
    width: int = 0
    height: int = 0
    shown: int = 0
    why: str = ""


@dataclass(frozen=True)
class Source:
    """Where images come from: the real training scans or a GAN.

    Attributes:
        name: "real" or the preset's name.
        colour: the GAN's colour; "" for real.
        note: which seed.
        why: the reason, where there are no images.
        sheets: one for each class.
        walks: one latent walk for each class; empty for real scans.
    """

    name: str
    colour: str
    note: str
    why: str
    sheets: tuple[Picture, ...]
    walks: tuple[Picture, ...]


def sources(evidence: Evidence) -> tuple[Source, ...]:
    """Real scans first, then every GAN: the first images in the order in which they were drawn."""
    found = [Source("real", "", "training scans", "", _sheets(evidence.data.real_samples, evidence.classes), ())]
    for gan in evidence.gans:
        drawn = next((one for one in gan.trainings if one.samples is not None), None)
        if drawn is None:
            why = gan.status if gan.unfinished else "nothing was drawn"
            found.append(Source(gan.name, gan.colour, "", why, (), ()))
            continue
        note = f"seed {drawn.seed}" + (f" of {len(gan.trainings)} trainings" if len(gan.trainings) > 1 else "")
        sheets = _sheets(drawn.samples, evidence.classes)
        found.append(Source(gan.name, gan.colour, note, "", sheets, _walks(drawn.samples, len(evidence.classes))))
    return tuple(found)


def _sheets(folder: Path | None, classes: tuple[str, ...]) -> tuple[Picture, ...]:
    """One sheet a class from ``<label>.npy``, or from ``<class>.npy`` where not every label has its file."""
    if folder is None:
        return tuple(Picture(why="no samples") for _ in classes)
    files = [folder / f"{label}.npy" for label in range(len(classes))]
    if not all(file.is_file() for file in files):
        files = [folder / f"{name}.npy" for name in classes]
    arrays = [_read(file, (3, 4)) for file in files]
    none = Picture(why="no samples of this class")
    return tuple(none if images is None else _square(images) for images in arrays)


def _square(images: NDArray[np.uint8]) -> Picture:
    """The first nine images, or of large ones, which need the room, the first four."""
    side = 3 if max(images.shape[1:3]) <= TILE else 2
    return sheet(images[: side * side], side)


def _walks(folder: Path | None, classes: int) -> tuple[Picture, ...]:
    walk = None if folder is None else _read(folder / "walk.npy", (4, 5))
    if walk is None or len(walk) != classes:
        return ()
    return tuple(sheet(steps, len(steps), gap=0, largest=LARGEST_STEP) for steps in walk)


def _read(file: Path, dimensions: tuple[int, int]) -> NDArray[np.uint8] | None:
    """A uint8 array, or None where the file is missing, damaged or something else: a report is made regardless."""
    try:
        array: NDArray[Any] = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    grey = array.ndim == dimensions[0]
    colour = array.ndim == dimensions[1] and array.shape[-1] == 3
    return array if array.dtype == np.uint8 and array.size and (grey or colour) else None


def sheet(images: NDArray[np.uint8], columns: int, gap: int = 4, largest: int = LARGEST) -> Picture:
    """Lays images out row by row.

    Args:
        images: uint8 [n, H, W] or [n, H, W, 3].
        columns: images in a row.
        gap: transparent pixels between images.
        largest: images larger than this are averaged down to it at most.

    Returns:
        A PNG with an alpha channel: grey stays grey, every source pixel becomes a square of equal pixels.
    """
    tiles = [_scaled(image, largest) for image in images]
    height, width = tiles[0].shape[:2]
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    depth = 4 if tiles[0].ndim == 3 else 2
    canvas = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, depth), np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        canvas[y : y + height, x : x + width, : depth - 1] = tile if tile.ndim == 3 else tile[..., None]
        canvas[y : y + height, x : x + width, depth - 1] = 255
    stream = io.BytesIO()
    Image.fromarray(canvas).save(stream, format="PNG")
    uri = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
    return Picture(uri, canvas.shape[1], canvas.shape[0], len(tiles))


def _scaled(image: NDArray[np.uint8], largest: int) -> NDArray[np.uint8]:
    size = max(image.shape[:2])
    if size > largest:
        return np.asarray(Image.fromarray(image).reduce(-(-size // largest)))
    times = max(1, -(-TILE // size))
    return image.repeat(times, axis=0).repeat(times, axis=1)
