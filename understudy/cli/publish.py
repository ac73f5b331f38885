"""`understudy publish`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from understudy.cli.common import BrokerOption, JsonOption, locate, run

SUFFIXES = (".jpg", ".jpeg", ".png", ".npy", ".msgpack")


def publish(
    pipeline: Annotated[str, typer.Argument(help="The pipeline.")],
    files: Annotated[
        list[str], typer.Argument(help="Images, .npy files, folders of them, or - for one frame on stdin.")
    ],
    broker: BrokerOption = None,
    window: Annotated[int, typer.Option(min=1, help="Frames under way, at most.")] = 64,
    timeout: Annotated[str, typer.Option(help="How long one frame may take.")] = "30s",
    json_: JsonOption = False,
) -> None:
    """Publish frames and print their results as they come. Exit code 1 if a frame was answered with an error.

    Example: understudy publish digits seven.png photos/

    Example: curl -s http://camera/shot.jpg | understudy publish digits - --json
    """
    from understudy.cli.quantities import duration_option
    from understudy.settings import read_settings

    frames = list(_frames(files))
    url, name = locate(read_settings(), broker, pipeline)
    run(_publish(url, name or pipeline, frames, window, duration_option("--timeout", timeout), as_json=json_))


def _frames(files: list[str]) -> Iterator[tuple[str, Any]]:
    """(name, content) of every frame: files as they are named, folders in order of their files' names."""
    from understudy.frames import ContentError

    for name in files:
        path = Path(name)
        if name == "-":
            yield "-", sys.stdin.buffer.read()
        elif path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            if not found:
                raise ContentError(f"folder {path} holds no frame: files ending in {', '.join(SUFFIXES)} are taken")
            yield from ((str(p), p) for p in found)
        elif path.is_file():
            yield name, path
        else:
            raise ContentError(f"there is no file or folder {path}")


async def _publish(
    url: str, pipeline: str, frames: list[tuple[str, Any]], window: int, timeout_s: float, *, as_json: bool
) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    from understudy.client import connect

    bad = 0
    errors = Console(stderr=True)
    columns = ("publishing", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    async with connect(url, pipeline, timeout_s=timeout_s, window=window) as client:
        with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
            bar = progress.add_task("publishing", total=len(frames))
            names = iter(frames)
            async for result in client.stream(content for _, content in frames):
                name, _ = next(names)
                _show(name, result, as_json=as_json)
                bad += result.error is not None
                progress.advance(bar)
    if bad:
        raise typer.Exit(1)


def _show(name: str, result: Any, *, as_json: bool) -> None:
    import json

    from understudy.result import to_document
    from understudy.result_line import result_line

    typer.echo(json.dumps({"file": name, **to_document(result)}) if as_json else f"{name}  {result_line(result)}")
