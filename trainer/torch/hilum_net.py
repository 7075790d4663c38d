"""hilum-net: a one-stage, anchor-free nodule detector of any width.

A stride-2 stem, residual blocks at strides 2, 4, 8 and 16, an additive way back up to stride 4 and
one head. With the default widths 3.5 M parameters and about 3 GMAC for 64³ voxels, a fifth of
N-NET's cost per voxel: on every device the time follows the MACs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from settings import Net, Refused

STRIDE = 4  # voxels between cells of the output
MULTIPLE = 16  # voxels: a patch's sides must be multiples


def norm_conv(inner: int, outer: int, size: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution without bias and its BatchNorm, which an export folds into it."""
    return nn.Sequential(nn.Conv3d(inner, outer, size, stride, size // 2, bias=False), nn.BatchNorm3d(outer))


class Residual(nn.Module):
    """Two 3³ convolutions around which the input goes."""

    def __init__(self, inner: int, outer: int, stride: int = 1) -> None:
        super().__init__()
        self.first = norm_conv(inner, outer, 3, stride)
        self.second = norm_conv(outer, outer, 3)
        same = inner == outer and stride == 1
        self.around = nn.Identity() if same else norm_conv(inner, outer, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.around(x) + self.second(torch.relu(self.first(x))))


class HilumNet(nn.Module):
    """Detector: [N, 1, D, H, W] scaled voxels to [N, D/4, H/4, W/4, 1, 5].

    The last axis is logit, dz, dy, dx in units of the anchor, log(diameter/anchor); cell i stands at
    voxel 4·i + 1.5, the layout of models/README.md.
    """

    def __init__(self, settings: Net) -> None:
        super().__init__()
        w, blocks = settings.widths, settings.blocks
        if len(w) != 4 or len(blocks) != 4 or min(blocks) < 1 or min(w) < 1:
            raise Refused("net.widths and net.blocks must have four positive numbers, for strides 2, 4, 8 and 16")
        self.stem = norm_conv(1, w[0], 5, 2)
        self.levels = nn.ModuleList()
        inner = w[0]
        for level, (width, count) in enumerate(zip(w, blocks, strict=True)):
            first = Residual(inner, width, 1 if level == 0 else 2)
            self.levels.append(nn.Sequential(first, *(Residual(width, width) for _ in range(count - 1))))
            inner = width
        self.up3 = nn.ConvTranspose3d(w[3], w[2], 2, 2)
        self.mix2 = Residual(w[2], w[2])
        self.up2 = nn.ConvTranspose3d(w[2], w[1], 2, 2)
        self.head = nn.Sequential(norm_conv(w[1], settings.head, 3), nn.ReLU(), nn.Conv3d(settings.head, 5, 1))
        last = self.head[-1]
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)
        nn.init.constant_(last.bias[:1], -math.log(0.99 / 0.01))  # a prior of .01, as RetinaNet's

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.levels[0](torch.relu(self.stem(x)))
        x2 = self.levels[1](x1)
        x3 = self.levels[2](x2)
        x4 = self.levels[3](x3)
        y = self.mix2(x3 + self.up3(x4))
        y = self.head(x2 + self.up2(y))
        return y.permute(0, 2, 3, 4, 1).unsqueeze(4)
