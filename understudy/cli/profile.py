"""`understudy profile machine` and `understudy profile model`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from understudy.cli.common import JsonOption

if TYPE_CHECKING:
    from planner.profile import Profile
    from planner.score import Score
    from understudy.latency import ModelLatency

QUICK_MINUTES = 0.25
MINUTES = 10.0
TRIALS = 20
CALIBRATION_RUNS = 8
INTERRUPTED = 130

app = typer.Typer(
    name="profile",
    help="Predict what layers take on a machine, and what a model's stages and parts take.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def machine(
    out: Annotated[Path, typer.Option("--out", "-o", help="The profile.")] = Path("machine-profile.json"),
    minutes: Annotated[
        float | None, typer.Option(min=0.0, help="Of timing layers. Default: 10, with --quick 0.25.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small layers, few runs, no search: to try it out.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what was stopped.")] = False,
    like: Annotated[
        Path | None, typer.Option("--like", metavar="FILE", help="Transfer this profile of another machine: seconds.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of one inference, as the nodes run it.")] = 1,
    trials: Annotated[int | None, typer.Option(min=0, help="Of the search per type of layer. Default: 20.")] = None,
    fit: Annotated[bool, typer.Option("--fit/--no-fit", help="Search settings and say how good it is.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Which layers are sampled.")] = 0,
    json_: JsonOption = False,
) -> None:
    """Time layers of all types on this machine, and fit what predicts them.

    Ctrl-C loses nothing but the layers under way: go on with --resume. Nothing else should run meanwhile.

    Example: understudy profile machine --minutes 10 --out laptop.json

    Example: understudy profile machine --like laptop.json --out pi.json
    """
    from understudy.profilefile import journal_of, read_profile, write_profile
    from understudy.profiling import Options, profile_machine, transfer

    with _errors():
        if fit or like is not None:
            _need(trials != 0 and not quick and like is None)
        try:
            if like is not None:
                with _bar("transferring") as on_progress:
                    profile = transfer(read_profile(like), on_progress=on_progress)
            else:
                budget = minutes if minutes is not None else (QUICK_MINUTES if quick else MINUTES)
                options = Options(minutes=max(budget, 1e-6), threads=threads, seed=seed, quick=quick)
                with _bar("timing layers") as on_progress:
                    profile = profile_machine(out, options, resume=resume, on_progress=on_progress)
        except KeyboardInterrupt:
            kept = f"; what was timed is in {journal_of(out)}: go on with --resume" if like is None else ""
            typer.echo(f"stopped{kept}", err=True)
            raise typer.Exit(INTERRUPTED) from None
        found: list[Score] = []
        if fit and like is None:
            profile, found = _fit(profile, (0 if quick else TRIALS) if trials is None else trials)
        write_profile(out, profile, scores=[asdict(score) for score in found])
    if like is None:
        journal_of(out).unlink(missing_ok=True)
    if json_:
        _echo_json(_document(profile, found, out))
    else:
        _print_machine(profile, found, out)


@app.command()
def model(
    subject: Annotated[Path, typer.Argument(metavar="BUNDLE|MODEL.onnx", show_default=False, help="What to predict.")],
    profile: Annotated[Path, typer.Option("--profile", help="Of the machine.")] = Path("machine-profile.json"),
    cuts: Annotated[str, typer.Option(help="Inner cuts of the stages, such as 5,10. Default: one stage.")] = "",
    measure: Annotated[bool, typer.Option("--measure", help="Run them here as well, and show the error.")] = False,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each, with --measure.")] = CALIBRATION_RUNS,
    node: Annotated[str, typer.Option(help="The machine's name in the files for the planner.")] = "here",
    chain: Annotated[
        Path | None, typer.Option("--chain", metavar="FILE", help="Write a chain for `understudy plan --chain`.")
    ] = None,
    store: Annotated[
        bool, typer.Option("--store", help="Put it into the bundle, for the controller: --node names one of its nodes.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Predict what each stage and part of a model takes on a machine.

    Example: understudy profile model my-bundle --profile pi.json --cuts 5,10

    Example: understudy profile model resnet.onnx --profile laptop.json --measure --chain chain.json
    """
    import json

    from stages.bundle import Bundle, bundle_from_model, store_profile
    from stages.chain import codecs_of, frame_bytes_of
    from stages.graph import ModelGraph
    from understudy.files import write_text
    from understudy.latency import chain_document, document, node_profile, predict_model
    from understudy.profilefile import read_profile

    with _errors():
        known = read_profile(profile)
        bundle = Bundle.load(subject) if subject.is_dir() else bundle_from_model(subject)
        graph = ModelGraph.load(bundle.model_path, shapes=bundle.manifest.shapes)
        found = predict_model(bundle, graph, known, cuts=_cuts(cuts), runs=runs if measure else 0)
        if chain is not None:
            codecs, frame_bytes = codecs_of(bundle.manifest, len(graph.blocks)), frame_bytes_of(bundle.manifest)
            made = chain_document(found, node, codecs=codecs, frame_bytes=frame_bytes)
            write_text(chain, json.dumps(made, indent=1) + "\n")
        if store:
            store_profile(bundle, node, node_profile(found))
    if json_:
        _echo_json(document(found, known, node))
    else:
        _print_model(found)
    for warning in warnings(found, known):
        typer.echo(f"understudy: {warning}", err=True)


def warnings(found: ModelLatency, profile: Profile) -> list[str]:
    """What a reader of the figures must know."""
    lines = []
    if found.unprofiled:
        lines.append(
            f"never or hardly profiled: {', '.join(found.unprofiled)}. Their time is a guess from operations and "
            f"bytes, and its interval is wide"
        )
    if found.beyond:
        lines.append(
            f"larger than any layer of the profile: some of {', '.join(found.beyond)}. The interval is doubled"
        )
    if profile.ratios:
        lines.append("the profile is another machine's, transferred by a few layers of each type")
    return lines


def _cuts(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not of the form 5,10", param_hint="--cuts") from None


def _need(optuna: bool) -> None:
    """Missing packages are told before minutes of timing, not after them."""
    from planner import boosting

    boosting.require("lightgbm", *(["optuna"] if optuna else []))


def _fit(profile: Profile, trials: int) -> tuple[Profile, list[Score]]:
    from dataclasses import replace

    from planner.score import scores, tune

    if trials:
        with _bar("searching settings") as on_progress:
            settings = tune(profile, trials=trials, on_progress=lambda done, total: on_progress(done / total, done))
        profile = replace(profile, settings=settings)
    return profile, scores(profile)


@contextmanager
def _errors() -> Iterator[None]:
    """The planner knows no error class of ours."""
    from broker.errors import UnderstudyError
    from planner.boosting import MissingPackageError
    from planner.profile import ProfileError

    try:
        yield
    except (MissingPackageError, ProfileError) as error:
        raise UnderstudyError(str(error)) from error


@contextmanager
def _bar(what: str) -> Iterator[Callable[[float, int], None]]:
    """A bar on stderr, where somebody sees it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=1.0, count=0)
        yield lambda share, count: bar.update(task, completed=share, count=count)


def _document(profile: Profile, found: list[Score], out: Path) -> dict[str, Any]:
    return {
        "file": str(out),
        "machine": dict(profile.machine),
        "samples": {kind: len(profile.of(kind)) for kind in profile.kinds},
        "overhead_s": profile.overhead_s,
        "scores": [asdict(score) for score in found],
        "ratios": dict(profile.ratios),
    }


def _echo_json(value: Any) -> None:
    import json

    typer.echo(json.dumps(value))


def _print_machine(profile: Profile, found: list[Score], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if profile.ratios:
        table = Table(
            "type of layer", "ratio", "95 % within", title="seconds here / seconds there", title_justify="left"
        )
        for kind, ratio in sorted(profile.ratios.items()):
            table.add_row(kind, f"{ratio:.3f}", f"{profile.ratio_spreads.get(kind, 0):.1%}")
    else:
        table = Table(title="on a fifth of the layers, held out", title_justify="left", box=None)
        table.add_column("type of layer", no_wrap=True)
        for column in ("layers", "R²", "of log", "roofline", "error", "covered", "repeats"):
            table.add_column(column, justify="right")
        scored = {score.kind: score for score in found}
        for kind in profile.kinds:
            count = str(len(profile.of(kind)))
            table.add_row(kind, count, *(_score_cells(scored[kind]) if kind in scored else ["-"] * 6))
    console.print(table)
    console.print(f"{len(profile.samples)} layers, {profile.overhead_s * 1e6:.1f} µs per run; written to {out}")


def _score_cells(score: Score) -> list[str]:
    shares = [f"{value:.1%}" for value in (score.error, score.covered, score.noise)]
    if score.constant:
        return ["-", "-", "-", *shares]
    return [f"{score.r2:.4f}", f"{score.r2_log:.4f}", f"{score.r2_roofline:.3f}", *shares]


def _print_model(found: ModelLatency) -> None:
    from rich.console import Console
    from rich.table import Table

    measured = any(row.runs_s for row in found.stages)
    table = Table(title=f"{found.graph.name}: milliseconds of one frame", title_justify="left")
    table.add_column("part")
    for column in ("predicted", "95 % interval", *(("measured", "error") if measured else ())):
        table.add_column(column, justify="right")
    for row in (*found.stages, *found.parts):
        guess = row.predicted
        cells = [row.part, f"{guess.seconds * 1e3:.3f}", f"{guess.low * 1e3:.3f} - {guess.high * 1e3:.3f}"]
        if measured and row.measured_s is not None and row.error is not None:
            cells += [f"{row.measured_s * 1e3:.3f}", f"{row.error:+.1%}"]
        table.add_row(*cells)
    console = Console(highlight=False, markup=False)
    console.print(table)
    console.print(f"stages in turn: {found.latency_s * 1e3:.3f} ms, {found.stages[0].source}")
