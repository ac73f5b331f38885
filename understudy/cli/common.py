"""What several commands share: finding the broker, running the event loop, errors without tracebacks."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, NoReturn

import typer

from broker.errors import UnderstudyError
from understudy.registry import Registry
from understudy.settings import Settings

BrokerOption = Annotated[
    str | None,
    typer.Option(
        "--broker",
        help="Broker URL, such as nats://host:4222 or mqtt://host. Default: $UNDERSTUDY_BROKER, else what runs here.",
    ),
]
OwnBrokerOption = Annotated[
    str | None,
    typer.Option("--broker", help="Broker URL, such as nats://host:4222 or mqtt://host. Default: $UNDERSTUDY_BROKER."),
]
DeliveryOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODE|JSON|FILE",
        help="What is promised of frames (docs/delivery.md): at-least-once, latest or durable; or all settings.",
    ),
]
RecoveryOption = Annotated[
    str | None,
    typer.Option(metavar="JSON|FILE", help="What recovery shall keep to (docs/recovery.md): a YAML file or JSON."),
]
ControlBrokerOption = Annotated[
    str | None,
    typer.Option(
        "--control-broker",
        help="URL of the broker's control account. Default: $UNDERSTUDY_CONTROL_BROKER, else the broker's URL.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


def locate(settings: Settings, broker: str | None, pipeline: str | None) -> tuple[str, str | None]:
    """The broker's URL and the pipeline's name: as given, or those of the pipeline that `up` started here.

    Raises:
        NotRunningError: no broker was given, and no such pipeline runs here.
    """
    url = broker or settings.broker
    if url is not None:
        return url, pipeline
    run = Registry(settings.run_dir).find(pipeline)
    return run.broker, run.pipeline


def locate_control(settings: Settings, broker: str | None, control_broker: str | None, pipeline: str | None) -> str:
    """The control account's URL: as given; or what `up` noted of the pipeline that it runs here; or the broker's own.

    Raises:
        NotRunningError: neither URL was given, and no such pipeline runs here.
    """
    given = control_broker or settings.control_broker
    if given is not None and (control_broker or broker or settings.broker):
        return given
    url, _ = locate(settings, broker, pipeline)
    noted = [run.control_broker for run in Registry(settings.run_dir).all() if run.broker == url]
    return next((own for own in noted if own), None) or given or url


def locate_operator(settings: Settings, broker: str) -> str:
    """The broker's URL for who may do more than a client: what `up` noted of a pipeline that it runs here at this
    broker; or the URL itself."""
    noted = (run.operator_broker for run in Registry(settings.run_dir).all() if run.broker == broker)
    return next((own for own in noted if own), None) or broker


def needed_broker(settings: Settings, broker: str | None) -> str:
    """Raises UnderstudyError where no broker is named."""
    url = broker or settings.broker
    if url is None:
        raise UnderstudyError("no broker is named: give --broker nats://host:4222, or set UNDERSTUDY_BROKER")
    return url


def _forget_imports() -> None:
    """Have the garbage collector pass over all that is loaded by now: modules, classes, functions. It is nine objects
    of ten, and stays. With it each full collection stops the process for tens of milliseconds, and comes so rarely that
    what former plans left (heads with the results that they remember, sessions) stays for many minutes."""
    gc.freeze()
    gc.collect()  # of next to nothing; what is left after it tells when the next one comes


def run(main: Coroutine[Any, Any, None], *, leave: Callable[[], bool] | None = None) -> None:
    """Run `main` on uvloop until it ends. The first SIGINT or SIGTERM cancels it, so that it can clean up; a second one
    ends the process at once. With `leave`, SIGTERM calls that: where it returns True, `main` ends in its own time."""
    import uvloop

    interrupted = False

    async def guarded() -> None:
        nonlocal interrupted
        _forget_imports()
        task = asyncio.ensure_future(main)

        def stop(number: int) -> None:
            nonlocal interrupted
            if interrupted:
                sys.stderr.write("stopped at once\n")
                sys.stderr.flush()
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            interrupted = True
            if leave is None or number != signal.SIGTERM or not leave():
                task.cancel()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)
        try:
            await task
        except asyncio.CancelledError:
            if not interrupted:
                raise

    uvloop.run(guarded())
    if interrupted:
        raise typer.Exit(0)


def fail(error: UnderstudyError) -> NoReturn:
    """End the process with the error's message and exit code, without a traceback."""
    sys.stderr.write(f"understudy: {error}\n")
    raise SystemExit(error.exit_code)
