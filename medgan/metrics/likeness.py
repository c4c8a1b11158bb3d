"""Whether two images show the same picture: normalised cross-correlation of band-passed images at the best shift.

Images of different people share their coarse anatomy; what tells a copy is agreement in detail. So images (averaged
down to at most 64 pixels) are reduced to structures a few pixels wide, a difference of two Gaussian blurs, and
correlated at every shift of up to two pixels along both axes. Brightness and contrast drop out; a changed gamma nearly.

    s(x, y) = max over shifts t of ⟨x̃ₜ, ỹ⟩,    x̃ = (x − mean x) / ‖x − mean x‖ over the overlap

Correlations are matrix products in blocks, in float32 (their rounding is 1e-6): no N×M matrix is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from medgan.metrics.images import BLOCK, shrink

GRID = 64
SHIFT = 2
BAND = (0.7, 2.0)
"""Deviations of the two Gaussian blurs in pixels of the grid."""
FLAT = 0.002
"""Band-passed images whose values scatter less (of a range of 2) show nothing to compare: they resemble none."""
QUERIES, GALLERY = 512, 4096
"""Images in a block of the matrix product."""


@dataclass(frozen=True)
class Matches:
    """The most alike image of a gallery for each query.

    Attributes:
        similarity: float64 [M], -1 to 1; 0 for a flat image, -1 where there is none to compare with.
        index: place in the gallery, int64 [M].
    """

    similarity: torch.Tensor
    index: torch.Tensor


def bands(grey: torch.Tensor) -> torch.Tensor:
    """What is compared: float32 [N, h, w] of images [N, H, W] in [-1, 1], at most 64 pixels a side."""
    blocks = []
    for images in grey.split(BLOCK):
        small = shrink(images.float(), GRID)
        blocks.append(_blur(small, BAND[0]) - _blur(small, BAND[1]))
    return torch.cat(blocks)


def _blur(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of [N, H, W], the border's values continued."""
    reach = round(3 * sigma)
    place = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = (-(place**2) / (2 * sigma**2)).exp()
    kernel /= kernel.sum()
    padded = F.pad(images[:, None], (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.reshape(1, 1, -1, 1)), kernel.reshape(1, 1, 1, -1))[:, 0]


def best_matches(
    queries: torch.Tensor,
    gallery: torch.Tensor,
    query_owner: torch.Tensor | None = None,
    gallery_owner: torch.Tensor | None = None,
    shift: int = SHIFT,
) -> Matches:
    """For each query the most alike image of the gallery.

    Args:
        queries: from :func:`bands`, [M, h, w].
        gallery: from :func:`bands`, [N, h, w].
        query_owner: with ``gallery_owner``, images of one owner (patient) are not compared, int64 [M].
        gallery_owner: int64 [N].
        shift: pixels along both axes up to which queries are moved.
    """
    height, width = (side - 2 * shift for side in gallery.shape[1:])
    middle = _unit(gallery[:, shift : shift + height, shift : shift + width])
    best = torch.full((len(queries),), -1.0)
    index = torch.zeros(len(queries), dtype=torch.int64)
    for start in range(0, len(queries), QUERIES):
        rows = slice(start, start + QUERIES)
        for down in range(2 * shift + 1):
            for across in range(2 * shift + 1):
                moved = _unit(queries[rows, down : down + height, across : across + width])
                for first in range(0, len(middle), GALLERY):
                    columns = slice(first, first + GALLERY)
                    alike = moved @ middle[columns].T
                    if query_owner is not None and gallery_owner is not None:
                        alike.masked_fill_(query_owner[rows, None] == gallery_owner[None, columns], -1.0)
                    value, place = alike.max(dim=1)
                    better = value > best[rows]
                    best[rows] = torch.where(better, value, best[rows])
                    index[rows] = torch.where(better, place + first, index[rows])
    return Matches(best.double(), index)


def _unit(images: torch.Tensor) -> torch.Tensor:
    """Flattened, of mean 0 and length 1, [N, h, w] to [N, hw]; flat ones are 0 and resemble nothing."""
    values = images.flatten(1)
    values = values - values.mean(dim=1, keepdim=True)
    return torch.where(is_flat(images)[:, None], 0.0, F.normalize(values, dim=1))


def is_flat(images: torch.Tensor) -> torch.Tensor:
    """Which band-passed images [N, h, w] show nothing, bool [N]."""
    return images.flatten(1).std(dim=1, correction=0) <= FLAT
