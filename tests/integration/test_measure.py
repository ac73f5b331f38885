"""`understudy measure` against real nodes: all pairs, a file that the planner reads, and a slow link that shows."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Callable
from contextlib import ExitStack
from itertools import permutations
from typing import Any

import pytest

import understudy
from broker import control, subjects
from broker.connect import connect
from broker.control import ProbeOrder
from broker.port import Message
from broker.server import NatsServer
from tests.integration.conftest import Digits
from tests.integration.harness import Running, Shell, Up
from tests.integration.relay import relay
from understudy.planfiles import load_cluster

SLOW_BYTES_PER_S = 2e6
FACTOR = 1.5
NAMES = ("node1", "node2", "node3", "node4")

TRIES = 3
"""Whatever else this machine does for a moment disturbs a measurement: it is made again, and must be right once."""


Right = Callable[[dict[str, Any]], bool]


def measured(shell: Shell, right: Right, *arguments: str, **variables: str) -> dict[str, Any]:
    """What `understudy measure` says of the links, by the two nodes; from the first time on that it is right."""
    for _ in range(TRIES):
        outcome = shell.run("measure", *arguments, "--json", **variables)
        assert (outcome.code, outcome.err) == (0, "")
        document: dict[str, Any] = json.loads(outcome.out)
        if all(map(right, document["links"])):
            break
    assert [link for link in document["links"] if not right(link)] == []
    return document


def test_all_pairs_of_a_running_pipeline_are_measured_without_a_url(
    pipeline: Up, shared_shell: Shell, digits: Digits
) -> None:
    def is_right(link: dict[str, Any]) -> bool:
        rates = 0 < link["alone_bytes_per_s"] <= link["bytes_per_s"] > 5e6
        return rates and 0 < link["overhead_s"] < 0.1

    path = shared_shell.folder / "cluster.yaml"
    document = measured(shared_shell, is_right, "-o", "cluster.yaml")
    assert document["nodes"] == list(NAMES)
    assert document["failures"] == []
    links = {(link["from"], link["to"]): link for link in document["links"]}
    assert set(links) == set(permutations(NAMES, 2))
    cluster = load_cluster(path)
    assert cluster.names == NAMES
    assert cluster.bandwidth_bytes_per_s is not None
    for (sender, receiver), link in links.items():
        written = cluster.bandwidth_bytes_per_s[NAMES.index(sender)][NAMES.index(receiver)]
        assert written == pytest.approx(link["bytes_per_s"], rel=1e-3)
    assert cluster.max_payload_bytes == 8 << 20
    planned = shared_shell.run("plan", "--cluster", "cluster.yaml", str(digits.bundle), "--json")
    assert planned.code == 0, planned.err


def test_the_table_has_a_row_and_a_column_for_each_node_that_was_named(pipeline: Up, shared_shell: Shell) -> None:
    outcome = shared_shell.run("measure", "--nodes", "node3,node1", "--seconds", "0.05", "--topology", "star")
    assert (outcome.code, outcome.err) == (0, "")
    assert "Mbit/s" in outcome.out
    assert "node1" in outcome.out
    assert "node3" in outcome.out
    assert "node2" not in outcome.out


def test_the_password_of_the_control_account_is_noted_for_this_user_alone_and_never_printed(
    pipeline: Up, shared_shell: Shell
) -> None:
    [note] = shared_shell.run_dir.glob("*.json")
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    password = json.loads(note.read_text())["control_broker"].partition("operator-ctrl:")[2].partition("@")[0]
    assert len(password) > 20
    outcomes = [
        shared_shell.run("measure", "--nodes", "node1,node2", "--seconds", "0.05", UNDERSTUDY_LOG_LEVEL="debug"),
        shared_shell.run("measure", "--nodes", "node1,ghost"),
        shared_shell.run("status", "--json"),
    ]
    assert [outcome.code for outcome in outcomes] == [0, 2, 0]
    assert "no heartbeat of ghost" in outcomes[1].err
    assert not any(password in outcome.out + outcome.err for outcome in outcomes)


def test_the_data_account_alone_hears_no_nodes_and_is_told_why(pipeline: Up, shell: Shell) -> None:
    outcome = shell.run("measure", "--broker", pipeline.url)
    assert outcome.code == 2
    assert "who gives no user in the broker's URL may not subscribe to 'understudy._.beat.*'" in outcome.err
    assert "--control-broker" in outcome.err


async def test_a_pipeline_that_is_measured_keeps_answering(pipeline: Up, shared_shell: Shell, digits: Digits) -> None:
    async with understudy.connect(pipeline.url, "digits") as client:
        measuring = asyncio.create_task(asyncio.to_thread(shared_shell.run, "measure", "--json"))
        answered = 0
        while not measuring.done():
            results = [result async for result in client.stream(digits.frames[:50], window=4)]
            assert [result.error for result in results] == [None] * 50
            answered += len(results)
        outcome = await measuring
    assert answered >= 50
    assert (outcome.code, json.loads(outcome.out)["failures"]) == (0, [])


def add_node(stack: ExitStack, shell: Shell, server: NatsServer, name: str, url: str) -> Running:
    arguments = ["node", "--name", name, "--broker", url, "--memory", "64MB", "--cache", str(shell.folder / name)]
    return stack.enter_context(shell.start(*arguments, UNDERSTUDY_CONTROL_BROKER=server.control_url))


@pytest.mark.parametrize("topology", ["mesh", "star"])
async def test_a_slow_link_shows_in_its_row_and_column_and_nowhere_else(
    server: NatsServer, shell: Shell, topology: str
) -> None:
    names = ("a", "b", "slow")

    def near(rate: float) -> bool:
        return SLOW_BYTES_PER_S / FACTOR < rate < SLOW_BYTES_PER_S * FACTOR

    def is_right(link: dict[str, Any]) -> bool:
        rates = (link["bytes_per_s"], link["alone_bytes_per_s"])
        if "slow" in (link["from"], link["to"]):
            return all(map(near, rates))
        return min(rates) > 5 * SLOW_BYTES_PER_S

    with ExitStack() as stack:
        async with relay(server.port, SLOW_BYTES_PER_S) as port:
            for name in names:
                url = (
                    server.operator_url.replace(f":{server.port}", f":{port}")
                    if name == "slow"
                    else server.operator_url
                )
                add_node(stack, shell, server, name, url)
            arguments = ["--nodes", ",".join(names), "--topology", topology, "-o", "c.yaml"]
            arguments += ["--broker", server.operator_url]
            await asyncio.to_thread(measured, shell, is_right, *arguments, UNDERSTUDY_CONTROL_BROKER=server.control_url)
    cluster = load_cluster(shell.folder / "c.yaml")
    assert [node.memory_bytes for node in cluster.nodes] == [64_000_000] * 3
    if topology == "star":
        assert cluster.up_bytes_per_s is not None
        assert cluster.down_bytes_per_s is not None
        for speeds in (cluster.up_bytes_per_s, cluster.down_bytes_per_s):
            assert near(speeds[2])
            assert min(speeds[:2]) > 3 * SLOW_BYTES_PER_S


async def test_a_node_that_dies_while_it_is_measured_is_named_and_the_others_are_measured(
    server: NatsServer, shell: Shell
) -> None:
    control_url = server.control_url
    observer = await connect(control_url, name="observer")
    with ExitStack() as stack:
        nodes = {name: add_node(stack, shell, server, name, server.operator_url) for name in ("a", "b", "c")}

        async def kill_c(message: Message) -> None:
            if "c" in (message.subject.rpartition(".")[2], control.decode(message.data, ProbeOrder).to):
                nodes["c"].process.kill()

        await observer.subscribe(subjects.probe("*"), kill_c)
        outcome = await asyncio.to_thread(
            shell.run,
            *("measure", "--nodes", "a,b,c", "--seconds", "1", "--broker", server.operator_url, "--json"),
            timeout_s=60.0,
            UNDERSTUDY_CONTROL_BROKER=control_url,
        )
    await observer.close()
    assert outcome.code == 1
    assert outcome.err == "understudy: node 'c' did not answer\n"
    document = json.loads(outcome.out)
    assert document["nodes"] == ["a", "b"]
    assert {(link["from"], link["to"]) for link in document["links"]} == {("a", "b"), ("b", "a")}
    assert len(document["failures"]) == 4
