"""Trains the digits network that ships with the package, and writes its bundle and its frames.

    pip install -e '.[train]' && python scripts/train_digits.py

`--refit` leaves the network and the frames as they are and only fits the parts again, which needs no torch.

The network is a residual network (He et al. 2016, arXiv 1512.03385) for 8x8 greyscale images: a stem, 12 residual
blocks in three groups (16 channels at 8x8, 24 at 4x4, 32 at 2x2), global average, a fully connected layer to 10 logits.
The data are scikit-learn's handwritten digits; 40 images of each class are held out, never trained on, and shipped as
the frames. The number of epochs is fixed in advance: nothing is chosen by looking at the held-out images. What can
replace lost stages is fitted to four fifths of the training images and measured on the last fifth of them.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_digits

from stages.bundle import Bundle, write_bundle
from stages.calibration import load_calibration
from stages.description import Normalisation, describe
from stages.graph import ModelGraph
from stages.manifest import Accuracy, Manifest, Source
from understudy.fitting import fit_for_bundle, planned_stages

try:
    import torch
    from torch import nn
    from torch.nn import functional as F  # noqa: N812 - the name that every torch program uses
except ImportError:  # --refit does without
    torch = None

SEED = 7
EPOCHS = 120
BATCH = 64
HELD_OUT_PER_CLASS = 40
MEAN, STD = 0.3, 0.38  # of the training pixels / 255, rounded
GROUPS = ((16, 4), (24, 4), (32, 4))  # (channels, residual blocks); every group after the first halves the image
REPOSITORY = Path(__file__).resolve().parent.parent
SOURCE = Source(
    text=(
        "Weights trained by scripts/train_digits.py. Frames: E. Alpaydin and C. Kaynak, Optical Recognition of "
        "Handwritten Digits, UCI Machine Learning Repository, 1998, doi 10.24432/C50P49 (scikit-learn's load_digits); "
        "values 0..16 rescaled to 0..255."
    ),
    licence="CC BY 4.0 (the images)",
)


def pixels_and_labels() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All images as greyscale pixels: (1797, 8, 8) uint8 round(value * 255 / 16), and labels (1797,) int64."""
    digits = load_digits()
    return np.round(digits.images * (255 / 16)).astype(np.uint8), digits.target.astype(np.int64)


def split(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices to train on, and held-out indices interleaved by class (the label of held-out image i is i % 10)."""
    order = np.random.default_rng(SEED).permutation(len(labels))
    per_class = [order[labels[order] == digit][:HELD_OUT_PER_CLASS] for digit in range(10)]
    held_out = np.stack(per_class, axis=1).reshape(-1)
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def normalise(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, 8, 8) uint8 to the network's input, (N, 1, 8, 8) float32."""
    return ((pixels[:, None].astype(np.float32) / 255 - MEAN) / STD).astype(np.float32)


# --- the network: a dict of layers and a forward function, so that the export can walk the same names ---


def block_plan() -> list[tuple[str, int, int, int]]:
    """Name, channels in, channels out and stride of each residual block."""
    plan: list[tuple[str, int, int, int]] = []
    channels_in = GROUPS[0][0]
    for group, (channels, blocks) in enumerate(GROUPS):
        for index in range(blocks):
            stride = 2 if group > 0 and index == 0 else 1
            plan.append((f"block{len(plan) + 1:02}", channels_in, channels, stride))
            channels_in = channels
    return plan


def build_network() -> Any:
    """Random weights: convolutions without bias, each followed by a batch norm of the same name."""
    layers: dict[str, Any] = {}

    def add(name: str, channels_in: int, channels_out: int, kernel: int, stride: int) -> None:
        layers[f"{name}_conv"] = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False)
        layers[f"{name}_bn"] = nn.BatchNorm2d(channels_out)

    add("stem", 1, GROUPS[0][0], 3, 1)
    for name, channels_in, channels_out, stride in block_plan():
        add(f"{name}_1", channels_in, channels_out, 3, stride)
        add(f"{name}_2", channels_out, channels_out, 3, 1)
        if stride != 1:
            add(f"{name}_shortcut", channels_in, channels_out, 1, stride)
    layers["fc"] = nn.Linear(GROUPS[-1][0], 10)
    return nn.ModuleDict(layers)


def forward(layers: Any, x: Any) -> Any:
    """(N, 1, 8, 8) normalised to logits (N, 10)."""

    def conv(name: str, value: Any) -> Any:
        return layers[f"{name}_bn"](layers[f"{name}_conv"](value))

    x = F.relu(conv("stem", x))
    for name, _, _, stride in block_plan():
        shortcut = x if stride == 1 else conv(f"{name}_shortcut", x)
        x = F.relu(conv(f"{name}_2", F.relu(conv(f"{name}_1", x))) + shortcut)
    return layers["fc"](x.mean(dim=(2, 3)))


def augment(x: Any) -> Any:
    """Shift each image by up to 1 pixel, rotate by up to 10 degrees, scale by up to 10 %; outside is ink-free."""
    count = len(x)
    angle = (torch.rand(count) * 2 - 1) * np.deg2rad(10)
    scale = 1 + (torch.rand(count) * 2 - 1) * 0.1
    shift = (torch.rand(count, 2) * 2 - 1) * (2 / 8)  # 2 is the width of the image in grid units
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    theta = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = F.affine_grid(theta, x.shape, align_corners=False)
    blank = -MEAN / STD
    return F.grid_sample(x - blank, grid, align_corners=False) + blank


def train(x: NDArray[np.float32], labels: NDArray[np.int64], epochs: int) -> Any:
    """SGD with momentum, cosine schedule, label smoothing. Deterministic: one thread, one seed."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    layers = build_network().train()
    inputs, targets = torch.from_numpy(x), torch.from_numpy(labels)
    optimiser = torch.optim.SGD(layers.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)
    steps = epochs * (len(inputs) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.1, total_steps=steps, pct_start=0.15)
    for epoch in range(epochs):
        total = 0.0
        # The incomplete last batch is dropped: the order changes every epoch, so nothing is left out for long.
        for batch in torch.randperm(len(inputs))[: len(inputs) // BATCH * BATCH].split(BATCH):
            loss = F.cross_entropy(forward(layers, augment(inputs[batch])), targets[batch], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        if (epoch + 1) % 10 == 0:
            print(f"epoch {epoch + 1}/{epochs}: training loss {total / (len(inputs) // BATCH):.4f}", flush=True)
    return layers.eval()


# --- the ONNX file ---


def folded(layers: Any, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight and bias of a convolution with its batch norm folded in (computed in float64)."""
    norm = layers[f"{name}_bn"]
    gain = (norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)).detach()
    weight = layers[f"{name}_conv"].weight.detach().double() * gain[:, None, None, None]
    bias = norm.bias.detach().double() - norm.running_mean.double() * gain
    return weight.float().numpy(), bias.float().numpy()


def export(layers: Any) -> onnx.ModelProto:
    """The network as ONNX, opset 17, IR 8: Conv, Relu, Add, GlobalAveragePool, Flatten, Gemm; the batch is open."""
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def add(operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def conv(name: str, value: str, stride: int) -> str:
        label = name.replace("_", "/")
        weight, bias = folded(layers, name)
        weights.append(numpy_helper.from_array(weight, f"{label}/weight"))
        weights.append(numpy_helper.from_array(bias, f"{label}/bias"))
        kernel = weight.shape[2]
        return add(
            "Conv",
            [value, f"{label}/weight", f"{label}/bias"],
            f"{label}/conv",
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2] * 4,
        )

    value = add("Relu", [conv("stem", "input", 1)], "stem/out")
    for name, _, _, stride in block_plan():
        inner = add("Relu", [conv(f"{name}_1", value, stride)], f"{name}/1/relu")
        shortcut = value if stride == 1 else conv(f"{name}_shortcut", value, stride)
        total = add("Add", [conv(f"{name}_2", inner, 1), shortcut], f"{name}/add")
        value = add("Relu", [total], f"{name}/out")
    value = add("Flatten", [add("GlobalAveragePool", [value], "average/pool")], "average/out", axis=1)
    weights.append(numpy_helper.from_array(layers["fc"].weight.detach().numpy(), "fc/weight"))
    weights.append(numpy_helper.from_array(layers["fc"].bias.detach().numpy(), "fc/bias"))
    add("Gemm", [value, "fc/weight", "fc/bias"], "logits", transB=1)
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        initializer=weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.producer_name = "understudy"
    onnx.checker.check_model(model, full_check=True)
    return model


def check_same(model: onnx.ModelProto, layers: Any, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits of onnxruntime, (N, 10); fails when torch gives others."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    logits: NDArray[np.float32] = session.run(["logits"], {"input": x})[0]
    with torch.no_grad():
        reference = forward(layers, torch.from_numpy(x)).numpy()
    difference = float(np.abs(logits - reference).max())
    if difference > 1e-3 or (logits.argmax(1) != reference.argmax(1)).any():
        raise SystemExit(f"onnxruntime and torch differ by up to {difference:.2e}: the export is wrong")
    print(f"onnxruntime and torch agree on {len(x)} images; largest difference of a logit {difference:.1e}")
    return logits


def png_frames(pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> bytes:
    """An .npz of PNG files one after another: `png` uint8, `offsets` int64 (N + 1,), `labels` uint8 (N,)."""
    files: list[bytes] = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="PNG", optimize=True)
        files.append(buffer.getvalue())
    offsets = np.cumsum([0, *(len(file) for file in files)], dtype=np.int64)
    archive = io.BytesIO()
    png = np.frombuffer(b"".join(files), np.uint8)
    np.savez_compressed(archive, png=png, offsets=offsets, labels=labels.astype(np.uint8))
    return archive.getvalue()


def with_parts(draft: Manifest, model_path: Path, folder: Path) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest with fitted parts, and their files. Exits, the largest of them, are for few nodes alone: the bundle
    is in every installation. A controller fits what else it needs."""
    pixels, labels = pixels_and_labels()
    training, _ = split(labels)
    data_path = folder / "training.npz"
    np.savez(data_path, images=pixels[training], labels=labels[training])
    graph = ModelGraph.load(model_path)
    data = load_calibration(data_path, draft.input, graph.inputs)
    starts = {first for first, _ in planned_stages(graph, range(2, 5), single=False)}
    prepared = fit_for_bundle(
        graph, draft, data, None, stages=planned_stages(graph, range(2, 9)), exits=sorted(starts), on_note=print
    )
    return prepared.draft, prepared.files


def write(output: Path, draft: Manifest, model_path: Path, frames: bytes, folder: Path) -> None:
    """Writes the bundle with its parts. The README is for people, and no file of the bundle: it stays as it is."""
    readme_path = output / "README.md"
    readme = readme_path.read_text(encoding="utf-8") if readme_path.exists() else None
    draft, files = with_parts(draft, model_path, folder)
    bundle = write_bundle(output, draft, model_path=model_path, extra_files={"frames.npz": frames, **files}, force=True)
    if readme is not None:
        readme_path.write_text(readme, encoding="utf-8")
    for path, record in bundle.manifest.files.items():
        print(f"{path}: {record.bytes} bytes, sha256 {record.sha256[:12]}")


def refit(output: Path) -> None:
    """Fits the parts of the bundle again."""
    bundle = Bundle.load(output)
    frames = bundle.path("frames.npz").read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        model_path = Path(folder) / "digits.onnx"
        model_path.write_bytes(bundle.model_path.read_bytes())
        draft = bundle.manifest.model_copy(update={"version": "", "parts": (), "held_out": None, "files": {}})
        write(output, draft, model_path, frames, Path(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the digits network and write its bundle.")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "understudy" / "data" / "digits")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--refit", action="store_true", help="keep the network, fit its parts again")
    options = parser.parse_args()
    if options.refit:
        refit(options.output)
        return
    if torch is None:
        raise SystemExit("training needs torch: pip install -e '.[train]'")
    pixels, labels = pixels_and_labels()
    training, held_out = split(labels)
    layers = train(normalise(pixels[training]), labels[training], options.epochs)
    model = export(layers)
    logits = check_same(model, layers, normalise(pixels[held_out]))
    correct = int((logits.argmax(1) == labels[held_out]).sum())
    accuracy = Accuracy.measured(correct=correct, images=len(held_out))
    print(f"held-out accuracy {accuracy.value:.4f} ({correct} of {len(held_out)})")
    with tempfile.TemporaryDirectory() as folder:
        model_path = Path(folder) / "digits.onnx"
        model_path.write_bytes(model.SerializeToString(deterministic=True))
        draft = describe(
            ModelGraph.load(model_path),
            name="digits",
            labels=[str(digit) for digit in range(10)],
            normalisation=Normalisation(mean=(MEAN,), std=(STD,)),
            source=SOURCE,
        ).model_copy(update={"accuracy": accuracy})
        write(options.output, draft, model_path, png_frames(pixels[held_out], labels[held_out]), Path(folder))


if __name__ == "__main__":
    main()
