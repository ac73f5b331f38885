"""The networks that are deployed on emulated clusters, as bundles that take tensors: so a frame is as large as cut 0,
which is what the planner reckons with. (An image would be smaller.)

ResNet-50 and VGG-19 are the copies without trained weights that the `onnx` package has. It has no MobileNetV2: the one
here follows table 2 of Sandler et al. (arXiv 1801.04381) layer by layer, with batch normalisation folded into the
convolutions and random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.subjects import MissingSubjectError
from planner.chain import Chain
from stages.bundle import Bundle, write_bundle
from stages.description import describe
from stages.graph import ModelGraph
from stages.manifest import ImageInput, TensorInput
from understudy.data import digits_bundle

SIDE = 224
CLASSES = 1000

BOTTLENECKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""t, c, n, s: expansion, channels, how often, stride of the first."""


def network(name: str, folder: Path) -> Bundle:
    """A network by its name.

    Args:
        folder: for bundles that are made on the way; one that is there is used again.

    Raises:
        MissingSubjectError: the installed `onnx` package has no such file.
        KeyError: there is no network of that name.
    """
    make = NETWORKS[name]
    if make is None:
        return digits_bundle()
    target = folder / name
    if not target.exists():
        path = make(folder)
        draft = describe(ModelGraph.load(path), name=name)
        names = (draft.input.name,) if isinstance(draft.input, ImageInput) else draft.input.names
        write_bundle(target, draft.model_copy(update={"input": TensorInput(names=names)}), model_path=path)
    return Bundle.load(target)


def chain_of(bundle: Bundle) -> Chain:
    return ModelGraph.load(bundle.model_path, shapes=bundle.manifest.shapes).chain()


def _light(name: str) -> Callable[[Path], Path]:
    def find(_: Path) -> Path:
        path = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"
        if not path.is_file():
            raise MissingSubjectError(f"the installed onnx package has no {path.name}")
        return path

    return find


class _Builder:
    """Appends layers; each method returns the name of its output."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(seed)

    def layer(self, op: str, *inputs: str, **attributes: object) -> str:
        out = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], **attributes))
        return out

    def weight(self, *shape: int, fan_in: int) -> str:
        values = self._random.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32)
        return self._constant(values)

    def conv(self, x: str, before: int, after: int, *, kernel: int = 1, stride: int = 1, groups: int = 1) -> str:
        fan_in = before // groups * kernel * kernel
        weight = self.weight(after, before // groups, kernel, kernel, fan_in=fan_in)
        bias = self._constant(np.zeros(after, np.float32))
        pads = [kernel // 2] * 4
        return self.layer("Conv", x, weight, bias, strides=[stride] * 2, pads=pads, group=groups)

    def relu6(self, x: str) -> str:
        return self.layer("Clip", x, self._constant(np.float32(0)), self._constant(np.float32(6)))

    def bottleneck(self, x: str, before: int, after: int, *, expansion: int, stride: int) -> str:
        hidden = before * expansion
        y = x if expansion == 1 else self.relu6(self.conv(x, before, hidden))
        y = self.relu6(self.conv(y, hidden, hidden, kernel=3, stride=stride, groups=hidden))
        y = self.conv(y, hidden, after)
        return self.layer("Add", x, y) if stride == 1 and before == after else y

    def _constant(self, values: np.ndarray | np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name


def mobilenetv2(folder: Path) -> Path:
    """Write the network, with an input of float32 (1, 3, 224, 224). The same file each time."""
    build = _Builder(seed=0)
    channels = 32
    x = build.relu6(build.conv("input", 3, channels, kernel=3, stride=2))
    for expansion, after, count, stride in BOTTLENECKS:
        for number in range(count):
            x = build.bottleneck(x, channels, after, expansion=expansion, stride=stride if number == 0 else 1)
            channels = after
    x = build.relu6(build.conv(x, channels, 1280))
    x = build.layer("Flatten", build.layer("GlobalAveragePool", x))
    x = build.layer("MatMul", x, build.weight(1280, CLASSES, fan_in=1280))
    build.nodes.append(helper.make_node("Softmax", [x], ["scores"], axis=1))
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, SIDE, SIDE])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, CLASSES])
    graph = helper.make_graph(build.nodes, "mobilenetv2", [image], [scores], initializer=build.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "mobilenetv2.onnx"
    onnx.save(model, path)
    return path


NETWORKS: Mapping[str, Callable[[Path], Path] | None] = {
    "mobilenetv2": mobilenetv2,
    "resnet50": _light("resnet50"),
    "vgg19": _light("vgg19"),
    "digits": None,
}
"""None: it ships with the package, and takes images."""
