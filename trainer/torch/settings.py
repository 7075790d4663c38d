"""Defaults of the networks trained here, and how they are changed on the command line.

Every value that decides a result stands here once. `--set loop.steps=2000` changes one; the
checkpoint and the exported manifest carry those that differ from the defaults.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args, get_type_hints

T = TypeVar("T")


class Refused(Exception):
    """A failure that its message explains in one sentence; the programs print it and exit 1."""


@dataclass
class Loop:
    """How long and how fast any network is trained (loop.py)."""

    seed: int = 1
    steps: int = 20_000
    batch: int = 8  # samples of one step, over all devices
    rate: float = 2e-3  # highest learning rate
    warmup: int = 300  # steps from 0 to the highest rate; from there a cosine to 0
    momentum: float = 0.0  # above 0: SGD with it instead of AdamW
    drops: tuple[float, ...] = ()  # shares of the steps where the rate falls to a tenth, instead of the cosine
    decay: float = 1e-4  # of weights with more than one dimension
    ema: float = 0.996  # of the weights that are exported
    clip: float = 5.0  # largest norm of the gradient
    minutes: float = 0.0  # end of the schedule by the clock instead of steps; 0: by steps
    workers: int = 1  # processes that make samples
    threads: int = 0  # of the network on a CPU; 0: PyTorch's choice
    bf16: bool = True  # forward pass under autocast, where the device has instructions for it
    log_every: int = 50  # steps of a line
    save_every: int = 500  # steps between checkpoints


@dataclass
class Compose:
    """How training crops are made (compose.py). Lengths in mm, which are voxels of the 1 mm grid."""

    crop: int = 64
    fold: int = -1  # 0..4: this fifth of the patients is left out; -1: none
    folds: int = 5
    hold_out: str = ""  # series that are left out, separated by commas
    context: float = 0.15  # share of crops from the surroundings of real nodules, where there are any
    empty: float = 0.15  # share of crops into which nothing is pasted
    most: int = 3  # nodules pasted into one crop
    simulated: float = 0.25  # share of pasted nodules that are drawn, not real
    pleural: float = 0.35  # share of pasted nodules within .8 radii of the lung's edge
    smallest: float = 3.5  # diameters are drawn flat in the logarithm from here ...
    usual: float = 20.0  # ... to here,
    largest: float = 50.0  # and a share of `masses` from there to here
    masses: float = 0.15
    small: float = 0.3  # share drawn from smallest to 7 mm instead
    distractors: float = 0.4  # share of crops with pasted tubes, forks and plates, which are no nodules
    buried: float = 0.45  # a paste that changes a smaller part of its voxels by 150 HU is dropped
    mined: float = 0.35  # share of crops around the network's own false positives, once there are any


@dataclass
class Net:
    """hilum-net (hilum_net.py). Channels in multiples of 8 suit every kernel."""

    widths: tuple[int, ...] = (16, 48, 96, 128)  # at strides 2, 4, 8, 16
    blocks: tuple[int, ...] = (1, 2, 2, 2)
    head: int = 64
    anchor: float = 8.0  # voxels; offsets and log diameters are in its units


@dataclass
class Loss:
    """Assignment and loss of the detector (loss.py)."""

    top_k: int = 7
    near: float = 4.0  # cells within max(near, r/2) voxels of a centre may be positive
    ring: float = 7.0  # those within max(ring, 1.1 r) that are not are ignored
    alpha: float = 0.75
    gamma: float = 2.0
    hardest: int = 100  # negatives for each nodule
    offset: float = 1.0  # weights beside the classification's 1
    size: float = 0.5


@dataclass
class Detector:
    """All settings of the detector."""

    loop: Loop = field(default_factory=Loop)
    compose: Compose = field(default_factory=Compose)
    net: Net = field(default_factory=Net)
    loss: Loss = field(default_factory=Loss)


@dataclass
class NNet:
    """n-net (n_net.py) and where it looks. Lengths in voxels of 1 mm."""

    first: int = 24  # channels of the first block
    widths: tuple[int, ...] = (32, 64, 64, 64)  # at strides 2, 4, 8, 16
    blocks: tuple[int, ...] = (2, 2, 3, 3)
    back: tuple[int, ...] = (64, 128)  # on the way back, at strides 8 and 4
    head: int = 64
    dropout: float = 0.2
    anchors: tuple[float, ...] = (10.0, 30.0, 60.0)
    core: int = 144  # of a tile of a whole scan,
    margin: int = 32  # and what is seen around it


@dataclass
class NSamples:
    """What n-net is shown (n_samples.py)."""

    crop: int = 128
    hold_out: str = ""  # series that are left out, separated by commas
    smallest: float = 6.0  # nodules larger than this come once an epoch,
    large: float = 30.0  # larger than this 2 more times,
    huge: float = 40.0  # larger than this 4 more times beside
    random: float = 0.3  # share of crops that are anywhere
    bound: int = 12  # voxels that a nodule keeps from the crop's sides
    flip: bool = True  # in plane
    swap: bool = False  # y and x
    scale: tuple[float, ...] = (0.75, 1.25)
    diameters: tuple[float, ...] = (8.0, 100.0)  # scaling leads no nodule out of these


@dataclass
class NLoss:
    """Targets and loss of n-net (n_loss.py)."""

    positive: float = 0.5  # an anchor with more overlap (IoU) may be the crop's positive
    negative: float = 0.02  # one with less is a negative
    negatives: int = 800  # drawn for each sample,
    hardest: int = 2  # of which so many count


@dataclass
class CNet:
    """c-net: the case classifier over n-net's proposals (n_net.py, n_samples.py)."""

    crop: int = 96
    top: int = 5  # proposals of a case
    temperature: float = 1.0  # of their choice in training
    logit: float = -3.0  # proposals have more
    overlap: float = 0.05  # and overlap (IoU) less with better ones
    scale: tuple[float, ...] = (0.85, 1.15)
    jitter: float = 0.15  # of the diameter
    hidden: int = 64
    dropout: float = 0.5
    base: float = -30.0  # first logit of the leak
    miss: float = 1.0  # weight of the miss loss,
    missed: float = 0.03  # which known nodules with a lower probability have
    frozen: float = 0.77  # share of the steps from which batch norms stand still: epochs 130 to 160 of 30 to 160


def step_loop(drops: tuple[float, ...]) -> Loop:
    """Return the schedule that n-net and c-net were published with."""
    return Loop(steps=0, batch=4, rate=0.01, warmup=0, momentum=0.9, drops=drops, ema=0.0, clip=1e9, bf16=False)


@dataclass
class NDetector:
    """All settings of n-net. loop.steps=0: as many as the epochs have."""

    epochs: int = 100
    loop: Loop = field(default_factory=lambda: step_loop((0.5, 0.8)))
    net: NNet = field(default_factory=NNet)
    samples: NSamples = field(default_factory=NSamples)
    loss: NLoss = field(default_factory=NLoss)


@dataclass
class NClassifier:
    """All settings of c-net; the net and the crops of n-net are those of its checkpoint.

    The epochs are 30 to 160 of the published schedule, with n-net's own for the first 30; the rate
    falls at 50, 100 and 140.
    """

    epochs: int = 130
    loop: Loop = field(default_factory=lambda: step_loop((0.154, 0.538, 0.846)))
    case: CNet = field(default_factory=CNet)
    detector: NDetector = field(default_factory=NDetector)


def tiny_n_net(s: NDetector) -> NDetector:
    """Return settings of n-net that train on a busy CPU in seconds, for tests."""
    s.net = NNet(8, (8, 8, 8, 8), (1, 1, 1, 1), (8, 16), 16, 0.0, anchors=(10.0,), core=32, margin=16)
    s.samples = dataclasses.replace(s.samples, crop=32, bound=6)
    s.loss.hardest = 400  # with the hardest two alone a short run stays at one answer for everything
    s.loop = dataclasses.replace(s.loop, steps=60, rate=0.05, log_every=10, save_every=30, workers=0, threads=1)
    return s


def tiny_c_net(s: NClassifier) -> NClassifier:
    """Return settings of c-net for tests."""
    s.case = dataclasses.replace(s.case, crop=32, top=2, hidden=8, dropout=0.0)
    s.loop = dataclasses.replace(s.loop, steps=48, rate=0.05, log_every=8, save_every=40, workers=0, threads=1)
    return s


def tiny(s: Detector) -> Detector:
    """Return settings that train on a busy CPU in less than a minute, for tests."""
    s.net = Net(widths=(8, 16, 24, 32), blocks=(1, 1, 1, 1), head=16)
    s.compose = dataclasses.replace(s.compose, crop=32, smallest=6.0, usual=14.0, masses=0.0, small=0.0)
    s.loop = dataclasses.replace(
        s.loop, steps=150, batch=4, warmup=10, ema=0.95, threads=1, bf16=False, log_every=10, save_every=30
    )
    return s


def override(settings: T, changes: list[str]) -> T:
    """Apply `key=value` changes, keys dotted; the value is read by the type of what it replaces."""
    for change in changes:
        path, sign, text = change.partition("=")
        at: Any = settings
        *groups, name = path.split(".")
        for group in groups:
            at = getattr(at, group, None)
        if not sign or not dataclasses.is_dataclass(at) or name not in {f.name for f in dataclasses.fields(at)}:
            raise Refused(f"--set {change}: there is no setting {path}; they are in settings.py")
        try:
            setattr(at, name, read(text, get_type_hints(type(at))[name]))
        except (ValueError, TypeError):
            raise Refused(f"--set {change}: {text!r} is no value for {path}") from None
    return settings


def read(text: str, kind: Any) -> Any:  # noqa: ANN401 - the type is that of the field
    """Read a value of a settings field."""
    if kind is bool:
        return (
            {"true": True, "1": True, "false": False, "0": False}[text.lower()]
            if text.lower() in ("true", "1", "false", "0")
            else int("no")
        )
    if kind in (int, float, str):
        return kind(text)
    return tuple(get_args(kind)[0](part) for part in text.split(",") if part)


def as_dict(settings: object) -> dict[str, Any]:
    """Return settings as plain values, as JSON would give them back."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def from_dict(kind: type[T], values: dict[str, Any]) -> T:
    """Return the settings that as_dict made, with defaults for keys that are new since."""
    made = kind()
    hints = get_type_hints(kind)
    for name, value in values.items():
        if name not in hints:
            continue
        if dataclasses.is_dataclass(hints[name]):
            value = from_dict(hints[name], value)
        elif isinstance(value, list):
            value = tuple(value)
        setattr(made, name, value)
    return made


def changed(settings: object) -> str:
    """Return the settings that are not the defaults, as `--set` takes them."""

    def walk(now: dict[str, Any], then: dict[str, Any], prefix: str) -> list[str]:
        out: list[str] = []
        for key, value in now.items():
            if isinstance(value, dict):
                out += walk(value, then[key], f"{prefix}{key}.")
            elif value != then[key]:
                text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
                out.append(f"{prefix}{key}={text}")
        return out

    return " ".join(walk(as_dict(settings), as_dict(type(settings)()), "")) or "the defaults"
