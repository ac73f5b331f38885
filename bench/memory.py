"""What a stage takes in memory against what the planner reckons with. `python -m bench.memory` takes about a minute.

Each stage is loaded and run in a process of its own, as a node does; what is measured is the growth of the memory that
is the process's own, after loading and after running. METHODOLOGY.md says more.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

from bench.document import Figure, at_most, document, figure
from bench.harness import write_json

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
MODELS = ("resnet50", "densenet121", "inception_v1", "inception_v2", "shufflenet", "squeezenet", "vgg19")
PARTS = 3
"""Each model is measured whole, and in so many stages of equally many blocks."""

RUNS = 3
MOST_RATIO = 1.15
"""What a stage may take of what the planner reckons with; more by a little where it has a few MB."""

PACKAGES = ("onnxruntime", "onnx", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Bytes of one stage: what the planner reckons with, and what was measured."""

    model: str
    first_block: int
    end_block: int
    predicted_bytes: int
    loaded_bytes: int
    running_bytes: int

    @property
    def ratio(self) -> float:
        """Measured over predicted; at most 1 means that the stage fits where the planner says so."""
        return self.running_bytes / self.predicted_bytes


def measure_here(path: Path, first: int, end: int) -> Measured:
    """Load and run a stage in this process."""
    from stages.engine import Engine
    from stages.graph import ModelGraph
    from stages.memory import own_bytes, trim
    from understudy.data import digits_bundle

    graph = ModelGraph.load(path)
    data, predicted = graph.submodel(first, end), graph.chain().stage_memory_bytes(first, end)
    inputs, outputs = graph.cuts[first].tensors, graph.cuts[end].tensors
    feeds = {spec.name: np.ones(spec.example_shape, spec.dtype) for spec in inputs}
    del graph
    Engine.load(digits_bundle().model_path.read_bytes(), outputs=())  # the runtime's own memory is not the stage's
    gc.collect()
    trim()
    before = own_bytes()
    engine = Engine.load(data, outputs=outputs)
    del data
    gc.collect()
    trim()
    loaded = own_bytes()
    for _ in range(RUNS):
        engine.run(feeds)
    return Measured(
        model=path.stem,
        first_block=first,
        end_block=end,
        predicted_bytes=predicted,
        loaded_bytes=max(0, loaded - before),
        running_bytes=max(0, own_bytes() - before),
    )


def measure(path: Path, first: int, end: int) -> Measured:
    """The same in a process of its own."""
    argv = [sys.executable, "-m", "bench.memory", "--one", str(path), str(first), str(end)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120)
    return Measured(**json.loads(done.stdout))


def stages_of(path: Path) -> list[tuple[int, int]]:
    """The whole model, and `PARTS` stages of equally many blocks."""
    from stages.graph import ModelGraph

    blocks = len(ModelGraph.load(path).blocks)
    edges = [round(part * blocks / PARTS) for part in range(PARTS + 1)]
    return [(0, blocks), *pairwise(edges)]


def figures(results: Sequence[Measured]) -> list[Figure]:
    """For `bench.document`."""
    ratios = [result.ratio for result in results]
    worst = max(results, key=lambda result: result.ratio)
    return [
        at_most(
            "running / predicted, the worst stage",
            worst.ratio,
            MOST_RATIO,
            note=f"{worst.model}, of {len(results)} stages",
        ),
        figure("running / predicted, median", statistics.median(ratios)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--one", nargs=3, metavar=("MODEL", "FIRST", "END"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        path, first, end = options.one
        print(json.dumps(asdict(measure_here(Path(path), int(first), int(end)))))
        return
    results = [
        measure(path, *run) for name in MODELS for path in [LIGHT / f"light_{name}.onnx"] for run in stages_of(path)
    ]
    table = Table(title="memory of a stage, MB", title_justify="left")
    for column in ("model", "blocks", "predicted", "loaded", "running", "running / predicted"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for result in results:
        sizes = (result.predicted_bytes, result.loaded_bytes, result.running_bytes)
        blocks = f"{result.first_block}-{result.end_block - 1}"
        table.add_row(result.model, blocks, *(f"{size / 1e6:.1f}" for size in sizes), f"{result.ratio:.2f}")
    Console().print(table)
    if options.json:
        stages = [asdict(result) | {"ratio": result.ratio} for result in results]
        made = document("memory", figures(results), {"stages": stages}, quick=False, packages=PACKAGES, busy=None)
        write_json(options.json, made)


if __name__ == "__main__":
    main()
