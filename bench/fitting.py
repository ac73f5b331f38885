"""What an answer is worth while a stage is lost: fitted parts, measured on images that nothing was fitted to.

    python -m bench.fitting [--data FOLDER] [--nodes 16,8,4] [--images 3000] [--json FILE]

`FOLDER`, by default $UNDERSTUDY_DATA, holds `resnet32_cifar10_jpeg.onnx`, `cifar10_train.npz` and
`cifar10_test_public.npz`. Parts are fitted to
training images without their labels. The estimates come from one half of the test images, the truth from the other.
The paper is CONTINUER (Majeed et al. 2022): exits of a ResNet-32 that were trained together with it for 500 epochs
reach 62-70 % after its first four blocks (figure 4), and only blocks that keep their shape can be skipped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.document import BusyMeter, Figure, document, figure
from bench.harness import write_json
from bench.subjects import MissingSubjectError, data_file
from stages.calibration import load_calibration
from stages.engine import Engine
from stages.fitting import FittedPart, fit_parts, measure
from stages.fitting.activations import Sample
from stages.graph import ModelGraph
from stages.manifest import ImageInput
from understudy.fitting import planned_stages

MODEL, TRAIN, TEST = "resnet32_cifar10_jpeg.onnx", "cifar10_train.npz", "cifar10_test_public.npz"
PACKAGES = ("onnxruntime", "onnx", "numpy")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BRIDGE_SHARE = 0.37
"""What may count as a bridge without a standby: so much of the lost stage's arithmetic."""


def load(path: Path, graph: ModelGraph, count: int | None) -> Sample:
    spec = ImageInput(name=graph.inputs[0].name, channels=3, height=32, width=32, mean=MEAN, std=STD)
    return Sample.of(load_calibration(path, spec, graph.inputs, max_images=count))


def halves(sample: Sample) -> tuple[Sample, Sample]:
    if sample.labels is None:
        raise SystemExit("the test images need labels")
    middle = len(sample) // 2
    return sample.take(np.arange(middle)), sample.take(np.arange(middle, len(sample)))


def value(part: FittedPart) -> float:
    assert part.record.accuracy is not None
    return 100 * part.record.accuracy.value


def milliseconds(graph: ModelGraph, part: FittedPart, runs: int = 40) -> float:
    """Median time of one frame on one thread."""
    source, target = graph.cuts[part.record.first_block].tensors, graph.cuts[part.record.end_block].tensors
    engine = Engine.load(part.model, outputs=target)
    feeds = {spec.name: np.ones(spec.example_shape, spec.dtype) for spec in source}
    engine.run(feeds)
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        engine.run(feeds)
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times))


def one_count(
    graph: ModelGraph, stages: Sequence[tuple[int, int]], fit: Sample, estimate: Sample, truth: Sample
) -> list[Figure]:
    started = time.perf_counter()
    # Exits of the other cuts stand in for all that follows, and most of the time would go into them.
    exits = [first for first, _ in stages][-1 if len(stages) > 4 else 0 :]
    parts = fit_parts(graph, fit.inputs, stages=stages, exits=exits, on_note=print)
    seconds = time.perf_counter() - started
    guessed, _ = measure(graph, parts, estimate)
    seen, healthy = measure(graph, parts, truth)
    print(flush=True)
    print(f"## {len(stages)} stages: healthy {100 * healthy.value:.2f} %, fitted in {seconds:.1f} s\n")
    print(
        "| lost | part | accuracy | estimated | arithmetic | weights | ms |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        sep="\n",
    )
    bridges = []
    for stage in stages:
        flops = sum(block.flops for block in graph.blocks[slice(*stage)])
        mine = [at for at, part in enumerate(seen) if belongs(part, stage)]
        cheap = [at for at in mine if is_bridge(seen[at]) and seen[at].record.flops <= BRIDGE_SHARE * flops]
        best = max(cheap, key=lambda at: value(guessed[at]), default=None)
        if best is not None:
            bridges.append(value(seen[best]))
        for at in mine:
            record = seen[at].record
            mark = " **" if at == best else ""
            print(
                f"| {stage[0]}-{stage[1]} | {record.technique} {record.variant}{mark} | {value(seen[at]):.2f} "
                f"| {value(guessed[at]):.2f} | {record.flops / flops:.0%} | {record.memory_bytes} "
                f"| {milliseconds(graph, seen[at]):.3f} |"
            )
    gaps = [abs(value(a) - value(b)) for a, b in zip(seen, guessed, strict=True)]
    losses = 100 * healthy.value - np.array(bridges)
    print(
        f"\nBridges without a standby (**) lose {losses.mean():.2f} points on average, {losses.max():.2f} at worst; "
        f"estimates are off by {np.mean(gaps):.2f} points on average, {np.max(gaps):.2f} at worst."
    )
    name = f"{len(stages)} nodes"
    return [
        figure(f"{name}: bridges lose", float(losses.mean()), "points, mean", note=f"{losses.max():.2f} at worst"),
        figure(
            f"{name}: estimates are off by", float(np.mean(gaps)), "points, mean", note=f"{np.max(gaps):.2f} at worst"
        ),
    ]


def belongs(part: FittedPart, stage: tuple[int, int]) -> bool:
    record = part.record
    return record.first_block == stage[0] and (record.end_block == stage[1] or record.technique == "exit")


def is_bridge(part: FittedPart) -> bool:
    return part.record.technique != "standby"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="default: $UNDERSTUDY_DATA")
    parser.add_argument("--nodes", default="16,8,4")
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    options = parser.parse_args()
    try:
        folder = options.data or data_file(MODEL).parent
    except MissingSubjectError as error:
        parser.error(str(error))
    meter = BusyMeter()
    graph = ModelGraph.load(folder / MODEL)
    fit = load(folder / TRAIN, graph, options.images)
    estimate, truth = halves(load(folder / TEST, graph, None))
    found: list[Figure] = []
    for count in options.nodes.split(","):
        found += one_count(graph, planned_stages(graph, [int(count)], single=False), fit, estimate, truth)
    if options.json is not None:
        details = {"images": options.images}
        made = document("fitting", found, details, quick=False, packages=PACKAGES, busy=meter.read())
        write_json(options.json, made)


if __name__ == "__main__":
    main()
