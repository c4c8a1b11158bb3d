"""Training images resident on the device: no loader, no copies between host and device in a step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medgan.ranks import own
from medgan.seeds import seeded
from pipeline.codes import CODE_MAX
from pipeline.dataset import ScanDataset


class ResidentImages:
    """All images of a dataset on the device as 16-bit codes, drawn in shuffled epochs.

    The order of epoch k follows from the seed and k alone, so the position is one number: images drawn so far.

    Args:
        data: the scans to train on.
        seed: of the order.
        device: where they stay.
    """

    def __init__(self, data: ScanDataset, seed: int, device: torch.device):
        codes = np.asarray(data.codes[data.rows])
        signed = (codes ^ np.uint16(1 << 15)).view(np.int16)  # torch gathers int16, but hardly anything in uint16
        self.codes = torch.from_numpy(signed).to(device)
        self.labels = torch.from_numpy(np.asarray(data.labels)).to(device)
        self.seed = seed
        self.device = device
        self._orders: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def draw(self, position: int, count: int) -> tuple[Tensor, Tensor]:
        """The images after ``position`` and their labels; of several processes each gets its share (``ranks.own``).

        Returns:
            float32 [count, C, H, W] in [-1, 1], channels last; int64 [count].
        """
        places = range(position, position + count)
        first, last = places[0] // len(self), places[-1] // len(self)
        self._orders = {epoch: self._order(epoch) for epoch in range(first, last + 1)}
        start = position - first * len(self)
        rows = own(torch.cat(list(self._orders.values()))[start : start + count])
        images = (self.codes[rows].float() + (1 << 15)) * (2.0 / CODE_MAX) - 1.0
        return images.contiguous(memory_format=torch.channels_last), self.labels[rows]

    def _order(self, epoch: int) -> Tensor:
        if epoch in self._orders:
            return self._orders[epoch]
        return torch.randperm(len(self), generator=seeded(self.seed, "epoch", epoch)).to(self.device)
