"""`understudy prepare`: from an ONNX file to a bundle, with its accuracy, and parts for what a pipeline can lose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from understudy.cli.inspect import parse_shapes

if TYPE_CHECKING:
    from stages.calibration import CalibrationData
    from stages.graph import ModelGraph
    from stages.manifest import Accuracy, CodecRecord, Manifest


MAX_NODES = 64


def prepare(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The ONNX file.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="BUNDLE", help="The folder to write.")],
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="An .npz file or a folder of images; labelled, it gives the accuracy."),
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="Images to measure on: none that the model or the parts were fitted to."),
    ] = None,
    nodes: Annotated[str, typer.Option(metavar="2-8", help="Pipelines of so many nodes get parts.")] = "2-8",
    no_parts: Annotated[bool, typer.Option("--no-parts", help="Fit nothing for what can be lost.")] = False,
    accuracy_model: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Without data: predict accuracies from the weights (docs/bundle.md)."),
    ] = None,
    training: Annotated[
        str | None,
        typer.Option(
            metavar="epochs=40,...",
            help="For --accuracy-model, if known: learning_rate, epochs, batch_size, optimiser (sgd, adam), all four.",
        ),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="One label per line; default: the classes of the data.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Default: the name of the file.")] = None,
    scale: Annotated[str | None, typer.Option(help="What pixels are multiplied by. Default: 1/255.")] = None,
    mean: Annotated[str | None, typer.Option(help="Subtracted after that: one number, or one per channel.")] = None,
    std: Annotated[str | None, typer.Option(help="Divided by at last: one number, or one per channel.")] = None,
    task: Annotated[str | None, typer.Option(help="classify or tensors. Default: by output and labels.")] = None,
    shape: Annotated[
        list[str] | None, typer.Option(metavar="NAME=1,3,224,224", help="Shape of an input for one frame; repeatable.")
    ] = None,
    max_images: Annotated[int | None, typer.Option(min=1, help="Use at most this many images of the data.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that exists.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Make a bundle of an ONNX model: the model, its labels and normalisation, its accuracy, what can replace lost
    stages, a SHA-256 for each file.

    Example: understudy prepare resnet.onnx --calibration train.npz --held-out test.npz --mean 0.485,0.456,0.406
    --std 0.229,0.224,0.225 -o resnet
    """
    from json import dumps

    from stages.bundle import check_writable, write_bundle
    from stages.graph import ModelGraph
    from understudy.bundleview import bundle_document, bundle_lines

    check_writable(output, force=force)
    shapes = parse_shapes(shape or [])
    counts = parse_nodes(nodes)
    if held_out is not None and calibration is None:
        raise typer.BadParameter("it needs --calibration: parts are fitted to other images", param_hint="--held-out")
    if accuracy_model is not None and calibration is not None:
        raise typer.BadParameter(
            "what can be measured is not predicted: leave out one of it and --calibration",
            param_hint="--accuracy-model",
        )
    if training is not None and accuracy_model is None:
        raise typer.BadParameter("it needs --accuracy-model", param_hint="--training")
    graph = ModelGraph.load(model, shapes=shapes or None)
    draft, data = _draft(
        graph,
        labels=read_labels(labels) if labels else None,
        name=name or model.stem,
        task=task,
        numbers=(scale, mean, std),
        shapes=shapes,
        calibration=calibration,
        max_images=max_images,
    )
    other = None if held_out is None else _open(held_out, graph, draft, max_images)
    judge = other or data
    if judge is not None and judge.labels is not None and draft.task == "classify":
        draft = draft.model_copy(update={"accuracy": _measure(model, graph, judge)})
    files: dict[str, bytes] = {}
    if data is not None and not no_parts:
        draft, files = _fit(graph, draft, data, other, counts)
    if judge is not None and len(graph.blocks) > 1:
        draft = draft.model_copy(update={"codecs": _measure_codecs(graph, draft, judge)})
    if accuracy_model is not None:
        draft = _predict(graph, draft, accuracy_model, training, () if no_parts else counts)
    bundle = write_bundle(output, draft, model_path=model, extra_files=files, force=force)
    if json:
        typer.echo(dumps(bundle_document(bundle, graph)))
        return
    for line in bundle_lines(bundle, graph, data, default_numbers=scale is None and mean is None and std is None):
        typer.echo(line)


def _draft(
    graph: ModelGraph,
    *,
    labels: tuple[str, ...] | None,
    name: str,
    task: str | None,
    numbers: tuple[str | None, str | None, str | None],
    shapes: dict[str, tuple[int, ...]],
    calibration: Path | None,
    max_images: int | None,
) -> tuple[Manifest, CalibrationData | None]:
    """The draft of the manifest and the opened data; labels come from the data where no file gives them."""
    from stages.calibration import load_calibration
    from stages.description import Normalisation, class_count, describe

    scale = parse_numbers("--scale", numbers[0])
    if len(scale) > 1:
        raise typer.BadParameter(f"one number is wanted, not {len(scale)}", param_hint="--scale")
    chosen = parse_task(task)
    described: dict[str, Any] = {
        "name": name,
        "task": chosen,
        "normalisation": Normalisation(
            scale=scale[0] if scale else None,
            mean=parse_numbers("--mean", numbers[1]),
            std=parse_numbers("--std", numbers[2]),
        ),
        "shapes": shapes,
    }
    draft = describe(graph, labels=labels, **described)
    if calibration is None:
        return draft, None
    classes = class_count(graph.outputs)
    data = load_calibration(
        calibration, draft.input, graph.inputs, labels=labels, class_count=classes, max_images=max_images
    )
    # A folder with some of the classes must not relabel the model: its names count only when there is one per class.
    if labels is None and chosen != "tensors" and data.classes is not None and len(data.classes) == classes:
        draft = describe(graph, labels=data.classes, **described)
    return draft, data


def parse_numbers(option: str, text: str | None) -> tuple[float, ...]:
    """`0.485,0.456,0.406` or `1/255`: numbers and fractions, comma-separated.

    Raises:
        typer.BadParameter: something else.
    """
    if text is None:
        return ()
    values = []
    for word in text.split(","):
        try:
            numerator, slash, denominator = word.partition("/")
            values.append(float(numerator) / float(denominator) if slash else float(numerator))
        except (ValueError, ZeroDivisionError) as error:
            raise typer.BadParameter(f"'{word}' is no number", param_hint=option) from error
    return tuple(values)


def parse_task(text: str | None) -> str | None:
    """Raises typer.BadParameter for anything but the two tasks."""
    if text not in (None, "classify", "tensors"):
        raise typer.BadParameter(f"'{text}' is neither 'classify' nor 'tensors'", param_hint="--task")
    return text


def read_labels(path: Path) -> tuple[str, ...]:
    """One label per line; empty lines at the end do not count.

    Raises:
        typer.BadParameter: the file cannot be read, or a line between labels is empty.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"cannot read '{path}': {error}", param_hint="--labels") from error
    if not all(lines) or len(lines) < 2:
        where = f"line {lines.index('') + 1} is empty" if "" in lines else f"it has {len(lines)}"
        raise typer.BadParameter(f"'{path}': {where}; one label per line is wanted, at least 2", param_hint="--labels")
    return tuple(lines)


def _open(path: Path, graph: ModelGraph, draft: Manifest, max_images: int | None) -> CalibrationData:
    from stages.calibration import load_calibration
    from stages.description import class_count

    classes = class_count(graph.outputs)
    return load_calibration(
        path, draft.input, graph.inputs, labels=draft.labels, class_count=classes, max_images=max_images
    )


def _fit(
    graph: ModelGraph, draft: Manifest, data: CalibrationData, other: CalibrationData | None, nodes: range
) -> tuple[Manifest, dict[str, bytes]]:
    """What it works on is shown on stderr, and at last why some parts are not there."""
    from rich.console import Console

    from understudy.fitting import fit_for_bundle, planned_stages

    stages = planned_stages(graph, nodes)
    console = Console(stderr=True, highlight=False)
    notes: list[str] = []
    with console.status("fitting parts") as status:
        prepared = fit_for_bundle(
            graph,
            draft,
            data,
            other,
            stages=stages,
            exits=sorted({first for first, _ in stages}),
            on_progress=lambda text: status.update(f"fitting parts: {text}"),
            on_note=notes.append,
        )
    for note in dict.fromkeys(notes):
        console.print(note, soft_wrap=True)
    return prepared.draft, prepared.files


def _measure_codecs(graph: ModelGraph, draft: Manifest, data: CalibrationData) -> tuple[CodecRecord, ...]:
    from rich.console import Console

    from stages.codec_cost import measure_codecs
    from understudy.fitting import CODEC_IMAGES, limited

    with Console(stderr=True, highlight=False).status("measuring codecs") as status:
        return measure_codecs(
            graph,
            limited(data, CODEC_IMAGES),
            classifies=draft.task == "classify",
            on_progress=lambda text: status.update(f"measuring {text}"),
        )


def _predict(graph: ModelGraph, draft: Manifest, path: Path, training: str | None, nodes: Sequence[int]) -> Manifest:
    """With predicted accuracies; why parts are not there is said on stderr."""
    from planner.accuracy import Training
    from understudy.fitting import planned_stages
    from understudy.prediction import load_accuracy_model, parse_training, predict_for_bundle

    try:
        known = Training() if training is None else parse_training(training)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--training") from error
    notes: list[str] = []
    stages = planned_stages(graph, nodes) if nodes else []
    found = predict_for_bundle(graph, draft, load_accuracy_model(path), known, stages=stages, on_note=notes.append)
    for note in dict.fromkeys(notes):
        typer.echo(note, err=True)
    return found.draft


def parse_nodes(text: str) -> range:
    """`2-8` or `4`.

    Raises:
        typer.BadParameter: something else.
    """
    first, _, last = text.partition("-")
    try:
        counts = range(int(first), int(last or first) + 1)
    except ValueError as error:
        raise typer.BadParameter(f"'{text}' is no range such as 2-8", param_hint="--nodes") from error
    if not counts or not 2 <= counts[0] <= counts[-1] <= MAX_NODES:
        raise typer.BadParameter(f"'{text}': a range within 2-{MAX_NODES} is wanted", param_hint="--nodes")
    return counts


def _measure(model: Path, graph: ModelGraph, data: CalibrationData) -> Accuracy:
    """With a progress bar on stderr, so that stdout can be piped."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from stages.accuracy import measure_accuracy

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("measuring the accuracy", total=data.count)
        return measure_accuracy(
            model, data, dynamic_batch=graph.dynamic_batch, on_progress=lambda count: progress.advance(bar, count)
        )
