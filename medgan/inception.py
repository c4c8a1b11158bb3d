"""Inception-v3 as FID knows it: TensorFlow's network of 2015-12-05, which differs from the later published ones.

Szegedy et al. 2015, "Rethinking the Inception Architecture for Computer Vision", figures 5 to 7. What this graph does
its own way, after pytorch-fid and torch-fidelity, whose weights fit here: averages over 3x3 leave the padding out of
account, the last block takes a maximum where the paper has an average, batch normalisation has ε = 0.001 and its
scale is in the weights, images come as (x − 128) / 128, and resizing puts pixel i at i · in / out, without
half a pixel of shift (:func:`resize`). Features are the averages of the last 2,048 maps.

For inference alone: batch normalisation is folded into the convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.records import MedaugError

SIZE = 299
FEATURES = 2048
EPSILON = 0.001


class Conv(nn.Module):
    """Convolution with folded batch normalisation, then ReLU; its padding keeps odd kernels' sizes where asked to."""

    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, same: bool = True):
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (height // 2, width // 2) if same else 0
        self.conv = nn.Conv2d(inputs, outputs, (height, width), stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H, W], smaller at a stride or without padding."""
        return F.relu(self.conv(x), inplace=True)


def average(x: Tensor) -> Tensor:
    """3x3 mean at stride 1 over the pixels that are there."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class BlockA(nn.Module):
    """Figure 5, at 35x35: 1x1, 5x5, two 3x3, and pooling."""

    def __init__(self, inputs: int, pooled: int):
        super().__init__()
        self.branch1x1 = Conv(inputs, 64, 1)
        self.branch5x5_1 = Conv(inputs, 48, 1)
        self.branch5x5_2 = Conv(48, 64, 5)
        self.branch3x3dbl_1 = Conv(inputs, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3)
        self.branch3x3dbl_3 = Conv(96, 96, 3)
        self.branch_pool = Conv(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, 35, 35] -> [N, 224 + pooled, 35, 35]."""
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch5x5_2(self.branch5x5_1(x)),
                self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
                self.branch_pool(average(x)),
            ],
            dim=1,
        )


class BlockB(nn.Module):
    """From 35x35 to 17x17."""

    def __init__(self, inputs: int):
        super().__init__()
        self.branch3x3 = Conv(inputs, 384, 3, stride=2, same=False)
        self.branch3x3dbl_1 = Conv(inputs, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3)
        self.branch3x3dbl_3 = Conv(96, 96, 3, stride=2, same=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, 35, 35] -> [N, 480 + inputs, 17, 17]."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], dim=1)


class BlockC(nn.Module):
    """Figure 6, at 17x17: 7x7 as 1x7 and 7x1, once and twice."""

    def __init__(self, inputs: int, inner: int):
        super().__init__()
        self.branch1x1 = Conv(inputs, 192, 1)
        self.branch7x7_1 = Conv(inputs, inner, 1)
        self.branch7x7_2 = Conv(inner, inner, (1, 7))
        self.branch7x7_3 = Conv(inner, 192, (7, 1))
        self.branch7x7dbl_1 = Conv(inputs, inner, 1)
        self.branch7x7dbl_2 = Conv(inner, inner, (7, 1))
        self.branch7x7dbl_3 = Conv(inner, inner, (1, 7))
        self.branch7x7dbl_4 = Conv(inner, inner, (7, 1))
        self.branch7x7dbl_5 = Conv(inner, 192, (1, 7))
        self.branch_pool = Conv(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, 17, 17] -> [N, 768, 17, 17]."""
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(average(x))], dim=1)


class BlockD(nn.Module):
    """From 17x17 to 8x8."""

    def __init__(self, inputs: int):
        super().__init__()
        self.branch3x3_1 = Conv(inputs, 192, 1)
        self.branch3x3_2 = Conv(192, 320, 3, stride=2, same=False)
        self.branch7x7x3_1 = Conv(inputs, 192, 1)
        self.branch7x7x3_2 = Conv(192, 192, (1, 7))
        self.branch7x7x3_3 = Conv(192, 192, (7, 1))
        self.branch7x7x3_4 = Conv(192, 192, 3, stride=2, same=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, 17, 17] -> [N, 512 + inputs, 8, 8]."""
        long = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat(
            [self.branch3x3_2(self.branch3x3_1(x)), self.branch7x7x3_4(long), F.max_pool2d(x, 3, stride=2)], dim=1
        )


class BlockE(nn.Module):
    """Figure 7, at 8x8: 3x3 as 1x3 beside 3x1; the pooling is an average in the first one, a maximum in the last."""

    def __init__(self, inputs: int, maximum: bool):
        super().__init__()
        self.maximum = maximum
        self.branch1x1 = Conv(inputs, 320, 1)
        self.branch3x3_1 = Conv(inputs, 384, 1)
        self.branch3x3_2a = Conv(384, 384, (1, 3))
        self.branch3x3_2b = Conv(384, 384, (3, 1))
        self.branch3x3dbl_1 = Conv(inputs, 448, 1)
        self.branch3x3dbl_2 = Conv(448, 384, 3)
        self.branch3x3dbl_3a = Conv(384, 384, (1, 3))
        self.branch3x3dbl_3b = Conv(384, 384, (3, 1))
        self.branch_pool = Conv(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, 8, 8] -> [N, 2048, 8, 8]."""
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.maximum else average(x)
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch3x3_2a(single),
                self.branch3x3_2b(single),
                self.branch3x3dbl_3a(double),
                self.branch3x3dbl_3b(double),
                self.branch_pool(pooled),
            ],
            dim=1,
        )


class Inception(nn.Module):
    """Images as bytes, float32 [N, 3, H, W] in 0 to 255, to float32 [N, 2048]. Names are those of the weights' file."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2, same=False)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, same=False)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, same=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = BlockA(192, 32), BlockA(256, 64), BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b, self.Mixed_6c = BlockC(768, 128), BlockC(768, 160)
        self.Mixed_6d, self.Mixed_6e = BlockC(768, 160), BlockC(768, 192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b, self.Mixed_7c = BlockE(1280, maximum=False), BlockE(2048, maximum=True)

    def forward(self, images: Tensor) -> Tensor:
        """float32 [N, 3, H, W] in 0 to 255 -> float32 [N, 2048]."""
        # legend: [N, 3, H, W] → [N, 3, 299, 299]
        with torch.autocast(images.device.type, enabled=False):
            x = (resize(images, SIZE, SIZE) - 128.0) / 128.0
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)  # [N, 64, 73, 73]
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, 3, stride=2)  # [N, 192, 35, 35]
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6a(x)  # [N, 768, 17, 17]
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        x = self.Mixed_7a(x)  # [N, 1280, 8, 8]
        x = self.Mixed_7c(self.Mixed_7b(x))
        return x.float().mean(dim=(2, 3))


def build_inception(weights: Mapping[str, Tensor]) -> Inception:
    """The network from the tensors of a weights file of pytorch-fid or torch-fidelity.

    Raises:
        MedaugError: tensors are missing or have other shapes.
    """
    network = Inception()
    folded: dict[str, Tensor] = {}
    try:
        for name, module in network.named_modules():
            if isinstance(module, Conv):
                scale, shift, mean, variance = (
                    weights[f"{name}.bn.{part}"].double() for part in ("weight", "bias", "running_mean", "running_var")
                )
                gain = scale / (variance + EPSILON).sqrt()
                kernel = weights[f"{name}.conv.weight"].double() * gain[:, None, None, None]
                folded[f"{name}.conv.weight"] = kernel.float()
                folded[f"{name}.conv.bias"] = (shift - mean * gain).float()
        network.load_state_dict(folded)
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise MedaugError(
            f"Inception weights: do not fit the network ({reason}); expected pytorch-fid's file"
        ) from None
    return network.eval().requires_grad_(False)


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """Bilinear resizing as TensorFlow 1 does it (``align_corners=False``): output pixel i lies at i · in / out.

    Args:
        images: float32 [N, C, H, W].
        height: of the output.
        width: of the output.

    Returns:
        float32 [N, C, height, width].
    """
    rows, columns = (
        _interpolation(size, target, images) for size, target in zip(images.shape[2:], (height, width), strict=True)
    )
    return rows @ images @ columns.T


def _interpolation(size: int, target: int, like: Tensor) -> Tensor:
    """Matrix [target, size] of the weights along one axis."""
    position = torch.arange(target, dtype=torch.float32, device=like.device) * (size / target)
    lower = position.long()
    upper = (lower + 1).clamp(max=size - 1)
    share = position - lower
    index = torch.arange(target, device=like.device)
    matrix = torch.zeros(target, size, device=like.device)
    matrix[index, lower] = 1.0 - share
    matrix[index, upper] += share
    return matrix
