"""A new bundle as text and as JSON: what `understudy prepare` says at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from stages.bundle import Bundle
from stages.calibration import CalibrationData
from stages.graph import ModelGraph
from stages.manifest import ImageInput, Manifest


def bundle_document(bundle: Bundle, graph: ModelGraph) -> dict[str, Any]:
    """The manifest as JSON values, with numbers in place of what is long."""
    manifest = bundle.manifest
    facts = manifest.model_dump(mode="json", exclude={"labels", "parts", "codecs", "profile"})
    facts |= {"bundle": str(bundle.folder), "blocks": len(graph.blocks), "cuts": len(graph.cuts)}
    facts["parts"] = len(manifest.parts)
    facts["codecs"] = {
        record.codec: None if record.loss is None else record.loss.model_dump() for record in manifest.codecs
    }
    return facts


def bundle_lines(
    bundle: Bundle, graph: ModelGraph, data: CalibrationData | None, *, default_numbers: bool
) -> Iterator[str]:
    """`data`: what it was prepared with. `default_numbers`: nobody said how pixels are normalised."""
    manifest = bundle.manifest
    yield f"{manifest.name} {manifest.version}: task {manifest.task}"
    yield f"blocks    {len(graph.blocks)}, with {len(graph.cuts)} cuts"
    taken = manifest.input
    if isinstance(taken, ImageInput):
        mode = "greyscale" if taken.channels == 1 else "RGB"
        yield f"input     '{taken.name}': {mode} image {taken.width} x {taken.height}, {taken.layout}"
        note = "  (the default: give --mean and --std if the model was trained with them)" if default_numbers else ""
        yield f"pixels    scale {taken.scale:.6g}, mean {_list(taken.mean)}, std {_list(taken.std)}{note}"
    else:
        yield f"input     tensors: {', '.join(taken.names)}"
    yield f"accuracy  {_accuracy_line(manifest, data)}"
    yield f"parts     {_parts_line(manifest)}"
    for line in _codec_lines(manifest):
        yield f"codec     {line}"
    for name, record in manifest.files.items():
        if not name.startswith("parts/"):
            yield f"file      {name}: {record.bytes} bytes, SHA-256 {record.sha256[:12]}…"
    yield f"wrote     {bundle.folder}"


def _parts_line(manifest: Manifest) -> str:
    if not manifest.parts:
        return "none: answers stop while a lost stage is replaced; give --calibration data"
    counts = Counter(part.technique for part in manifest.parts)
    size = sum(record.bytes for name, record in manifest.files.items() if name.startswith("parts/"))
    kinds = ", ".join(f"{number} of {technique}" for technique, number in sorted(counts.items()))
    return f"{len(manifest.parts)} for what can be lost ({kinds}), {size} bytes"


def _codec_lines(manifest: Manifest) -> Iterator[str]:
    """Of each codec the least and the most that it leaves of the bytes at a cut, and what it costs at all of them."""
    for record in manifest.codecs:
        inner = record.ratio[1:-1]
        line = f"{record.codec}: {min(inner):.0%} to {max(inner):.0%} of the bytes"
        loss = record.loss
        if loss is not None:
            line += f", accuracy {0 - loss.value:+.2%} ({0 - loss.high:+.2%} to {0 - loss.low:+.2%})"
        yield line


def _list(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values) or "none"


def _accuracy_line(manifest: Manifest, data: CalibrationData | None) -> str:
    accuracy = manifest.accuracy
    if accuracy is not None and accuracy.predicted:
        interval = f"95 % interval {accuracy.low:.1%} to {accuracy.high:.1%}"
        return f"{accuracy.value:.1%}, predicted from the weights and not measured ({interval})"
    if accuracy is not None:
        interval = f"95 % interval {accuracy.low:.2%} to {accuracy.high:.2%}"
        return f"{accuracy.value:.2%} on {accuracy.images} images ({interval})"
    if manifest.task != "classify":
        return "not measured: the model is no classifier"
    if data is None:
        return "not measured: give labelled --calibration data"
    return f"not measured: the {data.count} calibration images have no labels"
