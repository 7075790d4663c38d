"""Trains the second look: a small network that judges what the detector found.

    python rescore.py DETECTOR DATA... --mined mined.npz --out RUN
    python export.py RUN MODEL     # writes rescore.onnx beside MODEL/model.onnx and names it in model.json

It sees a cube of 32 mm around a candidate and begins with the detector's own first layers. Half of what it
is trained on are nodules, real and drawn; the others are what the detector takes for nodules: its false
positives in real scans (mine.py) and in composed crops, and pasted tubes, forks and plates. All of them come
through compose.py, so that neither a paste nor a blur tells the two apart.

The crops are made once, at the start, and drawn from while training, moved a little and mirrored. They
depend on the seed alone, so a resumed run makes the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as fn

import detect
import loop
import settings
import sources
from compose import Composer
from hilum_net import HilumNet
from loss import IGNORED, NODULE
from mine import AWAY
from settings import Loop, Net, Refused

NAME = "hilum-rescore"
SIZE = 32  # voxels along a crop
SPARE = 4  # voxels at each side of a kept crop, to move it
WIDE = SIZE + 2 * SPARE


@dataclass
class Settings:
    """All that decides a result."""

    loop: Loop = field(
        default_factory=lambda: Loop(
            steps=600,
            batch=32,
            rate=1e-3,
            warmup=50,
            ema=0.99,
            workers=0,
            threads=1,
            bf16=False,
            log_every=25,
            save_every=100,
        )
    )
    nodules: int = 4000  # kept crops of pasted nodules
    own: int = 600  # of nodules that are in the scans and surroundings
    mined: int = 4000  # of the detector's false positives in real scans
    pasted: int = 800  # of tubes, forks and plates
    composed: int = 400  # crops that the detector searches for more false positives
    least: float = 0.05  # its probability from which one counts
    shift: float = 0.7  # voxels, deviation of the centre along each axis
    hidden: int = 64


def tiny() -> Settings:
    """Return settings that train in seconds, for tests."""
    s = Settings(nodules=24, own=8, mined=24, pasted=8, composed=4)
    s.loop = dataclasses.replace(s.loop, steps=40, batch=8, warmup=4, ema=0.9, log_every=10, save_every=20)
    return s


class Judge(nn.Module):
    """[N, 1, 32, 32, 32] scaled voxels to logits [N, 1]: the detector's layers to stride 8, pooled."""

    def __init__(self, net: Net, hidden: int) -> None:
        super().__init__()
        whole = HilumNet(net)
        self.stem, self.levels = whole.stem, whole.levels[:3]
        width = net.widths[2]
        self.last = nn.Sequential(nn.Linear(3 * width, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.stem(x))
        for level in self.levels:
            y = level(y)
        centre = y[:, :, 1:3, 1:3, 1:3].mean((2, 3, 4))
        return self.last(torch.cat([centre, y.mean((2, 3, 4)), y.amax((2, 3, 4))], 1))


class Crops(Composer):
    """Makes crops of WIDE voxels with a candidate in the middle."""

    def __init__(self, found: sources.Sources, s: settings.Compose, seed: int) -> None:
        super().__init__(found, dataclasses.replace(s, crop=WIDE), seed, inner=WIDE // 2 - 4)
        self.places = [(b, row) for b in self.scans for row in b.mined]
        p = np.array([row[3] for _, row in self.places], float)
        self.chance = p / p.sum() if len(p) else p
        self.own = [(b, row) for b in self.scans + self.contexts for row in b.truth if row[4] == NODULE]
        self.middle = np.zeros((WIDE,) * 3, bool)
        self.middle[(slice(WIDE // 2 - 3, WIDE // 2 + 3),) * 3] = True

    def nodule(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
        """Return a crop with a pasted nodule and its place, if there was room for it."""
        b = self.scans[rng.choice(len(self.scans), p=self.weight)]
        some = b.rim if rng.random() < 0.4 and len(b.rim) else b.inside
        hu, edge, thick, truth = self.look(rng, b, some[rng.integers(len(some))])
        if rng.random() < self.s.distractors:
            hu = self.distract(rng, hu, edge, thick)
        own = len(truth)
        hu = self.paste(rng, hu, edge, thick, truth, [t.copy() for t in truth])
        return (self.bytes(self.degrade(rng, hu)), truth[own][:3]) if len(truth) > own else None

    def scans_own(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
        """Return a crop around a nodule that is in a scan."""
        b, row = self.own[rng.integers(len(self.own))]
        hu, *_ = self.look(rng, b, row[:3] + rng.normal(0, 0.5, 3))
        return self.bytes(self.degrade(rng, hu)), np.full(3, (WIDE - 1) / 2, np.float32)

    def false(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
        """Return a crop around a false positive in a real scan."""
        b, row = self.places[rng.choice(len(self.places), p=self.chance)]
        hu, *_ = self.look(rng, b, row[:3] + rng.normal(0, 0.5, 3))
        return self.bytes(self.degrade(rng, hu)), np.full(3, (WIDE - 1) / 2, np.float32)

    def distractor(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
        """Return a crop with a tube, a fork or a plate in the middle."""
        b = self.scans[rng.choice(len(self.scans), p=self.weight)]
        hu, edge, thick, truth = self.look(rng, b, b.inside[rng.integers(len(b.inside))])
        if truth:
            return None
        hu = self.distract(rng, hu, np.where(self.middle, edge, np.minimum(edge, 0)), thick)
        return self.bytes(self.degrade(rng, hu)), np.full(3, (WIDE - 1) / 2, np.float32)


def composed(net: HilumNet, anchor: float, composer: Composer, s: Settings) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return what the detector takes for nodules in composed crops, and its places."""
    found, size = [], composer.s.crop
    inside = np.zeros((size,) * 3, bool)
    inside[(slice(WIDE // 2, size - WIDE // 2),) * 3] = True
    for index in range(s.composed):
        voxels, rows = composer.crop(index)
        truth = rows.numpy()
        truth = truth[(truth[:, 4] == NODULE) | (truth[:, 4] == IGNORED)]
        for c in detect.candidates(net, anchor, voxels[0].numpy(), int(composer.pad), inside, s.least, 20):
            if len(truth) and (np.linalg.norm(truth[:, :3] - c[:3], axis=1) < truth[:, 3] / 2 + AWAY).any():
                continue
            lo = np.clip(np.floor(c[:3] - (WIDE - 1) / 2 + 0.5), 0, size - WIDE).astype(int)
            cube = voxels[0].numpy()[tuple(slice(a, a + WIDE) for a in lo)]
            found.append((cube.copy(), (c[:3] - lo).astype(np.float32)))
    return found


class Judging:
    """The task for loop.py."""

    name = NAME

    def __init__(
        self, s: Settings, found: sources.Sources, net: HilumNet, d: settings.Detector, state: dict[str, Any]
    ) -> None:
        self.s, self.net = s, net
        self.settings: dict[str, Any] = {
            **settings.as_dict(s),
            "net": settings.as_dict(d.net),
            "prepare": found.prepare,
            "detector": f"step {state['step']}, {state['seconds'] / 60:.1f} minutes",
            "data": sources.summary(found),
        }
        crops = Crops(found, d.compose, s.loop.seed)
        seed = s.loop.seed
        self.nodules = self.make(crops.nodule, s.nodules, seed, 1)
        self.nodules += self.make(crops.scans_own, s.own if crops.own else 0, seed, 2)
        self.others = self.make(crops.false, s.mined if crops.places else 0, seed, 3)
        self.others += self.make(crops.distractor, s.pasted, seed, 4)
        size = max(d.compose.crop, WIDE + 16)
        composer = Composer(found, dataclasses.replace(d.compose, crop=size), seed + 1)
        extra = composed(net, d.net.anchor, composer, s)
        self.others += extra
        print(
            f"{len(self.nodules)} nodules; {len(self.others)} others, {len(extra)} of them from composed crops",
            flush=True,
        )
        if not self.nodules or not self.others:
            raise Refused("there are no nodules or no false positives to train on: mine some first (mine.py)")

    def make(self, draw: Any, count: int, seed: int, kind: int) -> list[tuple[np.ndarray, np.ndarray]]:  # noqa: ANN401
        """Draw so many crops; some places have no room and give none."""
        made = (draw(np.random.default_rng([seed, kind, k])) for k in range(count))
        return [m for m in made if m is not None]

    def model(self) -> nn.Module:
        torch.manual_seed(self.s.loop.seed)
        judge = Judge(settings.from_dict(Net, self.settings["net"]), self.s.hidden)
        judge.stem.load_state_dict(self.net.stem.state_dict())
        judge.levels.load_state_dict(self.net.levels[:3].state_dict())
        return judge

    def sample(self, index: int) -> tuple[Tensor, ...]:
        """Return a crop [1, 32, 32, 32] of bytes and whether it is a nodule."""
        rng = np.random.default_rng([self.s.loop.seed, 9, index])
        positive = index % 2 == 0
        some = self.nodules if positive else self.others
        cube, at = some[rng.integers(len(some))]
        lo = np.floor(at + rng.normal(0, self.s.shift, 3) - (SIZE - 1) / 2 + 0.5)
        lo = np.clip(lo, 0, 2 * SPARE).astype(int)
        part = cube[tuple(slice(a, a + SIZE) for a in lo)]
        part = part[tuple(slice(None, None, int(w)) for w in rng.choice([-1, 1], 3))]
        if rng.random() < 0.5:
            part = part.transpose(0, 2, 1)
        return torch.from_numpy(part.copy())[None], torch.tensor(float(positive))

    def loss(self, net: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        voxels, truth = batch
        logit = net((voxels.float() - detect.SUBTRACT) / detect.DIVIDE)[:, 0]
        loss = fn.binary_cross_entropy_with_logits(logit.float(), truth)
        said, was = logit.detach() >= 0, truth > 0.5
        sums = {"tp": (said & was).sum(), "tn": (~said & ~was).sum(), "pos": was.sum(), "neg": (~was).sum()}
        return loss, {"loss": loss.detach(), **sums}

    def row(self, sums: dict[str, float], steps: int) -> dict[str, float]:
        return {
            "loss": sums["loss"] / steps,
            "tpr": sums["tp"] / max(1, sums["pos"]),
            "tnr": sums["tn"] / max(1, sums["neg"]),
        }


def load(path: Path) -> tuple[Judge, dict[str, Any]]:
    """Return the averaged network of a checkpoint, and the checkpoint."""
    state = loop.load(path, NAME)
    judge = Judge(settings.from_dict(Net, state["settings"]["net"]), state["settings"]["hidden"])
    loop.weights(judge, state["ema"], path)
    return judge.eval(), state


def main() -> int:
    """Run the program."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("checkpoint", type=Path, help="of the detector")
    p.add_argument("data", nargs="+", type=Path)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--mined", type=Path, help="false positives that mine.py found")
    p.add_argument("--excluded", type=Path, help="findings in the scans that count neither way")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    p.add_argument("--tiny", action="store_true", help="settings of the tests")
    p.add_argument("--resume", action="store_true")
    a = p.parse_args()
    try:
        s = settings.override(tiny() if a.tiny else Settings(), a.set)
        if s.loop.threads:
            torch.set_num_threads(s.loop.threads)
        net, d, state = detect.load(a.checkpoint)
        found = sources.read(a.data, d.compose, a.excluded)
        if found.prepare != state["settings"]["prepare"]:
            raise Refused("the scans were prepared in another way than those of the checkpoint")
        if a.mined:
            sources.read_mined(a.mined, found)
        print(f"{sources.summary(found)}; settings: {settings.changed(s)}", flush=True)
        return loop.train(Judging(s, found, net, d, state), s.loop, a.out, resume=a.resume)
    except Refused as err:
        print(f"error: {err}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
