"""Writes the networks of the plugin's tests into the folder of this file.

They are a few nodes each, so that a test can compute by hand what they answer:

bright.onnx    a detector, stride 4, one anchor: logit 40 * (mean of the cell - 0.8)
lean.onnx      as bright, but of the first of the cell's four slices alone, and dz is 0.25
place.onnx     a detector with a place, stride 4: logit 8 z + 4 y + 2 x + 3 of the cell's place
centre.onnx    a second network: logit 8 * mean of the crop's 4 x 4 x 4 middle
judge.onnx     a classifier: malignancy sigmoid(2 * m + 0.1 * diameter - 2), texture
               softmax(9 m, 4, 9 (1 - m)), where m is the mean of the crop
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


def write(name: str, nodes: list, inputs: dict, outputs: dict, constants: dict) -> None:
    def values(shapes: dict) -> list:
        return [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in shapes.items()]

    tensors = [numpy_helper.from_array(np.array(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, name, values(inputs), values(outputs), tensors)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="hilum"
    )
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    (Path(__file__).parent / f"{name}.onnx").write_bytes(
        model.SerializeToString(deterministic=True)
    )


def node(kind: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def bright(name: str, slices: int, dz: float) -> None:
    k = np.float32([40, 0, 0, 0, 0])
    b = np.float32([-40 * 0.8, dz, 0, 0, 0])
    nodes = [
        node("AveragePool", "volume", "cells", kernel_shape=[slices, 4, 4], strides=[4, 4, 4]),
        node("Transpose", "cells", "last", perm=[0, 2, 3, 4, 1]),
        node("Unsqueeze", "last five", "anchors"),
        node("Mul", "anchors k", "scaled"),
        node("Add", "scaled b", "candidates"),
    ]
    shape = ["n", "d", "h", "w", 1, 5]
    write(
        name,
        nodes,
        {"volume": ["n", 1, "z", "y", "x"]},
        {"candidates": shape},
        {"five": np.int64([5]), "k": k, "b": b},
    )


def place() -> None:
    k = np.float32([8, 4, 2]).reshape(1, 3, 1, 1, 1)
    nodes = [
        node("AveragePool", "volume", "cells", kernel_shape=[4, 4, 4], strides=[4, 4, 4]),
        node("Mul", "cells nothing", "zero"),  # a network looks at its volume
        node("Mul", "place k", "weighted"),
        node("ReduceSum", "weighted one", "sum"),
        node("Add", "sum three", "logit"),
        node("Add", "logit zero", "all"),
        node("Transpose", "all", "last", perm=[0, 2, 3, 4, 1]),
        node("Unsqueeze", "last five", "anchors"),
        node("Pad", "anchors pads", "candidates"),
    ]
    write(
        "place",
        nodes,
        {"volume": ["n", 1, "z", "y", "x"], "place": ["n", 3, "d", "h", "w"]},
        {"candidates": ["n", "d", "h", "w", 1, 5]},
        {
            "nothing": np.float32(0),
            "k": k,
            "one": np.int64([1]),
            "three": np.float32(3),
            "five": np.int64([5]),
            "pads": np.int64([0] * 11 + [4]),
        },
    )


def centre() -> None:
    nodes = [
        node("Slice", "crops first last axes", "middle"),
        node("ReduceMean", "middle", "mean", axes=[2, 3, 4], keepdims=0),
        node("Mul", "mean k", "logit"),
    ]
    constants = {
        "first": np.int64([14, 14, 14]),
        "last": np.int64([18, 18, 18]),
        "axes": np.int64([2, 3, 4]),
        "k": np.float32(8),
    }
    write("centre", nodes, {"crops": ["n", 1, 32, 32, 32]}, {"logit": ["n", 1]}, constants)


def judge() -> None:
    nodes = [
        node("ReduceMean", "crops", "mean", axes=[2, 3, 4], keepdims=0),
        node("Mul", "mean two", "a"),
        node("Mul", "diameter_mm tenth", "b"),
        node("Add", "a b", "ab"),
        node("Sub", "ab two", "logit"),
        node("Sigmoid", "logit", "malignancy"),
        node("Mul", "mean k", "scaled"),
        node("Add", "scaled t", "textures"),
        node("Softmax", "textures", "texture", axis=1),
    ]
    constants = {
        "two": np.float32(2),
        "tenth": np.float32(0.1),
        "k": np.float32([9, 0, -9]),
        "t": np.float32([0, 4, 9]),
    }
    write(
        "judge",
        nodes,
        {"crops": ["n", 1, 16, 16, 16], "diameter_mm": ["n", 1]},
        {"malignancy": ["n", 1], "texture": ["n", 3]},
        constants,
    )


if __name__ == "__main__":
    bright("bright", 4, 0)
    bright("lean", 1, 0.25)
    place()
    centre()
    judge()
