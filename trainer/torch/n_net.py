"""n-net and c-net: the detector and the case classifier of the system that this project goes back to.

The networks of the DSB2017 winner (Liao et al. 2019, arXiv:1711.08324) in its LUNA16 adaptation, kept
as the baseline that hilum-net is compared with. Lengths and positions in voxels (1 mm), axes z, y, x.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from settings import CNet, NNet, Refused

STRIDE = 4  # voxels between cells of the output
MULTIPLE = 16  # voxels: a patch's sides must be multiples


class Residual(nn.Module):
    """Two 3³ convolutions around which the input goes."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.first = conv(inner, outer, 3)
        self.second = conv(outer, outer, 3)
        self.around = nn.Identity() if inner == outer else conv(inner, outer, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.around(x) + self.second(torch.relu(self.first(x))))


def conv(inner: int, outer: int, size: int) -> nn.Sequential:
    """Return a convolution with bias, as published, and its BatchNorm."""
    return nn.Sequential(nn.Conv3d(inner, outer, size, 1, size // 2), nn.BatchNorm3d(outer))


def residuals(inner: int, outer: int, count: int) -> nn.Sequential:
    """Return residual blocks, the first of which changes the channels."""
    return nn.Sequential(*(Residual(outer if k else inner, outer) for k in range(count)))


def up(width: int, outer: int) -> nn.Sequential:
    """Return a transposed convolution to twice the size."""
    return nn.Sequential(nn.ConvTranspose3d(width, outer, 2, 2), nn.BatchNorm3d(outer), nn.ReLU())


class NNetwork(nn.Module):
    """Detector: scaled voxels [N, 1, D, H, W] and their place [N, 3, D/4, H/4, W/4] (places())
    to [N, D/4, H/4, W/4, anchors, 5]: logit, dz, dy, dx in anchors, log(diameter/anchor).

    Cell i stands at voxel 4·i + 1.5. With the default widths 5,383,623 parameters and 168.7 GMAC
    for 128³ voxels.
    """

    def __init__(self, s: NNet) -> None:
        super().__init__()
        w, back = s.widths, s.back
        if len(w) != 4 or len(s.blocks) != 4 or len(back) != 2 or not s.anchors:
            raise Refused("net.widths and net.blocks must have four numbers, net.back two, net.anchors one or more")
        self.pre = nn.Sequential(conv(1, s.first, 3), nn.ReLU(), conv(s.first, s.first, 3), nn.ReLU())
        inner = (s.first, *w[:3])
        self.levels = nn.ModuleList(residuals(i, o, n) for i, o, n in zip(inner, w, s.blocks, strict=True))
        self.up3 = up(w[3], w[3])
        self.mix3 = residuals(w[3] + w[2], back[0], 3)
        self.up2 = up(back[0], back[0])
        self.mix2 = residuals(back[0] + w[1] + 3, back[1], 3)
        self.drop = nn.Dropout3d(s.dropout)
        self.anchors = len(s.anchors)
        self.head = nn.Sequential(nn.Conv3d(back[1], s.head, 1), nn.ReLU(), nn.Conv3d(s.head, 5 * self.anchors, 1))

    def features(self, x: Tensor, place: Tensor) -> Tensor:
        """Return the map at stride 4 that both networks read."""
        found = []
        x = self.pre(x)
        for level in self.levels:
            x = level(fn.max_pool3d(x, 2))
            found.append(x)
        y = self.mix3(torch.cat([self.up3(found[3]), found[2]], 1))
        return self.mix2(torch.cat([self.up2(y), found[1], place], 1))

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        y = self.head(self.drop(self.features(x, place)))
        n, _, d, h, w = y.shape
        return y.reshape(n, self.anchors, 5, d, h, w).permute(0, 3, 4, 5, 1, 2)


class CNetwork(nn.Module):
    """Case classifier on n-net's features; it holds the n-net, and both are trained in turn.

    cases: scaled crops [N, K, 1, D, H, W] around the proposals, places [N, K, 3, D/4, ...] and
    present [N, K] (a case may have fewer) to logits [N, K]; case() makes them a probability.
    """

    def __init__(self, net: NNet, s: CNet) -> None:
        super().__init__()
        self.n_net = NNetwork(net)
        self.drop = nn.Dropout(s.dropout)
        self.fc1 = nn.Linear(net.back[1], s.hidden)
        self.fc2 = nn.Linear(s.hidden, 1)
        self.base = nn.Parameter(torch.tensor([s.base]))

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        if x.ndim == 5:
            return self.n_net(x, place)
        n, k = x.shape[:2]
        y = self.n_net.features(x.flatten(0, 1), place.flatten(0, 1))
        a, b, c = (v // 2 - 1 for v in y.shape[2:])
        y = y[:, :, a : a + 2, b : b + 2, c : c + 2].amax((2, 3, 4))  # the 2³ cells in the middle
        return self.fc2(self.drop(torch.relu(self.fc1(self.drop(y))))).reshape(n, k)

    def case(self, logits: Tensor, present: Tensor) -> Tensor:
        """Return the leaky noisy-or 1 - (1 - p_base)·Π(1 - pᵢ) of logits [N, K], [N]."""
        none = (fn.logsigmoid(-logits.float()) * present).sum(1) + fn.logsigmoid(-self.base.float())
        return -torch.expm1(none)


def places(start: Tensor, size: Tensor, cells: tuple[int, int, int], shape: Tensor) -> Tensor:
    """Return the position map [3, cells]: where each cell stands in its scan, -0.5..0.5.

    start and size: the crop's box in voxels of the scan; shape: of the scan.
    """
    axes = [(start[k] + torch.linspace(0.0, 1.0, cells[k]) * float(size[k])) / float(shape[k]) - 0.5 for k in range(3)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).float()


def decode(out: Tensor, anchors: tuple[float, ...], least: float) -> Tensor:
    """Return the boxes [n, 5] of one patch's output [d, h, w, anchors, 5] with a logit above `least`:
    logit, z, y, x, diameter in voxels of the patch."""
    cell = torch.nonzero(out[..., 0] > least)
    rows = out[tuple(cell.T)].float()
    size = torch.tensor(anchors, device=out.device)[cell[:, 3]]
    at = cell[:, :3] * STRIDE + (STRIDE - 1) / 2 + rows[:, 1:4] * size[:, None]
    return torch.cat([rows[:, :1], at, (rows[:, 4].clamp(-4, 4).exp() * size)[:, None]], 1)


def cube_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return intersection over union of cubes [n, 4] and [m, 4] (z, y, x, side), [n, m]."""
    lo = torch.maximum(a[:, None, :3] - a[:, None, 3:] / 2, b[None, :, :3] - b[None, :, 3:] / 2)
    hi = torch.minimum(a[:, None, :3] + a[:, None, 3:] / 2, b[None, :, :3] + b[None, :, 3:] / 2)
    both = (hi - lo).clamp(min=0).prod(2)
    return both / (a[:, None, 3] ** 3 + b[None, :, 3] ** 3 - both)


def suppress(boxes: Tensor, overlap: float, most: int) -> Tensor:
    """Return the best boxes that overlap no better one by `overlap` or more, the best first."""
    boxes = boxes[boxes[:, 0].argsort(descending=True, stable=True)]
    kept = boxes[:0]
    while len(boxes) and len(kept) < most:
        kept = torch.cat([kept, boxes[:1]])
        boxes = boxes[1:][cube_iou(boxes[:1, 1:], boxes[1:, 1:])[0] < overlap]
    return kept


@torch.no_grad()
def propose(net: NNetwork, voxels: Tensor, s: NNet, c: CNet, pad: int, most: int = 50) -> Tensor:
    """Return the proposals [n, 5] (logit, z, y, x, diameter) of n-net in a whole scan of bytes [D, H, W]."""
    device = next(net.parameters()).device
    side, shape = s.core + 2 * s.margin, torch.tensor(voxels.shape)
    found = [torch.zeros(0, 5)]
    counts = [math.ceil(n / s.core) for n in voxels.shape]
    room = [(s.margin, k * s.core - n + s.margin) for k, n in zip(counts, voxels.shape, strict=True)]
    padded = fn.pad(voxels, [v for pair in reversed(room) for v in pair], value=pad)
    for cell in torch.cartesian_prod(*(torch.arange(k) for k in counts)).reshape(-1, 3):
        a = (cell * s.core).tolist()
        patch = padded[a[0] : a[0] + side, a[1] : a[1] + side, a[2] : a[2] + side]
        start = cell * s.core - s.margin
        place = places(start, torch.tensor([side] * 3), (side // STRIDE,) * 3, shape)
        out = net(((patch.float() - 128) / 128).to(device)[None, None], place.to(device)[None])[0].cpu()
        boxes = decode(out, s.anchors, c.logit)
        at = boxes[:, 1:4] - s.margin
        boxes = boxes[((at >= 0) & (at < s.core)).all(1)]
        boxes[:, 1:4] += start
        found.append(boxes)
    every = torch.cat(found)
    every = every[((every[:, 1:4] >= 0) & (every[:, 1:4] < shape)).all(1)]
    return suppress(every[every[:, 0].argsort(descending=True, stable=True)][:5000], c.overlap, most)
