"""Views of nodules to train on: crops turned, scaled, shifted, made noisy, as Gaze sees them.

Gaze has no weights, so what it makes of an augmented crop can be kept: each nodule gets a few views once,
and all folds and epochs draw from them, flipping and turning them by right angles as they go. That makes ten
trainings affordable on a CPU.

View 0 is the nodule as it was annotated. The others are what a detector would hand over: centre and diameter
are off as Jitter says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor

import nodules
from classifier import MEASURES, Gaze, Shape


@dataclass
class Jitter:
    """How far views 1, 2, … are from the annotation: standard deviations of normal distributions."""

    centre_mm: float = 0.3  # along each axis
    centre_share: float = 0.05  # and this much of the diameter
    diameter_log: float = 0.12  # logarithm of the diameter that is told
    scale_log: float = 0.06  # logarithm of the nodule's size; the diameter that is told grows with it
    tilt: float = 0.2  # radians about x and about y; about z any angle
    level_hu: float = 17.0  # of the whole crop
    noise_hu: float = 17.0  # white noise, uniform from none to this


def bank(found: list[nodules.Nodule], count: int, shape: Shape, jitter: Jitter, seed: int) -> tuple[Tensor, Tensor]:
    """Return views [count,n,V,V,V] float16 and measures [count,n,MEASURES] of n nodules."""
    gaze = Gaze(shape)
    views = torch.empty(count, len(found), shape.view, shape.view, shape.view, dtype=torch.float16)
    measures = torch.empty(count, len(found), MEASURES)
    rng = torch.Generator().manual_seed(seed)
    for index, nodule in enumerate(found):
        cube = torch.from_numpy(nodule.cube).float() / 255
        diameter = torch.full((count, 1), nodule.diameter_mm)
        moves = [_annotated(shape)]
        for number in range(1, count):
            move, factor = _moved(nodule.diameter_mm, shape, jitter, rng)
            moves.append(move)
            diameter[number] *= factor
        batch = look(cube, torch.stack(moves), shape)
        batch[1:] = _noisy(batch[1:], shape, jitter, rng)
        view, measure = gaze(batch, diameter)
        views[:, index], measures[:, index] = view[:, 0].half(), measure
    return views, measures


def look(cube: Tensor, moves: Tensor, shape: Shape) -> Tensor:
    """Return crops [N,1,S,S,S] of cube [SIZE]*3, through moves [N,3,4] (x, y, z; of the cube's half edge)."""
    grid = F.affine_grid(moves, [len(moves), 1, shape.size, shape.size, shape.size], align_corners=False)
    cubes = cube[None, None].expand(len(moves), 1, *cube.shape)
    return F.grid_sample(cubes, grid, padding_mode="border", align_corners=False)


def _share(shape: Shape) -> float:
    return shape.size * shape.spacing_mm / (nodules.SIZE * nodules.SPACING)


def _annotated(shape: Shape) -> Tensor:
    move = torch.zeros(3, 4)
    move[:, :3] = torch.eye(3) * _share(shape)
    return move


def _moved(diameter_mm: float, shape: Shape, jitter: Jitter, rng: torch.Generator) -> tuple[Tensor, float]:
    """Draw one move [3,4], and the factor between the diameter that is told and the annotated one."""
    turn = float(torch.rand(1, generator=rng)) * 2 * math.pi
    normal = torch.randn(7, generator=rng).tolist()
    rotation = (
        _rotation(0, 1, turn) @ _rotation(1, 2, jitter.tilt * normal[0]) @ _rotation(0, 2, jitter.tilt * normal[1])
    )
    scale = math.exp(jitter.scale_log * normal[2])
    off = torch.tensor(normal[3:6]) * (jitter.centre_mm + jitter.centre_share * diameter_mm)
    move = torch.empty(3, 4)
    move[:, :3] = rotation * (_share(shape) / scale)
    move[:, 3] = off / (nodules.SIZE * nodules.SPACING / 2)
    return move, scale * math.exp(jitter.diameter_log * normal[6])


def _rotation(first: int, second: int, angle: float) -> Tensor:
    """Return the 3 x 3 rotation by angle (radians) in the plane of two axes."""
    matrix = torch.eye(3)
    matrix[first, first] = matrix[second, second] = math.cos(angle)
    matrix[first, second], matrix[second, first] = -math.sin(angle), math.sin(angle)
    return matrix


def _noisy(batch: Tensor, shape: Shape, jitter: Jitter, rng: torch.Generator) -> Tensor:
    width = shape.window_hu[1] - shape.window_hu[0]
    level = torch.randn(len(batch), 1, 1, 1, 1, generator=rng) * (jitter.level_hu / width)
    strength = torch.rand(len(batch), 1, 1, 1, 1, generator=rng) * (jitter.noise_hu / width)
    return (batch + level + strength * torch.randn(batch.shape, generator=rng)).clamp(0, 1)


def turned(views: Tensor, rng: torch.Generator) -> Tensor:
    """Return views [N,1,V,V,V] flipped along each axis and turned by a right angle in plane, at random."""
    coins = torch.rand(4, generator=rng).tolist()
    axes = [axis for axis, coin in zip((2, 3, 4), coins, strict=False) if coin < 0.5]
    views = views.flip(axes) if axes else views
    return views.transpose(3, 4) if coins[3] < 0.5 else views
