"""What `bench.placement` deploys, and what it makes of it. Nothing here is deployed or timed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench import harness
from bench.networks import chain_of, network
from bench.placement.__main__ import parse, scope_of
from bench.placement.measure import FULL, MODERATE, QUICK, Result, Series, emulated_cluster, ratios
from bench.placement.plans import Candidate, candidates
from bench.placement.report import details, figures, show
from planner.chain import Chain
from planner.cluster import Cluster
from planner.solve import price, solve
from tests.unit.deployments import deployment
from understudy.emulation.links import payload_cluster

SERIES = Series(model="resnet50", bandwidth="spread", nodes=6, seed=0)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return chain_of(network("resnet50", tmp_path_factory.mktemp("networks")))


def seen(series: Series, chain: Chain) -> Cluster:
    cluster = payload_cluster(emulated_cluster(series, chain))
    fast = tuple(replace(node, flops_per_s=1e11) for node in cluster.nodes)
    return replace(cluster, nodes=fast, max_payload_bytes=8 << 20, chunked=False)


@pytest.mark.parametrize("bandwidth", ["wifi", "spread"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_method_s_plan_can_be_deployed_and_none_is_better_than_ours(
    chain: Chain, bandwidth: str, seed: int
) -> None:
    cluster = seen(replace(SERIES, bandwidth=bandwidth, seed=seed), chain)
    ours = solve(chain, cluster)
    assert len(ours.stages) > 1
    found = candidates(chain, cluster, seed=seed, randoms=3)
    assert [each.method for each in found if each.method != "random"] == ["seifer", "greedy"]
    for each in found:
        if each.stages is not None:
            priced = price(chain, cluster, each.stages)
            assert priced.bottleneck_s == pytest.approx(each.predicted_s)
            assert priced.bottleneck_s >= ours.bottleneck_s * (1 - 1e-9)


def test_a_single_random_plan_is_the_median_of_many_and_several_are_spread_over_them(chain: Chain) -> None:
    cluster = seen(SERIES, chain)

    def random_plans(count: int) -> list[Candidate]:
        return [each for each in candidates(chain, cluster, seed=0, randoms=count) if each.method == "random"]

    def times(count: int) -> list[float]:
        return [each.predicted_s for each in random_plans(count) if each.predicted_s is not None]

    [median] = times(1)
    several = times(25)
    assert sum(value <= median for value in several) >= 13
    assert sum(value >= median for value in several) >= 13
    assert len(times(5)) == 5
    assert random_plans(1) == random_plans(1)


def test_a_spread_cluster_has_unequal_links_and_memories_and_the_same_way_in_everywhere(chain: Chain) -> None:
    cluster = emulated_cluster(SERIES, chain)
    rates = [rate for row in cluster.bandwidth_bytes_per_s or () for rate in row]
    assert min(rates) >= 2e6 / 8
    assert max(rates) <= 20e6 / 8
    assert len(set(rates)) == 36
    assert len({node.memory_bytes for node in cluster.nodes}) == 6
    assert set(cluster.source_bytes_per_s or ()) == {50e6 / 8}
    whole = chain.stage_memory_bytes(0, chain.blocks)
    assert all(node.memory_bytes is not None and node.memory_bytes < whole for node in cluster.nodes)
    assert emulated_cluster(SERIES, chain) == cluster
    assert emulated_cluster(replace(SERIES, seed=1), chain) != cluster


def test_options_narrow_the_scope() -> None:
    scope = scope_of(parse(["--full", "--nodes", "5", "--model", "vgg19", "--bandwidth", "wifi"]))
    assert (scope.nodes, scope.models, scope.bandwidths, scope.randoms) == (5, ("vgg19",), ("wifi",), FULL.randoms)
    assert scope_of(parse(["--quick"])) == QUICK
    assert scope_of(parse([])) == MODERATE
    for wrong in (["--nodes", "1"], ["--model", "gpt"], ["--quick", "--full"]):
        with pytest.raises(SystemExit):
            parse(wrong)


def test_a_ratio_is_how_many_times_as_fast_ours_is_and_of_several_random_plans_the_median() -> None:
    ours = Result(method="ours", measured=deployment(10.0))
    results = [
        ours,
        Result(method="greedy", measured=deployment(5.0, planned=4.0)),
        *(Result(method="random", measured=deployment(rate, planned=rate)) for rate in (1.0, 2.0, 10.0)),
        Result(method="seifer", reason="the method finds no plan"),
    ]
    greedy, random = ratios(results)
    assert (greedy.method, greedy.measured, greedy.predicted) == ("greedy", 2.0, 2.5)
    assert (random.method, random.measured, random.predicted) == ("random", 5.0, 5.0)


def test_what_the_cores_decided_is_not_compared() -> None:
    bound = Result(method="greedy", measured=deployment(5.0, busy=0.9))
    assert ratios([Result(method="ours", measured=deployment(10.0)), bound]) == []
    assert ratios([Result(method="ours", measured=deployment(10.0, busy=0.9)), bound]) == []


def test_figures_say_where_another_plan_is_faster_and_where_a_prediction_is_off() -> None:
    results = [
        Result(method="ours", measured=deployment(10.0)),
        Result(method="greedy", measured=deployment(10.5, planned=10.0)),
        Result(method="random", measured=deployment(2.0, planned=2.5, faults=1)),
    ]
    found = {figure.name: figure for figure in figures({SERIES: results})}
    assert found["throughput: ours / random"].value == pytest.approx(5)
    assert (found["throughput: ours / random"].note or "").startswith("predicted: 4;")
    assert found["ours / the best other plan, the least"].met is False
    assert found["measured / predicted ratio, the farthest from 1"].value == pytest.approx(1.25)
    assert found["answers wrong, lost or twice"].met is False
    assert figures({SERIES: results[:1]})[0].value is None


def test_the_document_is_json_and_names_methods_without_a_plan(tmp_path: Path) -> None:
    results = [
        Result(method="ours", measured=deployment(10.0)),
        Result(method="seifer", measured=deployment(10.0), same=True),
        Result(method="random", reason="the method finds no plan"),
    ]
    harness.write_json(tmp_path / "placement.json", details({SERIES: results}))
    [series] = json.loads((tmp_path / "placement.json").read_text())["series"]
    assert [plan["method"] for plan in series["plans"]] == ["ours", "seifer", "random"]
    assert series["plans"][1]["same_as_ours"]
    assert series["plans"][2] == {"method": "random", "reason": "the method finds no plan"}
    console = harness.terminal(200)
    with console.capture() as capture:
        show(console, {SERIES: results})
    assert "the same plan as ours" in capture.get()
    assert "the method finds no plan" in capture.get()
