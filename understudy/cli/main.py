"""The `understudy` command."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from broker.errors import UnderstudyError
from understudy.cli.broker_config import broker_config
from understudy.cli.common import fail
from understudy.cli.controller import controller
from understudy.cli.demo import demo
from understudy.cli.emulate import emulate
from understudy.cli.events import events
from understudy.cli.fault import fault
from understudy.cli.inspect import inspect
from understudy.cli.measure import measure
from understudy.cli.node import node
from understudy.cli.plan import plan
from understudy.cli.prepare import prepare
from understudy.cli.profile import app as profile
from understudy.cli.publish import publish
from understudy.cli.status import status
from understudy.cli.up import up
from understudy.cli.update import update
from understudy.cli.watch import watch

app = typer.Typer(
    name="understudy",
    help="Run one neural network across several machines, as a pipeline that keeps answering when machines fail.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    demo,
    emulate,
    up,
    publish,
    watch,
    status,
    events,
    fault,
    update,
    inspect,
    plan,
    measure,
    prepare,
    node,
    controller,
    broker_config,
):
    app.command()(command)
app.add_typer(profile)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"understudy {version('understudy')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options that come before the command."""


def main() -> None:
    """Run the command line. Errors that a user can act on are printed without a traceback, with exit code 2."""
    try:
        app()
    except UnderstudyError as error:
        fail(error)
    except BrokenPipeError:
        # The reader of a pipe (`| head`) has left: nothing more to say, and nothing to complain about.
        sys.stderr.close()
        raise SystemExit(0) from None
