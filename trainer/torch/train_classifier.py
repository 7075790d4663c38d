"""Train the nodule classifier: readers for each of five folds of patients, measured on the patients left out.

    python train_classifier.py DATA --out RUN            # DATA/nodules/luna16 and its table, see nodules.py
    python train_classifier.py --tiny --out RUN          # simulated nodules, seconds; a test of the road
    python train_classifier.py DATA --out RUN --resume   # after a stop or a kill
    python export_classifier.py RUN MODEL_FOLDER

RUN/fold-K-M holds what loop.py writes for reader M of fold K; RUN/report.json the figures on patients that no
reader of theirs has seen, RUN/nodules.csv each nodule's. The shipped network is the committee of all readers.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn

import loop
import measure
import nodules
import train_n_net
import views
from classifier import TEXTURES, Committee, Reader, Shape
from settings import Loop, Refused, as_dict, override

NAME = "lung-nodule-classifier"


@dataclass
class Guide:
    """Weights of what is learned beside malignancy (weight 1)."""

    texture: float = 0.3
    calcified: float = 0.3
    spiculation: float = 0.3
    votes: float = 2.0  # between a target of 0 and of 1: mean votes of 2 and less, of 4 and more


@dataclass
class Settings:
    """All that decides a result."""

    folds: int = 5
    members: int = 2  # readers of each fold
    looks: int = 7  # views of each nodule; the first as annotated
    loop: Loop = field(
        default_factory=lambda: Loop(
            steps=700,
            batch=32,
            rate=3e-3,
            warmup=100,
            decay=0.02,
            ema=0.99,
            clip=2.0,
            workers=0,
            threads=1,
            bf16=False,
            log_every=35,
            save_every=140,
        )
    )
    shape: Shape = field(default_factory=Shape)
    jitter: views.Jitter = field(default_factory=views.Jitter)
    guide: Guide = field(default_factory=Guide)


def tiny() -> Settings:
    """Return settings that train in seconds on a busy CPU."""
    s = Settings(folds=2, members=1, looks=2)
    s.loop = dataclasses.replace(s.loop, steps=60, batch=8, warmup=6, ema=0.9, log_every=10, save_every=20)
    return s


class Readings:
    """The task for loop.py: one reader, trained on every patient outside its fold."""

    name = NAME

    def __init__(
        self,
        s: Settings,
        fold: int,
        member: int,
        bank: tuple[Tensor, Tensor],
        targets: Tensor,
        train: np.ndarray,
    ) -> None:
        self.s, self.bank, self.targets, self.train = s, bank, targets, train
        count = torch.bincount(targets[train, 1].long().clamp(0), minlength=TEXTURES).clamp(min=1)
        self.rare = (count.sum() / count).sqrt() / (count.sum() / count).sqrt().min()  # weights of the textures
        self.seed = s.loop.seed * 1_000_003 + fold * 1009 + member
        self.settings: dict[str, Any] = {**as_dict(s), "fold": fold, "member": member}

    def model(self) -> nn.Module:
        torch.manual_seed(self.seed)
        return Reader(self.s.shape)

    def sample(self, index: int) -> tuple[Tensor, ...]:
        """Return view [1,V,V,V], measures [MEASURES], targets [4], index; every nodule comes once a round."""
        round_, place = divmod(index, len(self.train))
        order = np.random.default_rng([self.seed, round_]).permutation(len(self.train))
        nodule = int(self.train[order[place]])
        rng = torch.Generator().manual_seed(self.seed * 7919 + index)
        number = int(torch.randint(len(self.bank[0]), (1,), generator=rng))
        view = views.turned(self.bank[0][number, nodule].float()[None, None], rng)
        return view[0].contiguous(), self.bank[1][number, nodule], self.targets[nodule], torch.tensor(index)

    def loss(self, net: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        view, known, target, index = batch
        torch.manual_seed(self.seed + int(index[0]))  # dropout of a resumed run is that of one never stopped
        malignancy, texture, guides = net(view, known)
        guide = self.s.guide
        first = F.binary_cross_entropy_with_logits(malignancy[:, 0], target[:, 0])
        kind = F.cross_entropy(texture, target[:, 1].long(), self.rare.to(texture), ignore_index=-1)
        told = (target[:, 2] >= 0).float()
        calcium = F.binary_cross_entropy_with_logits(guides[:, 0], target[:, 2].clamp(0), weight=told)
        spicules = F.mse_loss(torch.sigmoid(guides[:, 1]), target[:, 3])
        total = first + guide.texture * kind + guide.calcified * calcium + guide.spiculation * spicules
        right = ((malignancy[:, 0] > 0) == (target[:, 0] > 0.5)).float().mean()
        return total, {
            "loss": total.detach(),
            "malignancy loss": first.detach(),
            "texture loss": kind.detach(),
            "accuracy": right,
        }

    def row(self, sums: dict[str, float], steps: int) -> dict[str, float]:
        return {key: value / steps for key, value in sums.items()}


def targets(found: list[nodules.Nodule], guide: Guide) -> Tensor:
    """Return [n,4]: malignancy 0..1, index of the texture, calcium 0..1 (-1 unknown), spiculation 0..1."""
    rows = []
    for n in found:
        malignancy = min(max(0.5 + (n.malignancy - 3) / guide.votes, 0.0), 1.0)
        rows.append([malignancy, nodules.texture_class(n.texture), n.calcified, max(n.spiculation - 1, 0) / 4])
    return torch.tensor(rows, dtype=torch.float32)


def prepared(found: list[nodules.Nodule], s: Settings, out: Path) -> tuple[Tensor, Tensor]:
    """Return the bank of views, from RUN/views.pt where the same settings made it."""
    path = out / "views.pt"
    key = json.dumps([as_dict(s.shape), as_dict(s.jitter), s.looks, s.loop.seed, [n.name for n in found]])
    if path.exists():
        kept = torch.load(path, weights_only=True)
        if kept["key"] == key:
            return kept["views"], kept["measures"]
    print(f"looking at {len(found)} nodules, {s.looks} views each", flush=True)
    made = views.bank(found, s.looks, s.shape, s.jitter, s.loop.seed)
    loop.save(path, {"key": key, "views": made[0], "measures": made[1]})
    return made


def committee(s: Settings, out: Path, folds: list[int]) -> Committee:
    """Return the committee of the readers trained for these folds."""
    readers = []
    for fold in folds:
        for member in range(s.members):
            path = out / f"fold-{fold}-{member}" / loop.CHECKPOINT
            state = loop.load(path, NAME)
            if state["step"] < s.loop.steps:
                raise Refused(f"{path} is at step {state['step']} of {s.loop.steps}: go on with --resume")
            reader = Reader(s.shape)
            loop.weights(reader, state["ema"], path)
            readers.append(reader)
    return Committee(s.shape, readers).eval()


@torch.no_grad()
def held_out(s: Settings, out: Path, bank: tuple[Tensor, Tensor], fold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return logits [views,n] and textures [views,n,3] of every nodule from the readers of its own fold."""
    logits = np.zeros(bank[0].shape[:2])
    kinds = np.zeros((*bank[0].shape[:2], TEXTURES))
    for k in range(s.folds):
        judge = committee(s, out, [k])
        where = np.flatnonzero(fold == k)
        for number in range(len(bank[0])):
            for part in np.array_split(where, max(1, len(where) // 64)):
                logit, kind = judge.logits(bank[0][number, part].float()[:, None], bank[1][number, part])
                logits[number, part], kinds[number, part] = logit[:, 0].numpy(), kind.exp().numpy()
    return logits, kinds


def report(found: list[nodules.Nodule], fold: np.ndarray, logits: np.ndarray, kinds: np.ndarray) -> dict[str, Any]:
    """Return AUC with intervals, calibration, texture, leak; every nodule judged by its own fold."""
    source = np.array([n.source for n in found])
    vote = np.array([n.malignancy for n in found])
    patient = np.array([n.patient for n in found])
    diameter = np.array([n.diameter_mm for n in found])
    judged = (source == "luna16") & (vote != 3)
    truth = vote > 3

    def figure(where: np.ndarray, score: np.ndarray) -> dict[str, Any]:
        low, high = measure.auc_interval(truth[where], score[where], patient[where])
        return {
            "n": int(where.sum()),
            "malignant": int(truth[where].sum()),
            "auc": measure.auc(truth[where], score[where]),
            "interval": [low, high],
        }

    result: dict[str, Any] = {
        "as annotated": figure(judged, logits[0]),
        "diameter alone": figure(judged, diameter),
    }
    if len(logits) > 1:
        result["centre and diameter jittered"] = figure(judged, logits[1])
        result["jittered, each view"] = [measure.auc(truth[judged], row[judged]) for row in logits[1:]]
    result["each fold"] = [
        measure.auc(truth[judged & (fold == k)], logits[0][judged & (fold == k)]) for k in range(fold.max() + 1)
    ]
    for name, low, high in (("below 6 mm", 0, 6), ("6 to 10 mm", 6, 10), ("10 mm and more", 10, 999)):
        size = judged & (diameter >= low) & (diameter < high)
        if 0 < truth[size].sum() < size.sum():
            result[name] = figure(size, logits[0])
    for name in ("cubes", "context"):
        other = (source == name) & (vote != 3)
        if 0 < truth[other].sum() < other.sum():
            result[f"{name} (whole surroundings, one reader's vote)"] = figure(other, logits[0])
            result[f"{name}, diameter alone"] = figure(other, diameter)
    result.update(calibration(found, fold, logits[0], judged, truth))
    textures(found, kinds[0], source == "luna16", result)
    return result


def calibration(
    found: list[nodules.Nodule], fold: np.ndarray, logit: np.ndarray, judged: np.ndarray, truth: np.ndarray
) -> dict[str, Any]:
    """Return slope and shift of all, how those of other folds do, the leak of the noisy-or."""
    slope, shift = measure.fit_platt(truth[judged], logit[judged])
    probability = np.zeros(len(found))
    for k in range(fold.max() + 1):
        other = measure.fit_platt(truth[judged & (fold != k)], logit[judged & (fold != k)])
        probability[fold == k] = measure.sigmoid(other[0] * logit[fold == k] + other[1])
    rows, error = measure.reliability(truth[judged], probability[judged])
    patient = np.array([n.patient for n in found])
    groups = [np.flatnonzero(judged & (patient == p)) for p in np.unique(patient[judged])]
    ill = np.array([bool(truth[g].any()) for g in groups])
    leak = measure.fit_leak(ill, [probability[g] for g in groups])
    cases = np.array([measure.noisy_or(probability[g], leak) for g in groups])
    names = np.arange(len(groups))
    return {
        "slope": slope,
        "shift": shift,
        "reliability": rows,
        "ece": error,
        "brier": float(np.mean((probability[judged] - truth[judged]) ** 2)),
        "leak": leak,
        "case": {
            "n": len(groups),
            "malignant": int(ill.sum()),
            "auc": measure.auc(ill, cases),
            "interval": list(measure.auc_interval(ill, cases, names)),
        },
    }


def textures(found: list[nodules.Nodule], kind: np.ndarray, where: np.ndarray, result: dict[str, Any]) -> None:
    """Add the confusion of textures (rows the truth) and one-against-rest AUCs to result."""
    truth = np.array([nodules.texture_class(n.texture) for n in found])
    where = where & (truth >= 0)
    table = measure.confusion(truth[where], kind[where].argmax(1), TEXTURES)
    result["texture"] = {
        "names": list(nodules.TEXTURES),
        "confusion": table.tolist(),
        "accuracy": float(np.trace(table) / max(table.sum(), 1)),
        "auc": [measure.auc(truth[where] == c, kind[where][:, c]) for c in range(TEXTURES)],
    }


def write_table(path: Path, found: list[nodules.Nodule], fold: np.ndarray, logit: np.ndarray, result: dict) -> None:
    """Write every nodule's held-out judgement as CSV."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["name", "patient", "source", "fold", "diameter_mm", "malignancy_vote", "probability"])
        for n, k, z in zip(found, fold, logit, strict=True):
            probability = float(measure.sigmoid(result["slope"] * z + result["shift"]))
            table.writerow(
                [
                    n.name,
                    n.patient,
                    n.source,
                    k,
                    f"{n.diameter_mm:.2f}",
                    f"{n.malignancy:g}",
                    f"{probability:.4f}",
                ]
            )


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    p = argparse.ArgumentParser(description="Train the nodule classifier by folds of patients.")
    p.add_argument("data", nargs="?", type=Path, help="folder with nodules/luna16 and nodules/luna16.csv")
    p.add_argument("--net", choices=[NAME, train_n_net.CASE_NAME], default=NAME, help="c-net: train_n_net.py")
    p.add_argument("--out", type=Path, required=True, help="folder of the run")
    p.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting, such as loop.steps=300",
    )
    p.add_argument("--tiny", action="store_true", help="a minute's settings; without DATA on simulated nodules")
    p.add_argument("--folds", help="train only these, such as 0,2; the figures come when all are there")
    p.add_argument("--resume", action="store_true", help="go on with a run that was stopped or killed")
    return p


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    line = sys.argv[1:] if arguments is None else arguments
    if train_n_net.asked(line, train_n_net.CASE_NAME):
        return train_n_net.program(line, train_n_net.CASE_NAME)
    options = parser().parse_args(line)
    s = override(tiny() if options.tiny else Settings(), options.set)
    simulated = options.data is None
    if simulated and not options.tiny:
        raise Refused("give a folder of data, or --tiny for simulated nodules")
    found = nodules.simulate(40, s.loop.seed) if simulated else nodules.load(options.data)
    torch.set_num_threads(s.loop.threads or torch.get_num_threads())
    options.out.mkdir(parents=True, exist_ok=True)
    fold = nodules.folds(found, s.folds, s.loop.seed)
    bank = prepared(found, s, options.out)
    aim = targets(found, s.guide)
    # context is for testing only: it has nodules that other folders have too
    usable = np.array([n.source != "context" for n in found])
    wanted = [int(k) for k in options.folds.split(",")] if options.folds else list(range(s.folds))
    for member in range(s.members):
        for k in wanted:
            out = options.out / f"fold-{k}-{member}"
            if options.resume and finished(out, s):
                continue
            print(f"fold {k}, reader {member}: {int((usable & (fold != k)).sum())} nodules", flush=True)
            task = Readings(s, k, member, bank, aim, np.flatnonzero(usable & (fold != k)))
            status = loop.train(task, s.loop, out, resume=options.resume)
            if status:
                return status
    if len(wanted) < s.folds:
        return 0
    logits, kinds = held_out(s, options.out, bank, fold)
    result = {"simulated": simulated, "settings": as_dict(s), **report(found, fold, logits, kinds)}
    (options.out / "report.json").write_text(json.dumps(result, indent=1) + "\n")
    write_table(options.out / "nodules.csv", found, fold, logits[0], result)
    print(f"AUC {result['as annotated']['auc']:.3f}, interval {result['as annotated']['interval']}", flush=True)
    return 0


def finished(out: Path, s: Settings) -> bool:
    """Tell whether a reader's training is over."""
    path = out / loop.CHECKPOINT
    return path.exists() and loop.load(path, NAME)["step"] >= s.loop.steps


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
    try:
        sys.exit(main())
    except Refused as refused:
        sys.exit(f"error: {refused}")
