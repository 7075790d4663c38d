"""Finds a detector's false positives in its own training scans, to train it on them again.

    python mine.py CHECKPOINT DATA... --out mined.npz
    python train_detector.py DATA... --out RUN --init CHECKPOINT --mined mined.npz

The scans are those that the checkpoint was trained on: its fold and the series it held out stay out. What
lies at a nodule, or at a finding that counts neither way, is no false positive. The file has an array
[n, 4] for each scan: z, y, x (voxels of the prepared scan) and probability.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import detect
import settings
import sources

LEAST = 0.1  # probability from which a finding counts
MOST = 150  # findings of a scan, the most probable ones
REACH = 20  # mm outside the lung that are searched, as the exported model says to the plugin
AWAY = 4.0  # mm beyond the radius of a nodule from which a finding is another one


def region(b: sources.Background) -> np.ndarray:
    """Return where findings are looked for."""
    return b.edge > -REACH


def false(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return those of the findings [n, 5] that lie at no row of the truth [k, 5]."""
    if not len(truth) or not len(found):
        return found
    far = np.linalg.norm(found[:, None, :3] - truth[None, :, :3], axis=-1)
    return found[(far > truth[None, :, 3] / 2 + AWAY).all(1)]


def mine(net: detect.HilumNet, anchor: float, b: sources.Background, pad: int, least: float, most: int) -> np.ndarray:
    """Return the false positives [n, 4] in one scan."""
    more = most + 2 * len(b.truth)  # room for the nodules themselves
    found = false(detect.candidates(net, anchor, b.voxels, pad, region(b), least, more), b.truth)
    return found[:most, [0, 1, 2, 4]].astype(np.float32)


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write the file as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as f:
            np.savez_compressed(f, **arrays)
        os.chmod(part, 0o644)
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise


def main() -> int:
    """Run the program."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("checkpoint", type=Path)
    p.add_argument("data", nargs="+", type=Path)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    p.add_argument("--excluded", type=Path, help="findings in the scans that count neither way")
    p.add_argument("--least", type=float, default=LEAST, help="probability from which a finding counts")
    p.add_argument("--most", type=int, default=MOST, help="findings of a scan")
    p.add_argument("--threads", type=int, default=0, help="0: PyTorch's choice")
    a = p.parse_args()
    try:
        if a.threads:
            torch.set_num_threads(a.threads)
        net, s, state = detect.load(a.checkpoint)
        s = settings.override(s, a.set)
        found = sources.read(a.data, s.compose, a.excluded)
        if found.prepare != state["settings"]["prepare"]:
            raise settings.Refused("the scans were prepared in another way than those the checkpoint was trained on")
        mined = {}
        for b in found.backgrounds:
            if b.context:
                continue
            mined[b.name] = mine(net, s.net.anchor, b, int(found.prepare["pad_value"]), a.least, a.most)
            high = mined[b.name][:, 3]
            print(
                f"scan {len(mined)}: {len(high)} false positives from {a.least:g}, "
                f"{(high >= 0.5).sum()} from .5, {(high >= 0.9).sum()} from .9",
                flush=True,
            )
        write(a.out, mined)
    except settings.Refused as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
