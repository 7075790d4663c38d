"""Trains the detector hilum-net: train_detector.py DATA... --out DIR [--set key=value] [--resume].

DATA are folders of `hilum train prepare --no-mask` and folders of real nodules (sources.py).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import loop
import settings
import sources
import train_n_net
from compose import Composer
from hilum_net import MULTIPLE, HilumNet
from loss import detector_loss

NAME = "hilum-net"


class Detection:
    """The task of the detector for loop.py."""

    name = NAME

    def __init__(self, s: settings.Detector, found: sources.Sources) -> None:
        self.s = s
        self.settings: dict[str, Any] = {
            **settings.as_dict(s),
            "prepare": found.prepare,
            "data": sources.summary(found),
        }
        self.composer = Composer(found, s.compose, s.loop.seed)

    def model(self) -> nn.Module:
        return HilumNet(self.s.net)

    def sample(self, index: int) -> tuple[Tensor, ...]:
        return self.composer.crop(index)

    def loss(self, net: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        voxels, truth = batch
        out = net((voxels.float() - 128) / 128)
        with torch.autocast(voxels.device.type, enabled=False):
            return detector_loss(out, truth, self.s.loss, self.s.net.anchor)

    def row(self, sums: dict[str, float], steps: int) -> dict[str, float]:
        mean = {key: sums[key] / steps for key in ("loss", "classify", "z", "y", "x", "d")}
        return {
            "tpr": sums["tp"] / max(1, sums["pos"]),
            "tnr": sums["tn"] / max(1, sums["neg"]),
            "pos": sums["pos"],
            "neg": sums["neg"],
            **mean,
        }


def main() -> int:
    """Run the program."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("data", nargs="+", type=Path)
    p.add_argument("--net", choices=[NAME, train_n_net.NAME], default=NAME, help="n-net: the baseline (train_n_net.py)")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    p.add_argument("--tiny", action="store_true", help="settings of the tests")
    p.add_argument("--resume", action="store_true")
    p.add_argument("--init", type=Path, help="checkpoint whose weights to begin with")
    p.add_argument("--mined", type=Path, help="false positives that mine.py found")
    p.add_argument("--excluded", type=Path, help="findings in the scans that count neither way")
    try:
        if train_n_net.asked(sys.argv[1:], train_n_net.NAME):
            return train_n_net.program(sys.argv[1:], train_n_net.NAME)
        a = p.parse_args()
        s = settings.Detector()
        s = settings.override(settings.tiny(s) if a.tiny else s, a.set)
        if s.compose.crop % MULTIPLE:
            raise settings.Refused(f"compose.crop={s.compose.crop} is not a multiple of {MULTIPLE}")
        found = sources.read(a.data, s.compose, a.excluded)
        if a.mined:
            sources.read_mined(a.mined, found)
        print(f"{sources.summary(found)}; settings: {settings.changed(s)}", flush=True)
        return loop.train(Detection(s, found), s.loop, a.out, resume=a.resume, init=a.init)
    except settings.Refused as err:
        print(f"error: {err}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
