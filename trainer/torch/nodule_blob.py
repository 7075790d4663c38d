"""Write models/nodule-blob: a nodule detector that needs no training.

The network is a multi-scale Hessian blob detector with fixed weights. For each
of eight diameters d it smooths the scan with a Gaussian of sigma = d / (2 sqrt 3)
(the scale at which a ball of diameter d answers most) and takes the Hessian matrix.
Where that is negative definite, with l the sizes of its eigenvalues,

    response = 3 l_small^2 / l_large
    score    = sqrt(contrast) * (l_small / l_large)^2

and 0 elsewhere. The contrast is the scale-normalised Laplacian of Gaussian, 0.93
of a ball's real one. The ratio says how much the thing looks like a ball: a tube
(a vessel) or a plate (the pleura, a fissure) has a small l_small and gets nearly
nothing. Local maxima of the response are the candidates; the score ranks them:
by the root of the contrast, a round but faint thing, a ground-glass nodule, can
beat a bright but long one.

Large scales run on average-pooled grids. The output has the layout of the N-NET
family: [N, D/4, H/4, W/4, anchors, 5] with logit, dz, dy, dx, log(d / anchor).

    python nodule_blob.py ../../models/nodule-blob

The same script gives the same bytes. See models/README.md for what it can do.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17  # old enough for every runtime that we install, new enough for all that we use
IR_VERSION = 8  # the one that belongs to opset 17


@dataclass(frozen=True)
class Settings:
    """Everything that shapes the network and its manifest."""

    version: str = "1.0.0"
    smallest: float = 4.0  # mm, diameter of the first anchor
    largest: float = 31.0  # mm, diameter of the last anchor
    anchors: int = 8
    stride: int = 4  # voxels of 1 mm between the cells of the output
    # Grid (voxels of 1 mm) on which each anchor is computed: fine enough for the
    # anchor, coarse enough to be fast.
    grids: tuple[int, ...] = (1, 1, 2, 2, 2, 4, 4, 4)
    # Score at which the probability is one half, for each anchor; noise is strong
    # at the smallest. Set on synthetic nodules in three LUNA16 scans without
    # nodules and in phantoms: some eight false candidates a scan are above it.
    even_score: tuple[float, ...] = (0.31, 0.31, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25)
    steepness: float = 7.0  # logit for each e-fold of the score
    faintest: float = 0.02  # a response below this is no candidate
    truncate: float = 3.0  # Gaussians end after this many sigmas
    patch: tuple[int, int, int] = (192, 192, 192)  # voxels, the largest; memory grows with it
    margin: int = 32  # voxels, for the widest kernels
    rim: int = 24  # voxels of the margin that the anchors on the grid of 1 mm do not need
    scale: tuple[float, float] = (128.0, 128.0)  # (v - subtract) / divide

    def diameters(self) -> list[float]:
        """Return the anchors: a geometric row, rounded to what the manifest says."""
        ratio = (self.largest / self.smallest) ** (1 / (self.anchors - 1))
        return [round(self.smallest * ratio**i, 2) for i in range(self.anchors)]


@dataclass
class Graph:
    """Collects nodes and constants; every method returns the name of its output."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def constant(self, value: float | list | np.ndarray, dtype: type = np.float32) -> str:
        """Add a constant; equal ones are kept once."""
        array = np.asarray(value, dtype=dtype)
        digest = hashlib.sha256(repr((array.shape, str(array.dtype))).encode() + array.tobytes()).hexdigest()
        name = f"c_{digest[:12]}"
        self.constants.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def op(self, kind: str, *inputs: str, output: str | None = None, **attributes: object) -> str:
        """Add a node with one output."""
        name = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def mul(self, a: str, b: str | float) -> str:
        """Multiply by a tensor or a number."""
        return self.op("Mul", a, b if isinstance(b, str) else self.constant(b))

    def sum(self, *terms: str) -> str:
        """Add tensors one by one, so that runtimes can fuse them."""
        total = terms[0]
        for term in terms[1:]:
            total = self.op("Add", total, term)
        return total


def gaussian(sigma: float, truncate: float) -> np.ndarray:
    """Return a sampled Gaussian that sums to one."""
    radius = max(1, math.ceil(truncate * sigma))
    x = np.arange(-radius, radius + 1, dtype=np.float64)
    weights = np.exp(-0.5 * (x / sigma) ** 2)
    return weights / weights.sum()


def smooth(g: Graph, x: str, sigma: float, truncate: float) -> str:
    """Convolve with a Gaussian, one axis after the other."""
    weights = gaussian(sigma, truncate)
    radius = len(weights) // 2
    for axis in range(3):
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = len(weights)
        pads = [0, 0, 0]
        pads[axis] = radius
        kernel = g.constant(weights.reshape(shape))
        x = g.op("Conv", x, kernel, pads=pads * 2, kernel_shape=shape[2:])
    return x


def second_differences() -> np.ndarray:
    """Return kernels [6, 1, 3, 3, 3] for zz, yy, xx, yz, xz, xy."""
    k = np.zeros((6, 3, 3, 3))
    for n in range(3):  # zz, yy, xx
        for step, weight in ((-1, 1.0), (0, -2.0), (1, 1.0)):
            place = [1, 1, 1]
            place[n] += step
            k[n][tuple(place)] += weight
    for n, (a, b) in enumerate(((1, 2), (0, 2), (0, 1)), start=3):
        for sa in (-1, 1):
            for sb in (-1, 1):
                place = [1, 1, 1]
                place[a] += sa
                place[b] += sb
                k[n][tuple(place)] += 0.25 * sa * sb
    return k[:, None]


def response(g: Graph, x: str, sigma: float) -> tuple[str, str]:
    """Return the response and the score of a smoothed volume [N,1,d,h,w].

    Sigma is in its voxels. The response 3 l_small^2 / l_large has its maxima in
    the middle of balls and at their scale; the score ranks them.
    """
    # The factor sigma^2 goes into the kernels.
    hessian = g.op(
        "Conv", x, g.constant(sigma**2 * second_differences()), pads=[1] * 6, kernel_shape=[3, 3, 3]
    )  # [N,6,d,h,w]
    parts = [f"{hessian}_{n}" for n in ("zz", "yy", "xx", "yz", "xz", "xy")]
    g.nodes.append(helper.make_node("Split", [hessian], parts, name=f"{hessian}_split", axis=1))
    zz, yy, xx, yz, xz, xy = parts
    # Eigenvalues of a symmetric 3x3 matrix in closed form: with mean q and
    # spread p, they are q + 2 p cos(phi + 2 pi k / 3), phi = acos(det / 2 p^3) / 3.
    q = g.mul(g.sum(zz, yy, xx), 1 / 3)
    a, b, c = (g.op("Sub", v, q) for v in (zz, yy, xx))
    yz2, xz2, xy2 = (g.mul(v, v) for v in (yz, xz, xy))
    p2 = g.sum(g.mul(g.sum(g.mul(a, a), g.mul(b, b), g.mul(c, c)), 1 / 6), g.mul(g.sum(yz2, xz2, xy2), 1 / 3))
    p = g.op("Sqrt", g.op("Add", p2, g.constant(1e-12)))
    # det = a b c + 2 yz xz xy - a xy^2 - b xz^2 - c yz^2
    det = g.op(
        "Sub",
        g.sum(g.mul(g.mul(a, b), c), g.mul(g.mul(g.mul(yz, xz), xy), 2.0)),
        g.sum(g.mul(a, xy2), g.mul(b, xz2), g.mul(c, yz2)),
    )
    ratio = g.op("Div", det, g.mul(g.mul(g.mul(p, p), p), 2.0))
    phi = g.mul(g.op("Acos", g.op("Clip", ratio, g.constant(-1.0), g.constant(1.0))), 1 / 3)
    twice = g.mul(p, 2.0)
    upper = g.op("Add", q, g.mul(twice, g.op("Cos", phi)))  # least negative: l_small
    lower = g.op("Add", q, g.mul(twice, g.op("Cos", g.op("Add", phi, g.constant(2 * math.pi / 3)))))
    # Negative definite where the least negative one is below 0.
    small = g.op("Relu", g.op("Neg", upper))
    large = g.op("Max", g.op("Neg", lower), g.constant(1e-6))
    likeness = g.op("Div", small, large)
    contrast = g.op("Sqrt", g.op("Max", g.mul(q, -3.0), g.constant(1e-6)))
    blob = g.mul(g.mul(small, likeness), 3.0)
    return blob, g.mul(contrast, g.mul(likeness, likeness))


def within(cell: int) -> np.ndarray:
    """Return kernels [4, 1, cell, cell, cell]: ones, and the z, y, x distance from the middle."""
    steps = np.arange(cell) - (cell - 1) / 2
    z, y, x = np.meshgrid(steps, steps, steps, indexing="ij")
    return np.stack([np.ones_like(z), z, y, x])[:, None]


def peaks(g: Graph, r: str, score: str, grid: int, s: Settings) -> tuple[str, str]:
    """Return the best score among the local maxima of r in each cell, and its place.

    The first is [N,1,D/4,H/4,W/4], 0 where there is none; the second is
    [N,3,D/4,H/4,W/4], in voxels from the middle of the cell.
    """
    cell = s.stride // grid
    # On the fine grid a wider window keeps one maximum for each cell or so.
    window = 5 if grid == 1 else 3
    highest = g.op("MaxPool", r, kernel_shape=[window] * 3, pads=[window // 2] * 6, strides=[1] * 3)
    is_peak = g.op("Cast", g.op("Equal", r, highest), to=TensorProto.FLOAT)
    above = g.op("Cast", g.op("Greater", r, g.constant(s.faintest)), to=TensorProto.FLOAT)
    peak = g.mul(g.mul(score, is_peak), above)
    pool = {"kernel_shape": [cell] * 3, "strides": [cell] * 3}
    strongest = g.op("MaxPool", peak, **pool) if cell > 1 else peak
    # Centre of gravity of the cell's maxima, nearly always of one.
    sums = g.op("Conv", peak, g.constant(within(cell)), **pool)  # [N,4,...]
    total, moments = f"{sums}_total", f"{sums}_moments"
    sizes = g.constant([1, 3], np.int64)
    g.nodes.append(helper.make_node("Split", [sums, sizes], [total, moments], name=f"{sums}_split", axis=1))
    if grid > 1:
        # Below a voxel: the top of the parabola through the neighbours on each axis.
        first = np.zeros((3, 1, 3, 3, 3))
        for n in range(3):
            for step in (-1, 1):
                place = [1, 1, 1]
                place[n] += step
                first[n, 0][tuple(place)] = step / 2
        slope = g.op("Conv", r, g.constant(first), pads=[1] * 6, kernel_shape=[3] * 3)
        bend = g.op("Conv", r, g.constant(second_differences()[:3]), pads=[1] * 6, kernel_shape=[3] * 3)
        bend = g.op("Min", bend, g.constant(-1e-6))
        shift = g.op("Clip", g.op("Neg", g.op("Div", slope, bend)), g.constant(-0.5), g.constant(0.5))
        shift = g.mul(shift, peak)
        if cell > 1:
            shift = g.mul(g.op("AveragePool", shift, **pool), float(cell**3))
        moments = g.op("Add", moments, shift)
    place = g.op("Div", moments, g.op("Max", total, g.constant(s.faintest)))
    return strongest, g.mul(place, float(grid))


def without_rim(g: Graph, x: str, rim: int) -> str:
    """Cut rim voxels off each side of [N,1,d,h,w]."""
    axes = g.constant([2, 3, 4], np.int64)
    return g.op("Slice", x, g.constant([rim] * 3, np.int64), g.constant([-rim] * 3, np.int64), axes)


def with_rim(g: Graph, x: str, rim: int) -> str:
    """Put rim zeros at each side of [N,C,d,h,w]."""
    return g.op("Pad", x, g.constant([0, 0, rim, rim, rim] * 2, np.int64))


def network(s: Settings) -> onnx.ModelProto:
    """Build the whole graph."""
    g = Graph()
    volume = "volume"  # [N,1,D,H,W]
    middle = without_rim(g, volume, s.rim)  # most of the work is on this grid
    half = g.op("AveragePool", volume, kernel_shape=[2] * 3, strides=[2] * 3)
    quarter = g.op("AveragePool", half, kernel_shape=[2] * 3, strides=[2] * 3)
    grids = {1: middle, 2: half, 4: quarter}
    diameters = s.diameters()
    strengths, tops, places = [], [], []
    for d, grid in zip(diameters, s.grids, strict=True):
        sigma = d / (2 * math.sqrt(3))
        # Pooling has smoothed already, as a box of grid voxels does.
        variance = sigma**2 - (grid**2 - 1) / 12
        smoothed = smooth(g, grids[grid], math.sqrt(variance) / grid, s.truncate)
        r, score = response(g, smoothed, sigma / grid)
        strength, place = peaks(g, r, score, grid, s)
        cell = s.stride // grid
        top = g.op("MaxPool", r, kernel_shape=[cell] * 3, strides=[cell] * 3) if cell > 1 else r
        if grid == 1:
            strength, place, top = (with_rim(g, v, s.rim // s.stride) for v in (strength, place, top))
        strengths.append(strength)
        places.append(g.mul(place, 1 / d))
        tops.append(top)
    # Between the scales: the top of the parabola through the cell's responses.
    step = math.log(s.largest / s.smallest) / (s.anchors - 1)
    anchors = []
    for n, strength in enumerate(strengths):
        if 0 < n < s.anchors - 1:
            rise = g.mul(g.op("Sub", tops[n + 1], tops[n - 1]), 0.5)
            bend = g.op("Sub", g.sum(tops[n + 1], tops[n - 1]), g.mul(tops[n], 2.0))
            bend = g.op("Min", bend, g.constant(-1e-6))
            size = g.op("Clip", g.op("Neg", g.op("Div", rise, bend)), g.constant(-0.5), g.constant(0.5))
            size = g.mul(size, step)
        else:
            size = g.mul(strength, 0.0)
        floor = g.op("Max", strength, g.constant(s.faintest / 10))
        logit = g.mul(g.op("Sub", g.op("Log", floor), g.constant(math.log(s.even_score[n]))), s.steepness)
        channels = g.op("Concat", logit, places[n], size, axis=1)  # [N,5,D/4,H/4,W/4]
        anchors.append(g.op("Unsqueeze", channels, g.constant([1], np.int64)))
    joined = g.op("Concat", *anchors, axis=1)  # [N,A,5,D/4,H/4,W/4]
    g.op("Transpose", joined, output="candidates", perm=[0, 3, 4, 5, 1, 2])

    shape_in = ["N", 1, "D", "H", "W"]
    shape_out = ["N", "D/4", "H/4", "W/4", s.anchors, 5]
    graph = helper.make_graph(
        g.nodes,
        "nodule-blob",
        [helper.make_tensor_value_info(volume, TensorProto.FLOAT, shape_in)],
        [helper.make_tensor_value_info("candidates", TensorProto.FLOAT, shape_out)],
        initializer=list(g.constants.values()),
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="hilum trainer/torch/nodule_blob.py",
        producer_version=s.version,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def measured() -> list[dict]:
    """Return the figures of models/README.md; measure again when the network changes."""
    phantoms = "6 phantoms of trainer/phantom (seeds 100-105, default size), 48 nodules of 6 mm and more"
    command = "go test ./plugins/lungnodule -run TestFigures -figures -v"
    return [
        {
            "name": "sensitivity at the threshold",
            "value": 0.92,
            "interval": [0.80, 0.97],
            "data": phantoms,
            "command": command,
        },
        {
            "name": "false positives a scan at the threshold",
            "value": 7.8,
            "data": phantoms,
            "command": command,
        },
        {
            "name": "rank of the one LUNA16 nodule (23.4 mm)",
            "value": 1,
            "data": "LIDC-IDRI-0001, 4 findings",
            "command": "go test ./plugins/lungnodule -run TestLidc0001 -v",
        },
    ]


def manifest(s: Settings, network_bytes: bytes) -> dict:
    """Return model.json; models/README.md explains the keys."""
    return {
        "name": "nodule-blob",
        "version": s.version,
        "task": "nodule-detection",
        "sha256": hashlib.sha256(network_bytes).hexdigest(),
        "input": {
            "name": "volume",
            "prepare": {
                "spacing_mm": [1, 1, 1],
                "window_hu": [-1200, 600],
                "pad_value": 170,
                "masking": True,
                "hull_growth": 1.5,
                "dilate_mm": 10,
                "bone_value": 210,
                "margin_voxels": [5, 10],
            },
            "scale": {"subtract": s.scale[0], "divide": s.scale[1]},
            "patch": list(s.patch),
            "step": s.stride,
            "margin": s.margin,
            "batch": 1,
            "reach_mm": 15,
        },
        "output": {
            "name": "candidates",
            "stride": s.stride,
            "anchors": s.diameters(),
            "threshold": 0.5,
            "nms_iou": 0.05,
            "merge": 1.5,
            "min_in_lung": 0.5,
            "top_k": 100,
        },
        # Measured: OpenVINO runs this graph nine times slower.
        "cpu_providers": ["cpu"],
        "provenance": {
            "data": "none: all weights are computed; the calibration was set on synthetic nodules in "
            "three LUNA16 scans without nodules (CC BY 4.0) and in phantoms of trainer/phantom",
            "code": "trainer/torch/nodule_blob.py",
            "command": "python trainer/torch/nodule_blob.py models/nodule-blob",
            "settings": "the defaults of Settings",
            "metrics": measured(),
        },
        "licence": "Apache-2.0",
        "intended_use": "Research use, not a medical device. A baseline that learned models must beat, and a "
        "check that the whole road works; its findings are no basis for any decision about a patient.",
    }


def write(folder: Path, s: Settings) -> None:
    """Write model.onnx and model.json."""
    network_bytes = network(s).SerializeToString(deterministic=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(network_bytes)
    text = json.dumps(manifest(s, network_bytes), indent=2, ensure_ascii=False) + "\n"
    (folder / "model.json").write_text(text, encoding="utf-8")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="model folder to write, e.g. models/nodule-blob")
    write(parser.parse_args().folder, Settings())


if __name__ == "__main__":
    main()
