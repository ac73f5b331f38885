"""A version that was rolled out outlives the controller that rolled it out, and ends when the pipeline is stopped."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Digits
from tests.integration.flow import prepared, right, streaming
from tests.integration.harness import Running, Shell, eventually
from tests.integration.test_recovery import Stream
from tests.integration.test_roles import Cluster
from tests.integration.test_standby_controller import logged, taken_over
from tests.integration.test_update import SHIFT, serving, shifted, update, version_of

AGAIN_S = 20.0


@pytest.fixture(scope="module")
def second(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return version_of(digits, tmp_path_factory.mktemp("second") / "digits-v2", shifted)


def cache(cluster: Cluster, name: str) -> Path:
    """A controller's own: it shares no disk with the others."""
    return cluster.shell.folder / f"cache of controller {name}"


def controller(cluster: Cluster, bundle: Path, name: str, *options: str) -> Running:
    return cluster.add_controller(bundle, "--cache", str(cache(cluster, name)), *options, expect=2)


async def first_of(cluster: Cluster, digits: Digits) -> Running:
    """A controller that serves the digits on two nodes."""
    first = controller(cluster, digits.bundle, "one")
    for name in ("a", "b"):
        cluster.add_node(name)
    await prepared(cluster, "a", "b")
    return first


async def two_controllers(cluster: Cluster, digits: Digits) -> tuple[Running, Running]:
    """That one, and another that stands by."""
    first = await first_of(cluster, digits)
    standby = controller(cluster, digits.bundle, "two", "--standby")
    await logged(standby, "controller-stands-by")
    return first, standby


async def rolled_out(cluster: Cluster, bundle: Path) -> int:
    done = await update(cluster.shell, "digits", str(bundle), "--broker", cluster.url, "--json")
    assert (done.code, done.err) == (0, "")
    return int(json.loads(done.out)["epoch"])


async def kill(running: Running) -> None:
    running.process.kill()
    await asyncio.to_thread(running.wait)


async def check_answers(stream: Stream, epoch: int, *, shift: int) -> None:
    """From this epoch on classes are shifted by so many, and no frame is answered in a lesser way."""
    more = await stream.answers(150)
    new = [result for result in more if result["epoch"] >= epoch]
    assert new
    assert right(stream, new, shift=shift) >= 0.97
    assert {result["technique"] for result in new} == {"none"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
async def test_who_takes_over_goes_on_with_the_version_that_was_rolled_out(
    cluster: Cluster, digits: Digits, second: Path, number: signal.Signals
) -> None:
    first, standby = await two_controllers(cluster, digits)
    async with streaming(cluster.url, digits) as stream:
        epoch = await rolled_out(cluster, second)
        await logged(standby, "version-ready")
        # Nobody else has the files: not the one that is gone, nor its disk.
        first.interrupt(number)
        await asyncio.to_thread(first.wait)
        shutil.rmtree(cache(cluster, "one"))
        document = await taken_over(cluster, epoch)
        await check_answers(stream, document["epoch"], shift=SHIFT)

        # The next one hears of it from the second, which has written it down again.
        third = controller(cluster, digits.bundle, "three", "--standby")
        await logged(third, "version-ready")
        await kill(standby)
        document = await taken_over(cluster, document["epoch"])
        await check_answers(stream, document["epoch"], shift=SHIFT)
        new = [result for result in stream.own.results if result["epoch"] >= epoch]
        assert right(stream, new, shift=SHIFT) >= 0.97


async def test_the_version_before_goes_on_with_the_next_controller_where_that_was_the_last_to_be_rolled_out(
    cluster: Cluster, digits: Digits, second: Path
) -> None:
    first, standby = await two_controllers(cluster, digits)
    async with streaming(cluster.url, digits) as stream:
        await rolled_out(cluster, second)
        await logged(standby, "version-ready")
        epoch = await rolled_out(cluster, digits.bundle)
        await kill(first)
        document = await taken_over(cluster, epoch)
        await check_answers(stream, document["epoch"], shift=0)


async def test_a_controller_that_hung_goes_on_with_what_was_rolled_out_meanwhile(
    cluster: Cluster, digits: Digits, second: Path
) -> None:
    first, standby = await two_controllers(cluster, digits)
    async with streaming(cluster.url, digits) as stream:
        epoch = await rolled_out(cluster, second)
        await logged(standby, "version-ready")
        first.interrupt(signal.SIGSTOP)
        try:
            await taken_over(cluster, epoch)
            epoch = await rolled_out(cluster, digits.bundle)
        finally:
            first.interrupt(signal.SIGCONT)
        await logged(first, "version-ready")
        await kill(standby)
        document = await taken_over(cluster, epoch)
        await check_answers(stream, document["epoch"], shift=0)


async def test_a_controller_that_up_starts_again_goes_on_with_the_version_that_was_rolled_out(
    shell: Shell, digits: Digits, second: Path
) -> None:
    async with serving(shell, digits, "--nodes", "2") as (_, stream):
        done = await update(shell, "digits", str(second), "--json")
        assert (done.code, done.err) == (0, "")
        epoch = json.loads(done.out)["epoch"]
        killed = await asyncio.to_thread(shell.run, "fault", "kill", "controller", "--json")
        assert killed.code == 0, killed.err

        async def look() -> dict[str, Any]:
            seen = await asyncio.to_thread(shell.run, "status", "digits", "--json")
            return dict(json.loads(seen.out)) if seen.code == 0 else {}

        def is_new(document: dict[str, Any]) -> bool:
            return document.get("state") == "running" and document["epoch"] > epoch

        document = await eventually(look, is_new, within_s=AGAIN_S, what="a plan of the next controller")
        await check_answers(stream, document["epoch"], shift=SHIFT)


async def test_a_pipeline_that_was_stopped_begins_with_the_bundle_that_it_is_started_with(
    cluster: Cluster, digits: Digits, second: Path
) -> None:
    first = await first_of(cluster, digits)
    async with streaming(cluster.url, digits) as stream:
        epoch = await rolled_out(cluster, second)
        await check_answers(stream, epoch, shift=SHIFT)
        first.interrupt(signal.SIGTERM)
        assert await asyncio.to_thread(first.wait) == 0
        controller(cluster, digits.bundle, "one")
        document = await taken_over(cluster, epoch)
        await check_answers(stream, document["epoch"], shift=0)


async def test_a_version_whose_files_are_gone_is_told_of_and_the_bundle_before_it_is_served(
    cluster: Cluster, digits: Digits, second: Path
) -> None:
    first = await first_of(cluster, digits)
    async with streaming(cluster.url, digits) as stream:
        epoch = await rolled_out(cluster, second)
        await kill(first)
        shutil.rmtree(cache(cluster, "one"))
        again = controller(cluster, digits.bundle, "one")
        document = await taken_over(cluster, epoch)
        await check_answers(stream, document["epoch"], shift=0)
        assert again.log.read_text().count("version-lost") == 1


async def test_a_controller_with_another_bundle_ends_the_version(
    cluster: Cluster, digits: Digits, second: Path, tmp_path: Path
) -> None:
    first = await first_of(cluster, digits)
    other = version_of(digits, tmp_path / "digits-v3", lambda model: model)
    async with streaming(cluster.url, digits) as stream:
        epoch = await rolled_out(cluster, second)
        await kill(first)
        between = controller(cluster, other, "one")
        document = await taken_over(cluster, epoch)
        await check_answers(stream, document["epoch"], shift=0)
        await kill(between)
        controller(cluster, digits.bundle, "one")
        document = await taken_over(cluster, document["epoch"])
        await check_answers(stream, document["epoch"], shift=0)
