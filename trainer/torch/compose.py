"""Composes training crops: real and simulated nodules in real lungs.

As the first trial of this project (and Pezeshk et al., PMC5509514) a crop of a background is turned,
scaled and mirrored, nodules are pasted where they occur, blurred along z to the background's slices,
as the larger of the two where there is tissue; then all is blurred, sharpened, made noisy alike, so
that the paste itself is no cue. Tubes, forks and plates are pasted in the same way and are no nodules.
Crop i depends on the seed and i alone. HU in float32, positions z, y, x in voxels of the crop (1 mm).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as fn

from loss import IGNORED, NODULE, NOTHING
from settings import Compose
from sources import Background, Nodule, Sources

ROWS = 12  # of truth in a crop, filled up with NOTHING
SIGMA = 1 / 2.355  # of a Gaussian per full width at half maximum


def turn(rng: np.random.Generator, tilt: float, spread: tuple[float, float]) -> np.ndarray:
    """Return a random matrix (z, y, x): rotation, mirrors, transposition in plane, scale of each axis."""
    a, b, c = np.radians([rng.uniform(-tilt, tilt), rng.uniform(-tilt, tilt), rng.uniform(-30, 30)])
    rx = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    ry = np.array([[np.cos(b), 0, -np.sin(b)], [0, 1, 0], [np.sin(b), 0, np.cos(b)]])
    rz = np.array([[1, 0, 0], [0, np.cos(c), -np.sin(c)], [0, np.sin(c), np.cos(c)]])
    m = rx @ ry @ rz
    if rng.random() < 0.5:
        m = m[[0, 2, 1]]
    scale = np.exp(rng.uniform(np.log(spread[0]), np.log(spread[1]))) * np.exp(rng.uniform(-0.08, 0.08, 3))
    return m * rng.choice([-1.0, 1.0], 3) / scale[:, None]


def sampling(shape: np.ndarray, centre: np.ndarray, m: np.ndarray, size: int) -> Tensor:
    """Return the grid for grid_sample that looks at centre + p·m for every voxel p of a cube around 0."""
    # grid_sample counts x, y, z from -1 to 1 between the outer sides of the first and last voxels. The sum of one
    # line for each axis is four times as fast as affine_grid.
    to = np.diag(2 / shape[::-1])
    p = np.arange(size) - (size - 1) / 2
    z, y, x = (torch.tensor(np.outer(p, to @ m[axis][::-1]), dtype=torch.float32) for axis in range(3))
    x += torch.tensor(to @ (centre[::-1] + 0.5) - 1, dtype=torch.float32)
    return (z[:, None, None] + (y[:, None] + x))[None]


def cut(volumes: list[np.ndarray], centre: np.ndarray, m: np.ndarray, size: int, outside: list[float]) -> np.ndarray:
    """Sample volumes of one shape at centre + p·m for every voxel p of a cube around 0, linearly."""
    lo, hi = corners(centre, m, size, np.array(volumes[0].shape))
    if (hi - lo).min() < 2:
        return np.stack([np.full((size,) * 3, o, np.float32) for o in outside])
    box = tuple(slice(a, b) for a, b in zip(lo, hi, strict=True))
    part = np.stack([v[box].astype(np.float32) - o for v, o in zip(volumes, outside, strict=True)])
    grid = sampling((hi - lo).astype(float), centre - lo, m, size)
    out = fn.grid_sample(torch.from_numpy(part)[None], grid, align_corners=False)[0].numpy()
    return out + np.array(outside, np.float32)[:, None, None, None]


def corners(centre: np.ndarray, m: np.ndarray, size: int, shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the box of the volume that a cut needs."""
    reach = np.abs(m.T) @ np.full(3, size / 2) + 2
    lo = np.clip(np.floor(centre - reach), 0, shape).astype(int)
    hi = np.clip(np.ceil(centre + reach) + 1, 0, shape).astype(int)
    return lo, hi


def smooth_noise(rng: np.random.Generator, size: int, length: float) -> np.ndarray:
    """Return a smooth random field of mean 0 and deviation 1 with features of `length` voxels."""
    n = max(3, int(np.ceil(size / length)) + 1)
    coarse = torch.tensor(rng.standard_normal((1, 1, n, n, n)), dtype=torch.float32)
    out = fn.interpolate(coarse, size=(size,) * 3, mode="trilinear", align_corners=True)[0, 0].numpy()
    return (out - out.mean()) / (out.std() + 1e-6)


class Composer:
    """Makes crops from sources."""

    def __init__(self, sources: Sources, s: Compose, seed: int, inner: int = 5) -> None:
        """Make a composer that pastes nodules at least `inner` voxels inside the crop's sides."""
        self.s, self.seed, self.inner = s, seed, inner
        self.scans = [b for b in sources.backgrounds if not b.context and len(b.inside)]
        self.contexts = [b for b in sources.backgrounds if b.context]
        self.nodules = sorted(sources.nodules, key=lambda n: n.diameter)
        self.sizes = np.array([n.diameter for n in self.nodules])
        lo, hi = sources.prepare.get("window_hu", (-1200.0, 600.0))
        self.lo, self.step = float(lo), (hi - lo) / 255
        self.pad = float(sources.prepare.get("pad_value", 170))
        weight = np.array([len(b.inside) for b in self.scans], float) ** 0.5
        self.weight = weight / weight.sum()

    def crop(self, index: int) -> tuple[Tensor, Tensor]:
        """Return crop `index`: bytes [1, size, size, size] as uint8 and truth [ROWS, 5]."""
        rng = np.random.default_rng([self.seed, index])
        s = self.s
        hu, edge, thick, truth = self.look(rng, *self.place(rng))
        taken = [t.copy() for t in truth]
        if rng.random() < s.distractors:
            for _ in range(rng.integers(1, 3)):
                hu = self.distract(rng, hu, edge, thick)
        if rng.random() >= s.empty:
            for _ in range(rng.integers(1, s.most + 1)):
                hu = self.paste(rng, hu, edge, thick, truth, taken)
        rows = np.full((ROWS, 5), NOTHING, np.float32)
        for k, row in enumerate(truth[:ROWS]):
            rows[k] = row
        return torch.from_numpy(self.bytes(self.degrade(rng, hu)))[None], torch.from_numpy(rows)

    def place(self, rng: np.random.Generator) -> tuple[Background, np.ndarray]:
        """Draw a background and the voxel that the crop's middle looks at."""
        s, size = self.s, self.s.crop
        if self.contexts and rng.random() < s.context:
            b = self.contexts[rng.integers(len(self.contexts))]
            return b, b.truth[rng.integers(len(b.truth)), :3] + rng.uniform(-size / 3, size / 3, 3)
        b = self.scans[rng.choice(len(self.scans), p=self.weight)]
        if len(b.mined) and rng.random() < s.mined:
            return b, b.mined[rng.integers(len(b.mined)), :3] + rng.uniform(-size / 4, size / 4, 3)
        if (b.truth[:, 4] == NODULE).any() and rng.random() < 0.7:
            own = b.truth[b.truth[:, 4] == NODULE]
            return b, own[rng.integers(len(own)), :3] + rng.uniform(-size / 3, size / 3, 3)
        some = b.rim if rng.random() < 0.4 and len(b.rim) else b.inside
        return b, some[rng.integers(len(some))] + rng.uniform(-8, 8, 3)

    def look(
        self, rng: np.random.Generator, b: Background, at: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, float, list[np.ndarray]]:
        """Cut a crop, turned and scaled: HU, mm to the lung's edge, slice thickness, the background's own truth."""
        at = at.astype(np.float64)
        m = turn(rng, 12, (0.85, 1.2))
        both = cut([b.voxels, b.edge], at, m, self.s.crop, [self.pad, -24.0])
        grow = float(np.abs(np.linalg.det(m))) ** (-1 / 3)
        return self.hu(both[0]), both[1] * grow, b.slice_mm * grow, self.carried(b, at, m, grow)

    def bytes(self, hu: np.ndarray) -> np.ndarray:
        """Return HU as the window's bytes."""
        return np.clip((hu - self.lo) / self.step + 0.5, 0, 255).astype(np.uint8)

    def hu(self, values: np.ndarray) -> np.ndarray:
        return values * self.step + self.lo

    def carried(self, b: Background, at: np.ndarray, m: np.ndarray, grow: float) -> list[np.ndarray]:
        """Return the background's own truth in the crop; what its edge cuts is ignored."""
        out, size = [], self.s.crop
        back = np.linalg.inv(m)
        for row in b.truth:
            p = (row[:3].astype(np.float64) - at) @ back + (size - 1) / 2
            d = row[3] * grow
            if ((p > -d / 2) & (p < size + d / 2)).all():
                whole = ((p > 3) & (p < size - 4)).all()
                kind = row[4] if whole else IGNORED
                out.append(np.array([*p, d if kind == NODULE else d + 4, kind], np.float32))
        return out[: ROWS - 4]

    def diameter(self, rng: np.random.Generator) -> float:
        s, u = self.s, rng.random()
        lo, hi = s.smallest, s.usual
        if u < s.masses:
            lo, hi = s.usual, s.largest
        elif u < s.masses + s.small:
            hi = 7.0
        return float(np.exp(rng.uniform(np.log(lo), np.log(hi))))

    def paste(
        self,
        rng: np.random.Generator,
        hu: np.ndarray,
        edge: np.ndarray,
        thick: float,
        truth: list[np.ndarray],
        taken: list[np.ndarray],
    ) -> np.ndarray:
        """Put one nodule into the crop, if there is a place for it."""
        s, size = self.s, self.s.crop
        d = self.diameter(rng)
        r = d / 2
        if rng.random() < s.simulated or not len(self.nodules):
            body, alpha = simulate(rng, d)
        else:
            body, alpha, d = self.transplant(rng, d, thick)
            r = d / 2
        inner = int(min(max(self.inner, 0.5 * r), size / 2 - 4))
        region = edge[inner:-inner, inner:-inner, inner:-inner]
        if rng.random() < s.pleural or r > 12:
            fit = (region > (-0.2 * r if r > 8 else 0.0)) & (region < 0.8 * r + 1)
        else:
            fit = region > min(r, 14)
        spots = np.flatnonzero(fit)
        for _ in range(6 if len(spots) else 0):
            c = np.array(np.unravel_index(spots[rng.integers(len(spots))], fit.shape)) + inner
            if any(np.linalg.norm(t[:3] - c) < (t[3] + d) / 2 + 4 for t in taken):
                continue
            lo, hi = c - body.shape[0] // 2, c - body.shape[0] // 2 + body.shape[0]
            a, z = np.maximum(lo, 0), np.minimum(hi, size)
            there = tuple(slice(i, j) for i, j in zip(a, z, strict=True))
            here = tuple(slice(i, j) for i, j in zip(a - lo, z - lo, strict=True))
            old = hu[there]
            share = alpha[here]
            new = old + share * (body[here] - old)
            tissue = np.clip((old + 350) / 200, 0, 1)  # where there is tissue the larger of both stays
            new = new + tissue * (np.maximum(new, old) - new)
            core = share > 0.5
            if core.sum() < 4:
                continue
            moved = (np.abs(new - old) > 150) & core
            seen = moved.sum() / core.sum()
            faint = np.abs(body[here][core].mean() + 850) < 350  # ground glass changes less than 150 HU at its edge
            if seen < s.buried * (0.6 if faint else 1):
                continue
            hu = hu.copy()
            hu[there] = new
            at, dd = c.astype(np.float64), d
            if seen < 0.75:  # half in the wall: what is seen of it is the nodule
                at = np.argwhere(moved).mean(0) + a
                dd = d * (0.5 + 0.5 * seen)
            row = np.array([*at, dd, NODULE], np.float32)
            truth.append(row)
            taken.append(np.array([*c, d, NODULE], np.float32))
            break
        return hu

    def transplant(self, rng: np.random.Generator, d: float, thick: float) -> tuple[np.ndarray, np.ndarray, float]:
        """Return a real nodule of about diameter d: HU, alpha, its diameter."""
        top = 1.3 if d < 14 else 1.7
        first, last = np.searchsorted(self.sizes, [d / top, d / 0.8])
        if last <= first:
            first, last = (len(self.sizes) - 40, len(self.sizes)) if d > self.sizes[-1] else (0, 40)
            first, last = max(0, first), min(last, len(self.sizes))
        n: Nodule = self.nodules[rng.integers(first, last)]
        scale = float(np.clip(d / n.diameter, 0.75, 1.8))
        m = turn(rng, 20, (0.999, 1.001)) / scale
        size = int(np.ceil(max(n.mask.shape) * scale * 1.15)) | 1
        size = min(size, 2 * int(n.diameter * scale * 1.3 + 8) + 1)
        # Outside its cube a nodule goes on as at the border, and its mask is 0.
        both = np.stack([np.pad(n.hu, 1, "edge"), np.pad(n.mask, 1)]).astype(np.float32)
        shape = np.array(both.shape[1:])
        grid = sampling(shape.astype(float), (shape - 1) / 2, m, size)
        turned = fn.grid_sample(torch.from_numpy(both)[None], grid, padding_mode="border", align_corners=False)
        body, mask = turned[0].numpy()
        alpha = np.clip(ndimage.gaussian_filter(mask / 255, rng.uniform(0.5, 0.8)) * 1.6, 0, 1)
        more = (thick * SIGMA) ** 2 - (n.slice_mm * scale * SIGMA) ** 2
        if more > 0.05:
            sigma = more**0.5
            body = ndimage.gaussian_filter1d(body * alpha, sigma, 0)
            alpha = ndimage.gaussian_filter1d(alpha, sigma, 0)
            body = body / np.maximum(alpha, 1e-3)
            body = np.clip(body, -1000, 1500)
        return body, alpha, n.diameter * scale

    def distract(self, rng: np.random.Generator, hu: np.ndarray, edge: np.ndarray, thick: float) -> np.ndarray:
        """Paste a tube, a fork or a plate: what vessels, septa and scars look like, and no nodule."""
        size = self.s.crop
        spots = np.flatnonzero(edge > 0)
        if not len(spots):
            return hu
        c = np.array(np.unravel_index(spots[rng.integers(len(spots))], edge.shape), np.float32)
        p = np.indices((size,) * 3, np.float32) - c[:, None, None, None]
        far = np.full((size,) * 3, 99.0, np.float32)
        if rng.random() < 0.25:  # a plate: a septum, a fissure, a scar
            normal = unit(rng)
            off = np.tensordot(normal, p, 1)
            along = np.sqrt(np.maximum((p**2).sum(0) - off**2, 0))
            half, wide = rng.uniform(0.4, 1.5), rng.uniform(8, 25)
            far = np.maximum(np.abs(off) - half, along - wide)
        else:
            r = rng.uniform(0.8, 3.5)
            for k in range(rng.integers(1, 4)):  # a vessel and its branches
                way = unit(rng)
                t = np.clip(np.tensordot(way, p, 1), 0 if k else -40, 40)
                q = p - way[:, None, None, None] * t
                taper = r * (0.75 if k else 1.0) * (1 - 0.01 * np.abs(t))
                far = np.minimum(far, np.sqrt((q**2).sum(0)) - taper)
        alpha = np.clip(0.5 - far / rng.uniform(1.0, 2.0), 0, 1) * (edge > -2)
        alpha = ndimage.gaussian_filter1d(alpha, max(0.3, thick * SIGMA), 0)
        return np.maximum(hu, hu + alpha * (rng.uniform(-200, 120) - hu))

    def degrade(self, rng: np.random.Generator, hu: np.ndarray) -> np.ndarray:
        """Blur, sharpen, add noise, shift: other scanners, kernels, slices, doses."""
        if rng.random() < 0.35:
            hu = ndimage.gaussian_filter1d(hu, rng.uniform(0.4, 1.8), 0)
        if rng.random() < 0.2:
            hu = ndimage.gaussian_filter(hu, rng.uniform(0.3, 0.9))
        elif rng.random() < 0.25:
            hu = hu + rng.uniform(0.3, 1.5) * (hu - ndimage.gaussian_filter(hu, 1.0))
        if rng.random() < 0.5:
            noise = rng.standard_normal(hu.shape, np.float32)
            if rng.random() < 0.5:
                noise = ndimage.gaussian_filter(noise, 0.7) * 3
            hu = hu + noise * rng.uniform(3, 45)
        return (hu + 850) * rng.uniform(0.95, 1.05) - 850 + rng.uniform(-25, 25)


def unit(rng: np.random.Generator) -> np.ndarray:
    """Return a random direction."""
    v = rng.standard_normal(3)
    return (v / np.linalg.norm(v)).astype(np.float32)


def simulate(rng: np.random.Generator, d: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw a nodule of mean diameter d: solid, part-solid, ground-glass or a ring; HU and alpha."""
    size = int(d * 1.5 + 9) | 1
    p = np.indices((size,) * 3, np.float32) - size // 2
    axes = rng.uniform(0.75, 1.0, 3)
    axes = axes / axes.prod() ** (1 / 3)
    q = np.tensordot(np.linalg.qr(rng.standard_normal((3, 3)))[0].astype(np.float32), p, 1)
    far = np.sqrt(((q / axes[:, None, None, None]) ** 2).sum(0))
    far = far - d / 2 * (1 + rng.uniform(0.02, 0.14) * smooth_noise(rng, size, max(3.0, d / 3)))
    alpha = np.clip(0.5 - far / rng.uniform(1.2, 3.0), 0, 1)
    kind = rng.random()
    texture = smooth_noise(rng, size, 3.0)
    if kind < 0.55 or d < 5:
        body = rng.uniform(-60, 90) + 25 * texture
    elif kind < 0.65:
        body = rng.uniform(-700, -450) + 50 * texture
    elif kind < 0.75:
        core = np.clip(0.5 - (far + d / 2 * rng.uniform(0.3, 0.6)) / 2, 0, 1)
        level = rng.uniform(-700, -500)
        body = level + core * (rng.uniform(-50, 60) - level) + 30 * texture
    else:  # a cavity: from a thin ring to a dark heart
        wall = rng.uniform(1.5, max(2.0, 0.25 * d))
        hole = np.clip(0.5 - (far + wall) / 1.5, 0, 1)
        level = rng.uniform(-40, 80)
        body = level + hole * (rng.uniform(-950, -350) - level) + 20 * texture
    return body.astype(np.float32), ndimage.gaussian_filter(alpha, 0.5).astype(np.float32)
