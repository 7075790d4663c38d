"""The nodule classifier: malignancy and texture of a nodule from a crop of the scan and its diameter.

    crops [N,1,S,S,S] (z, y, x; 0..1 over the HU window), diameter_mm [N,1]
      -> Gaze: looks at the nodule only, in its own scale; no weights
           view     [N,1,V,V,V]  the ball of 1.5 diameters (and 4 mm more), resampled to fill the view
           measures [N,F]        densities of shells, volumes above densities, shape, diameter
      -> Reader: a small 3-D CNN on the view, joined by the measures -> logits
      -> Committee: the mean of several readers' probabilities, calibrated

Gaze is a part of the exported network, so training and serving see the same. All outside the ball
is dark: the crops of LUNA16's nodules hold little more than that (see nodules.py); a network that cannot see
the rest cannot learn from where a crop ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

TEXTURES = 3


@dataclass
class Shape:
    """What a network looks like; a checkpoint or a model folder belongs to one of these."""

    size: int = 64  # voxels, edge of a crop
    spacing_mm: float = 0.75
    window_hu: tuple[float, float] = (-1000.0, 400.0)
    view: int = 24  # voxels, edge of the view
    radius: float = 0.75  # of the ball, in diameters
    rim_mm: float = 2.0  # the ball's radius grows by this, so that a small nodule is seen with its surroundings
    widths: tuple[int, ...] = (8, 16, 32, 64)
    hidden: int = 48
    dropout: float = 0.3


SHELLS = (0.2, 0.5, 0.8, 1.05, 1.3, 1.55)  # of the nodule's radius
DENSITIES_HU = (-700.0, -550.0, -400.0, -250.0, -100.0, 0.0, 100.0, 200.0, 300.0)
MEASURES = 2 * len(SHELLS) + len(DENSITIES_HU) + 6


class Gaze(nn.Module):
    """Crop and diameter -> view [N,1,V,V,V] 0..1 and measures [N,MEASURES]. It has no weights."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        half = (shape.size - 1) / 2
        steps = (torch.arange(shape.size, dtype=torch.float32) - half) * shape.spacing_mm
        ticks = (torch.arange(shape.view, dtype=torch.float32) + 0.5) * (2 / shape.view) - 1
        z, y, x = torch.meshgrid(ticks, ticks, ticks, indexing="ij")
        rho = torch.sqrt(z * z + y * y + x * x)
        self.register_buffer("steps", steps, persistent=False)  # [S] mm
        self.register_buffer("ticks", ticks, persistent=False)  # [V] of the view's half edge
        self.register_buffer("rho", rho.reshape(1, -1), persistent=False)
        self.register_buffer("ball", torch.sigmoid((1 - rho) * 16), persistent=False)
        self.register_buffer("places", torch.stack([z, y, x]).reshape(3, -1).T.contiguous(), persistent=False)
        second = torch.stack([z * z, y * y, x * x, z * y, z * x, y * x]).reshape(6, -1).T.contiguous()
        self.register_buffer("second", second, persistent=False)

    def forward(self, crops: Tensor, diameter_mm: Tensor) -> tuple[Tensor, Tensor]:
        """See the class; crops [N,1,S,S,S] 0..1, diameter_mm [N,1]."""
        diameter = diameter_mm.clamp(2.0, 60.0)
        reach = self.shape.radius * diameter + self.shape.rim_mm  # [N,1] mm, the view's half edge
        view = self._view(crops, reach)
        return (view * self.ball)[:, None], self._measures(view.flatten(1), diameter, reach)

    def _view(self, crops: Tensor, reach: Tensor) -> Tensor:
        """Return [N,V,V,V]: the crop interpolated linearly along each axis, each time by a matrix [N,V,S].

        The interpolation is wider than linear where the view is coarser than the crop: nothing is skipped.
        Beyond the crop's edge the view is dark.
        """
        size, edge = self.shape.size, self.shape.view
        at = self.ticks[None, :, None] * reach[:, :, None]  # [N,V,1] mm
        width = torch.clamp(reach * (2 / edge), min=self.shape.spacing_mm)[:, :, None]
        matrix = torch.relu(1 - (at - self.steps[None, None, :]).abs() / width) * (self.shape.spacing_mm / width)
        view = torch.matmul(crops[:, 0], matrix.transpose(1, 2)[:, None])  # x: [N,S,S,V]
        view = torch.matmul(matrix[:, None], view)  # y: [N,S,V,V]
        view = torch.matmul(matrix, view.reshape(-1, size, edge * edge))  # z
        return view.reshape(-1, edge, edge, edge)

    def _measures(self, value: Tensor, diameter: Tensor, reach: Tensor) -> Tensor:
        """Return [N,MEASURES] of the view's values [N,V^3]."""
        low, high = self.shape.window_hu
        step = reach * (2 / self.shape.view)  # [N,1] mm
        rho = self.rho * (reach * 2 / diameter)  # [N,V^3] distance to the centre in radii of the nodule
        parts = []
        for middle in SHELLS:
            weight = torch.relu(1 - (rho - middle).abs() / 0.3)
            total = weight.sum(1, keepdim=True) + 1e-3
            mean = (weight * value).sum(1, keepdim=True) / total
            square = (weight * value * value).sum(1, keepdim=True) / total
            parts += [mean, torch.sqrt(torch.relu(square - mean * mean) + 1e-6)]
        ball = torch.sigmoid((1.35 - rho) * diameter)  # its edge is about two millimetres wide
        for density in DENSITIES_HU:
            above = torch.sigmoid((value - (density - low) / (high - low)) * ((high - low) / 40))
            volume = (above * ball).sum(1, keepdim=True) * step**3  # mm^3
            parts.append(torch.log(volume + 1) / 3)  # the 1 keeps rounding errors of an empty volume small
        tissue = torch.sigmoid((value - (-450 - low) / (high - low)) * ((high - low) / 60)) * ball
        parts += self._form(tissue, reach / diameter)
        parts.append(torch.log(diameter))
        return torch.cat(parts, 1)

    def _form(self, tissue: Tensor, scale: Tensor) -> list[Tensor]:
        """Return five [N,1] from the moments of tissue [N,V^3]: size, twice roundness, offset, surface."""
        mass = tissue.sum(1, keepdim=True) + 1e-3
        centre = torch.matmul(tissue, self.places) / mass  # [N,3] half edges
        m = torch.matmul(tissue, self.second) / mass
        cz, cy, cx = centre[:, 0], centre[:, 1], centre[:, 2]
        zz, yy, xx = m[:, 0] - cz * cz + 1e-3, m[:, 1] - cy * cy + 1e-3, m[:, 2] - cx * cx + 1e-3
        zy, zx, yx = m[:, 3] - cz * cy, m[:, 4] - cz * cx, m[:, 5] - cy * cx
        trace = zz + yy + xx
        minors = zz * yy + zz * xx + yy * xx - zy * zy - zx * zx - yx * yx
        determinant = zz * (yy * xx - yx * yx) - zy * (zy * xx - yx * zx) + zx * (zy * yx - yy * zx)
        return [
            torch.log(trace[:, None] * scale**2),
            (3 * minors / trace**2)[:, None],  # 1 for a ball, 0 for a rod
            (27 * determinant / trace**3)[:, None],  # 1 for a ball, 0 for a plate
            torch.sqrt((centre * centre).sum(1, keepdim=True) + 1e-6) * scale,
            (tissue * (1 - tissue)).sum(1, keepdim=True) / mass ** (2 / 3),  # half-dense voxels: the surface
        ]


class Block(nn.Module):
    """A 3^3 convolution with its norm; [N,in,V,V,V] -> [N,out,V,V,V]."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(inside, outside, 3, padding=1, bias=False),
            nn.BatchNorm3d(outside),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Reader(nn.Module):
    """View and measures -> logits: malignancy [N,1], texture [N,3], two that only guide training [N,2]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.normal = nn.BatchNorm1d(MEASURES)
        layers: list[nn.Module] = []
        inside = 1
        for index, width in enumerate(shape.widths):
            layers.append(Block(inside, width))
            if index + 1 < len(shape.widths):
                layers.append(nn.MaxPool3d(2))
            inside = width
        self.trunk = nn.Sequential(*layers)
        self.mix = nn.Sequential(
            nn.Dropout(shape.dropout),
            nn.Linear(inside * 2 + MEASURES, shape.hidden),
            nn.ReLU(),
            nn.Dropout(shape.dropout),
        )
        self.head = nn.Linear(shape.hidden, 1 + TEXTURES + 2)
        self.straight = nn.Linear(MEASURES, 1 + TEXTURES + 2)  # what the measures say alone

    def forward(self, view: Tensor, measures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        known = self.normal(measures)
        features = self.trunk(view)
        features = torch.cat([features.mean((2, 3, 4)), features.amax((2, 3, 4)), known], 1)
        out = self.head(self.mix(features)) + self.straight(known)
        return out[:, :1], out[:, 1 : 1 + TEXTURES], out[:, 1 + TEXTURES :]


MIRRORS = ((), (2,), (3,), (4,))  # axes of the view that are flipped; the committee sees each view four times


class Committee(nn.Module):
    """Several readers behind one gaze: crops and diameters in, calibrated probabilities out."""

    def __init__(self, shape: Shape, readers: list[Reader]) -> None:
        super().__init__()
        self.gaze = Gaze(shape)
        self.readers = nn.ModuleList(readers)
        self.register_buffer("slope", torch.ones(()))
        self.register_buffer("shift", torch.zeros(()))

    def logits(self, view: Tensor, measures: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean logit of malignancy [N,1] and log of the mean probability of each texture [N,3]."""
        malignancy, texture = [], []
        for reader in self.readers:
            for axes in MIRRORS:
                logit, kinds, _ = reader(torch.flip(view, axes) if axes else view, measures)
                malignancy.append(logit)
                texture.append(torch.softmax(kinds, 1))
        return torch.stack(malignancy).mean(0), torch.log(torch.stack(texture).mean(0))

    def forward(self, crops: Tensor, diameter_mm: Tensor) -> tuple[Tensor, Tensor]:
        """Crops [N,1,S,S,S], diameter_mm [N,1] -> malignancy [N,1], texture [N,3], probabilities."""
        logit, kinds = self.logits(*self.gaze(crops, diameter_mm))
        return torch.sigmoid(self.slope * logit + self.shift), torch.exp(kinds)
