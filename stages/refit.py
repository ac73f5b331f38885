"""Parts for stages that the bundle has none for, fitted while the pipeline runs.

    python -m stages.refit BUNDLE OUTPUT 0-5 5-14

fits in a process of its own, with the least priority, and writes OUTPUT/parts.json and a file for each part. `Refitter`
starts it and reads what it wrote.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from broker.errors import UnderstudyError
from broker.folder import TemporaryFolder
from broker.process import spawn, terminate
from stages.bundle import Bundle
from stages.calibration import HELD_OUT_SHARE
from stages.calibration_pack import load_bundle_calibration
from stages.errors import CalibrationError
from stages.fitting import FittedPart, fit_parts, measure
from stages.graph import ModelGraph
from stages.manifest import PartRecord

LEAST_PRIORITY = 19
TIMEOUT_S = 600.0
INDEX = "parts.json"

Span = tuple[int, int]


class RefitError(UnderstudyError):
    """Fitting in the background failed."""


async def refit(bundle: Bundle, spans: Sequence[Span]) -> list[FittedPart]:
    """Fit and measure the stand-ins and exits of these stages in a process of its own.

    Raises:
        RefitError: it failed, or took too long.
    """
    with TemporaryFolder.make("understudy-refit-") as folder:
        output = folder.path
        log_path = output / "log"
        words = [f"{first}-{end}" for first, end in spans]
        with log_path.open("wb") as log:
            process = await spawn(
                [sys.executable, "-m", "stages.refit", str(bundle.folder), str(output), *words], stdout=log, stderr=log
            )
        try:
            async with asyncio.timeout(TIMEOUT_S):
                code = await process.wait()
        except TimeoutError as error:
            raise RefitError(f"fitting parts took more than {TIMEOUT_S:g} s") from error
        finally:
            await terminate(process, 0.0)
        if code != 0:
            lines = log_path.read_text(errors="replace").strip().splitlines()
            raise RefitError(f"fitting parts failed: {lines[-1] if lines else f'exit code {code}'}")
        return await asyncio.to_thread(_read, output)


def _read(folder: Path) -> list[FittedPart]:
    documents = json.loads((folder / INDEX).read_text())
    records = [PartRecord.model_validate_json(json.dumps(document)) for document in documents]
    return [
        FittedPart(record=record, model=(folder / f"{number}.onnx").read_bytes())
        for number, record in enumerate(records)
    ]


def main(arguments: Sequence[str]) -> None:
    """In the process of its own."""
    os.nice(LEAST_PRIORITY)
    bundle, output = Bundle.load(arguments[0], verify=False), Path(arguments[1])
    spans = [(int(first), int(end)) for first, _, end in (word.partition("-") for word in arguments[2:])]
    graph = ModelGraph.load(bundle.model_path, shapes=bundle.manifest.shapes)
    data = load_bundle_calibration(bundle, graph)
    if data is None:
        raise CalibrationError(f"bundle '{bundle.folder}' holds no calibration data")
    # Too few to divide are fitted to and measured on: an accuracy that flatters is better than none.
    fit_on, measure_on = data.divided() if data.count >= HELD_OUT_SHARE else (data, data)
    exits = sorted({first for first, _ in spans})
    parts, healthy = measure(graph, fit_parts(graph, fit_on, stages=spans, exits=exits), measure_on)
    anchor = bundle.manifest.held_out
    if anchor is not None:
        factor = anchor.value / max(healthy.value, 1e-9)
        parts = [_scaled(part, factor) for part in parts]
    for number, part in enumerate(parts):
        (output / f"{number}.onnx").write_bytes(part.model)
    (output / INDEX).write_text(json.dumps([part.record.model_dump(mode="json") for part in parts]))


def _scaled(part: FittedPart, factor: float) -> FittedPart:
    """The accuracy as it would be on the images that the bundle's other parts were measured on: those that are in the
    bundle may be ones that the network was trained on, and flatter it."""
    found = part.record.accuracy
    if found is None:
        return part
    value, low, high = (min(1.0, number * factor) for number in (found.value, found.low, found.high))
    return part.with_accuracy(found.model_copy(update={"value": value, "low": low, "high": high}))


if __name__ == "__main__":
    main(sys.argv[1:])
