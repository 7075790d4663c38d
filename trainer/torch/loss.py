"""Assignment and loss of the detector.

Centre-based top-k assignment and an ignored ring as CPMNetv2 (zunzhumu/CPMNetv2), focal loss (Lin et
al. 2017) over positives and the hardest negatives, smooth L1 for offsets and log diameters. All in
float32: under bf16 or fp16 the logarithms lose what small probabilities hold.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as fn

from hilum_net import STRIDE
from settings import Loss

NODULE, IGNORED, NOTHING = 1.0, 0.0, -1.0  # what a row of the truth is


def cells(shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Return the voxel (z, y, x) of every cell of an output grid, [cells, 3]."""
    axes = [torch.arange(n, device=device, dtype=torch.float32) * STRIDE + (STRIDE - 1) / 2 for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def assign(truth: Tensor, shape: tuple[int, int, int], s: Loss) -> tuple[Tensor, Tensor, Tensor]:
    """Give each cell a nodule.

    truth [N, K, 5]: z, y, x, diameter in voxels, and what it is. Returns positive [N, C] bool, negative
    [N, C] bool (neither: ignored) and which [N, C], the row of truth of a positive cell.
    """
    at = cells(shape, truth.device)
    kind, radius = truth[..., 4], truth[..., 3] / 2
    far = torch.linalg.vector_norm(at[None, None] - truth[:, :, None, :3], dim=-1)  # [N, K, C]
    nodule = (kind == NODULE)[..., None]
    reach = torch.clamp(radius / 2, min=s.near)[..., None]
    ring = torch.where(kind == NODULE, torch.clamp(1.1 * radius, min=s.ring), radius)[..., None]
    wanted = torch.where(nodule & (far <= reach), far, torch.inf)
    k = min(s.top_k, far.shape[-1])
    limit = torch.topk(wanted, k, dim=-1, largest=False).values[..., -1:]
    chosen = torch.isfinite(wanted) & (wanted <= limit)
    positive = chosen.any(1)
    ignored = ((kind != NOTHING)[..., None] & (far <= ring)).any(1) & ~positive
    which = torch.where(chosen, far, torch.inf).argmin(1)
    return positive, ~positive & ~ignored, which


def detector_loss(out: Tensor, truth: Tensor, s: Loss, anchor: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of [N, d, h, w, 1, 5] outputs and the sums that the log line is made of."""
    n = out.shape[0]
    shape = (out.shape[1], out.shape[2], out.shape[3])
    flat = out.float().reshape(n, -1, 5)
    positive, negative, which = assign(truth, shape, s)
    nodules = (truth[..., 4] == NODULE).sum()
    logit = flat[..., 0]
    p = torch.sigmoid(logit)
    hit = positive.sum()
    norm = hit.clamp(min=1)
    pos = s.alpha * ((1 - p).pow(s.gamma) * fn.softplus(-logit))[positive].sum() / norm
    each = (1 - s.alpha) * p.pow(s.gamma) * fn.softplus(logit)
    each = torch.where(negative, each, torch.zeros_like(each)).reshape(-1)
    hardest = min(each.numel(), s.hardest * (int(nodules) + n))
    neg = torch.topk(each, hardest, sorted=False).values.sum() / norm.clamp(min=n)
    at = cells(shape, out.device)[None].expand(n, -1, -1)[positive]
    mine = torch.gather(truth, 1, which[..., None].expand(-1, -1, 5))[positive]
    wanted = torch.cat([(mine[:, :3] - at) / anchor, torch.log(mine[:, 3:4] / anchor)], 1)
    parts = fn.smooth_l1_loss(flat[positive][:, 1:], wanted, beta=0.1, reduction="none").sum(0) / norm
    loss = 4 * (pos + neg) + s.offset * parts[:3].sum() + s.size * parts[3]
    with torch.no_grad():
        sums = {
            "loss": loss.detach(),
            "classify": (4 * (pos + neg)).detach(),
            "z": parts[0].detach(),
            "y": parts[1].detach(),
            "x": parts[2].detach(),
            "d": parts[3].detach(),
            "tp": (p[positive] >= 0.5).sum(),
            "pos": hit,
            "tn": (p[negative] < 0.5).sum(),
            "neg": negative.sum(),
        }
    return loss, sums
