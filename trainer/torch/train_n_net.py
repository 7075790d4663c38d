"""Trains n-net and c-net; train_detector.py --net n-net and train_classifier.py --net c-net call it.

DATA are folders of `hilum train prepare` (with lung masks and label files). c-net begins with a
checkpoint of n-net (--init), looks for proposals in every scan once, then trains the case classifier
and n-net in turn, an epoch each.
"""

from __future__ import annotations

import argparse
import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import loop
import n_loss
import settings
from n_net import MULTIPLE, CNetwork, NNetwork, propose
from n_samples import Cases, Crops, Scan, read
from settings import NClassifier, NDetector, Refused

NAME, CASE_NAME = "n-net", "c-net"


def scaled(voxels: Tensor) -> Tensor:
    """Return bytes as the networks want them."""
    return (voxels.float() - 128) / 128


def columns(sums: dict[str, float], steps: float) -> dict[str, float]:
    """Return n-net's columns of a log line."""
    mean = {key: sums.get(key, 0.0) / max(1.0, steps) for key in ("loss", "classify", "z", "y", "x", "d")}
    pos, neg = sums.get("pos", 0.0), sums.get("neg", 0.0)
    return {"tpr": sums.get("tp", 0.0) / max(1, pos), "tnr": sums.get("tn", 0.0) / max(1, neg),
            "pos": pos, "neg": neg, **mean}  # fmt: skip


class NDetection:
    """The task of n-net for loop.py."""

    name = NAME

    def __init__(self, s: NDetector, crops: Crops, prepare: dict) -> None:
        self.s, self.crops = s, crops
        self.settings: dict[str, Any] = {**settings.as_dict(s), "prepare": prepare}

    def model(self) -> nn.Module:
        return NNetwork(self.s.net)

    def sample(self, index: int) -> tuple[Tensor, ...]:
        return *self.crops.sample(index), torch.tensor(index)

    def loss(self, net: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        voxels, place, wanted, index = batch
        torch.manual_seed(self.s.loop.seed + int(index[0]))  # dropout of a resumed run is that of one never stopped
        return n_loss.n_loss(net(scaled(voxels), place), wanted, self.s.loss)

    def row(self, sums: dict[str, float], steps: int) -> dict[str, float]:
        return columns(sums, steps)


class Alternation:
    """The task of c-net for loop.py: turns of the case classifier and of n-net on the shared trunk."""

    name = CASE_NAME

    def __init__(self, s: NClassifier, crops: Crops, cases: Cases, first: dict[str, Tensor], prepare: dict) -> None:
        self.s, self.crops, self.cases, self.first = s, crops, cases, first
        self.turn = turns(s, crops, cases)
        self.settings: dict[str, Any] = {**settings.as_dict(s), "prepare": prepare}

    def model(self) -> nn.Module:
        net = CNetwork(self.s.detector.net, self.s.case)
        net.n_net.load_state_dict(self.first)
        return net

    def sample(self, index: int) -> tuple[Tensor, ...]:
        batch, (own, other) = self.s.loop.batch, self.turn
        step, at = divmod(index, batch)
        period, place = divmod(step, own + other)
        if place < own:
            return *self.cases.sample((period * own + place) * batch + at), torch.tensor(index)
        return *self.crops.sample((period * other + place - own) * batch + at), torch.tensor(index)

    def loss(self, net: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        index, case = int(batch[-1][0]), self.s.case
        torch.manual_seed(self.s.loop.seed + index)
        if index // self.s.loop.batch >= case.frozen * self.s.loop.steps:
            for part in net.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):
                    part.eval()
        if len(batch) == 4:  # n-net's turn
            out = net(scaled(batch[0]), batch[1])
            loss, sums = n_loss.n_loss(out, batch[2], self.s.detector.loss)
            return loss, {**sums, "turns": torch.tensor(1)}
        voxels, place, present, nodule, ill, _ = batch
        logits = net(scaled(voxels), place)
        whole = net.module if isinstance(net, nn.parallel.DistributedDataParallel) else net
        each = torch.sigmoid(logits.float())
        loss, sums = n_loss.c_loss(whole.case(logits, present), each, ill, nodule * present, case.miss, case.missed)
        return loss, {**sums, "case turns": torch.tensor(1), "cases": torch.tensor(len(ill))}

    def row(self, sums: dict[str, float], steps: int) -> dict[str, float]:
        turns = max(1.0, sums.get("case turns", 0.0))
        return {
            **columns(sums, sums.get("turns", 0.0)),
            "loss2": sums.get("loss2", 0.0) / turns, "miss": sums.get("miss", 0.0) / turns,
            "acc": sums.get("right", 0.0) / max(1.0, sums.get("cases", 0.0)),
            "tpn": sums.get("tpn", 0.0), "fpn": sums.get("fpn", 0.0), "fnn": sums.get("fnn", 0.0),
        }  # fmt: skip


def turns(s: NClassifier, crops: Crops, cases: Cases) -> tuple[int, int]:
    """Return the steps of an epoch of the case classifier and of n-net."""
    return tuple(-(-n // s.loop.batch) for n in (len(cases.scans), crops.epoch))


def check(of: settings.NSamples, net: settings.NNet, case: settings.CNet) -> None:
    """Refuse sides that the network cannot take."""
    sides = {"samples.crop": of.crop, "case.crop": case.crop, "net.core + 2 net.margin": net.core + 2 * net.margin}
    for name, side in sides.items():
        if side < MULTIPLE or side % MULTIPLE:
            raise Refused(f"{name}={side} is not a multiple of {MULTIPLE}")


def detector(data: list[Path], out: Path, sets: list[str], *, tiny: bool, resume: bool, init: Path | None) -> int:
    """Train n-net."""
    s = NDetector()
    s = settings.override(settings.tiny_n_net(s) if tiny else s, sets)
    check(s.samples, s.net, settings.CNet())
    scans, prepare = read(data, s.samples.hold_out)
    crops = Crops(scans, s, int(prepare["pad_value"]))
    s.loop.steps = s.loop.steps or s.epochs * -(-crops.epoch // s.loop.batch)
    print(f"{len(scans)} scans, {crops.epoch} crops an epoch, {s.loop.steps} steps; settings: {settings.changed(s)}",
          flush=True)  # fmt: skip
    return loop.train(NDetection(s, crops, prepare), s.loop, out, resume=resume, init=init)


def classifier(
    data: list[Path], out: Path, sets: list[str], *, tiny: bool, resume: bool, init: Path | None, labels: Path | None
) -> int:
    """Train c-net from a checkpoint of n-net."""
    if init is None:
        raise Refused("c-net begins with a trained n-net: name its checkpoint with --init")
    state = loop.load(init, NAME)
    s = NClassifier(detector=settings.from_dict(NDetector, state["settings"]))
    s = settings.override(settings.tiny_c_net(s) if tiny else s, sets)
    check(s.detector.samples, s.detector.net, s.case)
    scans, prepare = read(data, s.detector.samples.hold_out, labels)
    if state["settings"]["prepare"] != prepare:
        raise Refused(f"{init} was trained on scans prepared in another way: prepare these alike")
    if loop.place().world > 1:
        raise Refused("c-net is trained by one process: its turns leave parts of the network without gradient")
    pad = int(prepare["pad_value"])
    net = NNetwork(s.detector.net)
    loop.weights(net, state["ema"], init)
    out.mkdir(parents=True, exist_ok=True)
    crops = Crops(scans, dataclasses.replace(s.detector, loop=s.loop), pad)
    cases = Cases(scans, proposals(net, scans, s, out, pad, resume), s.case, s.loop.seed, pad)
    s.loop.steps = s.loop.steps or s.epochs * sum(turns(s, crops, cases))
    print(f"{len(scans)} cases, {sum(c.ill for c in scans)} of class 1; turns of {turns(s, crops, cases)} steps, "
          f"{s.loop.steps} in all; settings: {settings.changed(s)}", flush=True)  # fmt: skip
    return loop.train(Alternation(s, crops, cases, state["ema"], prepare), s.loop, out, resume=resume)


def proposals(net: NNetwork, scans: list[Scan], s: NClassifier, out: Path, pad: int, resume: bool) -> list[np.ndarray]:
    """Return n-net's proposals in every scan, from RUN/proposals.pt where a run goes on."""
    path = out / "proposals.pt"
    if resume and path.exists():
        kept = torch.load(path, weights_only=True)
        if list(kept) == [c.uid for c in scans]:
            return [rows.numpy() for rows in kept.values()]
    net = net.to(loop.place().device).eval()
    found = {}
    for k, scan in enumerate(scans):
        found[scan.uid] = propose(net, torch.from_numpy(scan.voxels), s.detector.net, s.case, pad)
        if (k + 1) % 20 == 0 or k + 1 == len(scans):
            print(f"proposals in {k + 1} of {len(scans)} scans", flush=True)
    loop.save(path, found)
    return [rows.numpy() for rows in found.values()]


def program(arguments: list[str], name: str) -> int:
    """Run as train_detector.py --net n-net or train_classifier.py --net c-net."""
    p = argparse.ArgumentParser(description=f"Train {name} on folders of `hilum train prepare`.")
    p.add_argument("data", nargs="+", type=Path)
    p.add_argument("--net", choices=[name])
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    p.add_argument("--tiny", action="store_true", help="settings of the tests")
    p.add_argument("--resume", action="store_true")
    p.add_argument("--init", type=Path, help="checkpoint of n-net to begin with")
    if name == CASE_NAME:
        p.add_argument("--labels", type=Path, help="CSV seriesuid,class; without it a scan with a nodule is of class 1")
    a = p.parse_args(arguments)
    if name == NAME:
        return detector(a.data, a.out, a.set, tiny=a.tiny, resume=a.resume, init=a.init)
    return classifier(a.data, a.out, a.set, tiny=a.tiny, resume=a.resume, init=a.init, labels=a.labels)


def asked(arguments: list[str], name: str) -> bool:
    """Tell whether --net asks for `name`."""
    return f"--net={name}" in arguments or ("--net", name) in pairwise(arguments)
