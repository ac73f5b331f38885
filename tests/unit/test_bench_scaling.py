"""What `bench.scaling` measures, and what it makes of it. Nothing here is deployed or timed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import harness
from bench.document import Figure
from bench.networks import chain_of, network
from bench.scaling.__main__ import parse, scope_of
from bench.scaling.points import FULL, MODERATE, QUICK, Point, Series, cluster_of, falls, memory_bytes
from bench.scaling.report import details, figures, show
from planner.cluster import Cluster
from planner.solve import solve
from tests.unit.deployments import deployment
from understudy.emulation.links import with_machines

SERIES = Series(model="mobilenetv2", bandwidth="10mbit")


def figure(points: list[Point], begins: str) -> Figure:
    [found] = [each for each in figures({SERIES: points}) if each.name.startswith(begins)]
    return found


# ---- what is measured ----------------------------------------------------------------------------------------------


def test_options_narrow_the_scope_and_each_combination_is_there_once() -> None:
    scope = scope_of(parse(["--quick", "--nodes", "4,1,4", "--bandwidth", "wifi,10mbit", "--model", "vgg19,resnet50"]))
    assert scope.nodes == (1, 4)
    assert [(each.model, each.bandwidth) for each in scope.series] == [
        ("vgg19", "wifi"),
        ("vgg19", "10mbit"),
        ("resnet50", "wifi"),
        ("resnet50", "10mbit"),
    ]
    assert scope.effort == QUICK.effort
    assert scope_of(parse([])) == MODERATE
    assert len(scope_of(parse(["--full", "--model", "resnet50", "--bandwidth", "wifi", "--cpus", "1"])).series) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nodes", "0"],
        ["--nodes", "two"],
        ["--model", "gpt"],
        ["--memory", "some"],
        ["--quick", "--full"],
    ],
)
def test_wrong_options_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)


def test_a_node_more_leaves_the_others_where_they_are() -> None:
    wifi = Series(model="mobilenetv2", bandwidth="wifi")
    small, large = cluster_of(wifi, 3, 7), cluster_of(wifi, 8, 7)
    assert large.subset(small.names) == small


def test_the_network_is_split_on_several_nodes_and_whole_on_one(tmp_path: Path) -> None:
    for model in ("mobilenetv2", "resnet50", "vgg19"):
        chain = chain_of(network(model, tmp_path))
        series = Series(model=model, bandwidth="50mbit")
        for count in (1, 2, 4, 20):
            memory = memory_bytes(series, count, (1, 2, 4, 20), chain, 0)
            plain = cluster_of(series, count, 0)
            plan = solve(chain, with_machines(plain, chain, memory_bytes=memory, flops_per_s=1e12, lost=0))
            assert (len(plan.stages) == 1) == (count == 1)


def test_memory_for_each_stays_when_nodes_are_added_and_in_total_it_shrinks(tmp_path: Path) -> None:
    chain, nodes = chain_of(network("resnet50", tmp_path)), (1, 2, 3, 4)
    total, each = (
        [memory_bytes(Series(model="resnet50", bandwidth="wifi", memory=memory), n, nodes, chain, 0) for n in nodes]
        for memory in ("total", "each")
    )
    assert total == sorted(total, reverse=True)
    assert len(set(total)) == 4
    assert each == [total[0], total[1], total[1], total[1]]


def test_with_the_same_memory_for_each_the_planner_never_promises_less_for_more_nodes(tmp_path: Path) -> None:
    chain = chain_of(network("resnet50", tmp_path))
    series = Series(model="resnet50", bandwidth="wifi", memory="each")

    def promised(count: int) -> float:
        memory = memory_bytes(series, count, (2, 3, 4, 6), chain, 0)
        plain: Cluster = cluster_of(series, count, 0)
        return solve(chain, with_machines(plain, chain, memory_bytes=memory, flops_per_s=8e10, lost=0)).bottleneck_s

    bottlenecks = [promised(count) for count in (2, 3, 4, 6)]
    assert bottlenecks == sorted(bottlenecks, reverse=True)


def test_every_scope_has_a_single_node_to_compare_with() -> None:
    assert all(1 in scope.nodes for scope in (QUICK, MODERATE, FULL))
    assert max(FULL.nodes) == 20


# ---- what is made of it --------------------------------------------------------------------------------------------


def test_fewer_frames_with_more_nodes_are_a_fall_where_the_plan_promises_as_many() -> None:
    points = [Point(nodes=1, measured=deployment(10.0)), Point(nodes=2, measured=deployment(9.0))]
    assert falls(points) == ["9.00 frames/s of 2 nodes, 10.00 of 1"]


@pytest.mark.parametrize(
    "later",
    [
        deployment(9.85),  # 2 % is the repeatability of the measurement
        deployment(8.0, 9.0, 10.0),  # within its own spread
        deployment(9.0, planned=9.0),  # the plan promises less: every node has less memory
        deployment(9.0, busy=0.95),  # the cores have decided
    ],
)
def test_what_is_no_fall(later: object) -> None:
    assert falls([Point(nodes=1, measured=deployment(10.0)), Point(nodes=2, measured=later)]) == []  # type: ignore[arg-type]


def test_a_fall_is_seen_across_a_point_that_could_not_be_measured() -> None:
    points = [
        Point(nodes=2, measured=deployment(10.0)),
        Point(nodes=3, reason="it did not come up"),
        Point(nodes=4, measured=deployment(5.0)),
    ]
    assert len(falls(points)) == 1


def test_the_figure_farthest_from_the_plan_counts_on_either_side() -> None:
    points = [
        Point(nodes=1, measured=deployment(9.95)),
        Point(nodes=2, measured=deployment(11.5)),
        Point(nodes=4, measured=deployment(9.0)),
    ]
    found = figure(points, "measured / planned")
    assert (found.value, found.met) == (pytest.approx(1.15), False)
    assert figure(points[:1], "measured / planned").met


def test_the_link_s_figure_is_the_least_and_leaves_out_points_without_a_link() -> None:
    points = [
        Point(nodes=1, measured=deployment(9.0, limit=None)),
        Point(nodes=2, measured=deployment(10.0)),
        Point(nodes=4, measured=deployment(9.7)),
    ]
    found = figure(points, "least share")
    assert (found.value, found.met) == (pytest.approx(9.7 / 10.5), False)
    assert figure(points[:2], "least share").met


def test_points_that_the_cores_decided_are_in_no_figure_but_in_the_notes() -> None:
    points = [Point(nodes=1, measured=deployment(5.0, busy=0.99, faults=1))]
    found = figure(points, "measured / planned")
    assert (found.value, found.met) == (None, None)
    assert "1 with the cores more than 85% busy left out" in (found.note or "")
    assert figure(points, "answers").met is False


def test_the_document_is_json_and_the_table_says_what_is_wrong(tmp_path: Path) -> None:
    points = [
        Point(nodes=1, measured=deployment(10.0)),
        Point(nodes=2, measured=deployment(4.0, busy=0.9)),
        Point(nodes=3, reason="no plan fits"),
    ]
    harness.write_json(tmp_path / "scaling.json", details({SERIES: points}))
    read = json.loads((tmp_path / "scaling.json").read_text())
    [series] = read["series"]
    assert [point["nodes"] for point in series["points"]] == [1, 2, 3]
    assert series["points"][0]["frames_per_s"] == 10
    assert series["points"][2] == {"nodes": 3, "reason": "no plan fits"}
    console = harness.terminal(200)
    with console.capture() as capture:
        show(console, {SERIES: points})
    assert "CPU-bound: not comparable" in capture.get()
    assert "no plan fits" in capture.get()


def test_without_an_engine_the_exit_code_is_2_and_the_message_says_what_to_do() -> None:
    # A process of its own: a benchmark sets up the logs.
    done = subprocess.run(
        [sys.executable, "-m", "bench.scaling", "--quick"],
        env={**os.environ, "DOCKER_HOST": "unix:///nonexistent", "COLUMNS": "1000"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "start it" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
