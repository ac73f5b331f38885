from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from broker.errors import UnderstudyError
from planner.plan import Plan, Stage, Step
from tests.data import REPOSITORY
from tests.unit.planner_reference import make_chain
from understudy.cli.main import app
from understudy.data import digits_bundle
from understudy.planview import plan_view

CHAIN: dict[str, Any] = {
    "name": "net",
    "cut_bytes": [8, 6, 4],
    "block_memory_bytes": [3, 3],
    "block_peak_bytes": [1, 1],
    "block_flops": [4, 4],
}
CLUSTER: dict[str, Any] = {
    "topology": "mesh",
    "nodes": [
        {"name": "kitchen", "memory_bytes": 7, "flops_per_s": 1.0},
        {"name": "roof", "memory_bytes": 4, "flops_per_s": 1.0},
    ],
    "bandwidth_bytes_per_s": [[0, 1.0], [2.0, 0]],
    "source_bytes_per_s": [8.0, 8.0],
    "sink_bytes_per_s": None,
}
FIELDS = ["stages", "objective", "bottleneck_s", "lower_bound_s", "gap", "proven", "latency_s", "solve_s"]


class Desk:
    """Runs `understudy plan` on files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, content: Any) -> str:
        path = self.folder / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    def arguments(self, chain: Any = CHAIN, cluster: Any = CLUSTER) -> list[str]:
        return ["--chain", self.write("chain.json", chain), "--cluster", self.write("cluster.json", cluster)]

    def plan(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, ["plan", *arguments], env={"COLUMNS": "120"})

    def document(self, *arguments: str) -> dict[str, Any]:
        result = self.plan(*arguments, "--json")
        assert result.exit_code == 0, result.output
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    def refused(self, *arguments: str) -> str:
        """What `main` prints before it exits with 2."""
        result = self.plan(*arguments)
        assert isinstance(result.exception, UnderstudyError)
        assert result.exception.exit_code == 2
        return str(result.exception)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_json_has_the_plan_its_values_and_its_proof(desk: Desk) -> None:
    found = desk.document(*desk.arguments(), "--time-limit", "10")
    assert list(found) == FIELDS
    assert found["stages"] == [
        {"first_block": 0, "end_block": 1, "node": "roof"},
        {"first_block": 1, "end_block": 2, "node": "kitchen"},
    ]
    assert found.pop("solve_s") >= 0
    assert {key: found[key] for key in FIELDS[1:-1]} == {
        "objective": "bottleneck",
        "bottleneck_s": 4.0,
        "lower_bound_s": 4.0,
        "gap": 0.0,
        "proven": True,
        "latency_s": 12.0,
    }


def test_the_objective_latency_is_minimised_and_bounded(desk: Desk) -> None:
    found = desk.document(*desk.arguments(), "--objective", "latency")
    assert found["stages"] == [{"first_block": 0, "end_block": 2, "node": "kitchen"}]
    assert (found["objective"], found["bottleneck_s"], found["latency_s"]) == ("latency", 8.0, 9.0)
    assert (found["lower_bound_s"], found["proven"]) == (pytest.approx(9.0), True)


def test_so_many_stages_as_asked_for(desk: Desk) -> None:
    for stages in (1, 2):
        assert len(desk.document(*desk.arguments(), "--stages", str(stages))["stages"]) == stages


def test_a_star_in_yaml_with_units_is_planned_for(desk: Desk) -> None:
    cluster = desk.write(
        "cluster.yaml",
        """
        topology: star
        nodes:
          - {name: kitchen, memory_bytes: 4 B}
          - {name: roof, memory_bytes: 1 MiB, flops_per_s: 1.0e-1}
        up_bytes_per_s: [2, 1]
        down_bytes_per_s: [2, 3]
        source_bytes_per_s: null
        sink_bytes_per_s: [4, 4]
        """,
    )
    found = desk.document("--chain", desk.write("chain.json", CHAIN), "--cluster", cluster)
    assert [stage["node"] for stage in found["stages"]] == ["kitchen", "roof"]
    assert (found["bottleneck_s"], found["latency_s"]) == (40.0, 46.0)


def test_no_plan_is_exit_code_3_with_the_missing_bytes(desk: Desk) -> None:
    small = {**CLUSTER, "nodes": [{**node, "memory_bytes": 3} for node in CLUSTER["nodes"]]}
    result = desk.plan(*desk.arguments(cluster=small))
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith("understudy: no plan: block 0 of 'net' needs 4 bytes")
    assert "1 bytes are missing" in result.stderr


def test_no_plan_in_json_has_the_reason_too(desk: Desk) -> None:
    result = desk.plan(*desk.arguments(), "--stages", "3", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout) == {"stages": None, "reason": "3 stages need 3 nodes, and there are 2"}
    assert "3 stages need 3 nodes" in result.stderr


def test_the_picture_names_every_node_and_marks_the_bottleneck(desk: Desk) -> None:
    chain = {**CHAIN, "block_flops": [4, 2]}
    result = desk.plan(*desk.arguments(chain=chain))
    assert result.exit_code == 0
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert "net: 2 stage(s)" in lines
    slowest = [line for line in lines if line.endswith("bottleneck")]
    assert len(slowest) == 1
    assert slowest[0].startswith("roof computes")
    assert "4000.000 ms" in slowest[0]
    for step in ("source → roof  8 B", "roof → kitchen  6 B", "kitchen computes", "kitchen → sink  4 B"):
        assert sum(line.startswith(step) for line in lines) == 1
    assert any(line.startswith("bottleneck 4000.000 ms, 0.25 frames/s; latency 10000.000 ms") for line in lines)
    assert any(line.startswith("proven: no plan is better; solved in ") for line in lines)


def test_a_transfer_in_a_star_is_drawn_as_long_as_its_slower_link_and_tells_its_way_over_both(desk: Desk) -> None:
    star = {key: value for key, value in CLUSTER.items() if key != "bandwidth_bytes_per_s"}
    star |= {"topology": "star", "up_bytes_per_s": [1, 1], "down_bytes_per_s": [2, 2]}
    lines = desk.plan(*desk.arguments(cluster=star)).stdout.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("roof → kitchen  6 B"))
    assert "6000.000 ms" in lines[at]
    assert lines[at].endswith("bottleneck")
    assert lines[at + 1].split(maxsplit=1) == ["9000.000", "ms  on its way, over both links"]
    assert any(line.startswith("bottleneck 6000.000 ms, 0.17 frames/s;") for line in lines)


def test_a_picture_of_a_plan_without_proof_says_how_far_it_may_be_off() -> None:
    plan = Plan(
        stages=(Stage(first_block=0, end_block=1, node="a"),),
        steps=(Step(kind="compute", node="a", to="a", cut=0, size_bytes=0, seconds=2.0, busy_s=2.0),),
        bottleneck_s=2.0,
        latency_s=2.0,
        lower_bound_s=1.5,
    )
    text = text_of(plan)
    assert "not proven" in text
    assert "bound 1500.000 ms" in text


def test_a_plan_that_takes_no_time_has_no_bottleneck_and_no_rate(desk: Desk) -> None:
    free = {"nodes": [{"name": "kitchen", "memory_bytes": 100, "flops_per_s": None}]}
    result = desk.plan(*desk.arguments(cluster=free))
    assert result.exit_code == 0
    assert "frames/s" not in result.stdout
    assert "█" not in result.stdout


def text_of(plan: Plan, width: int = 120) -> str:
    from rich.console import Console

    console = Console(width=width)
    with console.capture() as capture:
        console.print(plan_view(plan, make_chain((1, 1))))
    return capture.get()


def test_a_plan_on_predicted_seconds_says_so(desk: Desk) -> None:
    seconds = {"block_seconds": {"roof": [1, 1]}, "block_seconds_source": {"roof": "predicted"}}
    assert "computing is predicted on roof" in desk.plan(*desk.arguments({**CHAIN, **seconds})).stdout
    measured = {"block_seconds": {"roof": [1, 1]}}
    assert "computing is" not in desk.plan(*desk.arguments({**CHAIN, **measured})).stdout


def test_seconds_of_unknown_origin_are_refused(desk: Desk) -> None:
    guessed = {"block_seconds": {"roof": [1, 1]}, "block_seconds_source": {"kitchen": "predicted"}}
    result = desk.plan(*desk.arguments({**CHAIN, **guessed}))
    assert result.exit_code != 0


def test_on_a_terminal_of_80_columns_the_mark_stands_at_its_bar(desk: Desk) -> None:
    result = CliRunner().invoke(app, ["plan", *desk.arguments()], env={"COLUMNS": "80"})
    assert any("█" in line and line.rstrip().endswith("bottleneck") for line in result.stdout.splitlines())


def test_names_with_brackets_are_shown_as_they_are(desk: Desk) -> None:
    nodes = [{**node, "name": f"pi[{node['name']}]"} for node in CLUSTER["nodes"]]
    result = desk.plan(*desk.arguments({**CHAIN, "name": "net[small]"}, {**CLUSTER, "nodes": nodes}))
    assert "net[small]: 2 stage(s)" in result.stdout
    assert result.stdout.count("pi[roof]") == 4


def test_how_far_above_the_optimum_a_plan_may_be_is_relative_to_the_bound() -> None:
    plan = Plan(
        stages=(Stage(first_block=0, end_block=1, node="a"),),
        steps=(Step(kind="compute", node="a", to="a", cut=0, size_bytes=0, seconds=2.0, busy_s=2.0),),
        bottleneck_s=2.0,
        lower_bound_s=1.0,
    )
    assert "at most 100.00% above the optimum" in text_of(plan)


def test_without_a_cluster_the_option_is_named(desk: Desk) -> None:
    assert "give --cluster" in desk.refused("--chain", desk.write("chain.json", CHAIN))


def test_neither_or_both_of_model_and_chain_are_refused(desk: Desk) -> None:
    arguments = desk.arguments()
    wanted = "give either a bundle or model, or --chain chain.json"
    assert desk.refused(*arguments[2:]) == wanted
    assert desk.refused("model.onnx", *arguments) == wanted


@pytest.mark.parametrize(
    "options", [("--stages", "0"), ("--time-limit", "-1"), ("--objective", "beauty"), ("--time-limit", "soon")]
)
def test_an_impossible_option_is_a_usage_error(desk: Desk, options: tuple[str, str]) -> None:
    result = desk.plan(*desk.arguments(), *options)
    assert result.exit_code == 2
    assert options[0] in result.stderr


def test_a_wrong_file_is_named_with_its_mistake(desk: Desk) -> None:
    assert "cluster.json: topology" in desk.refused(*desk.arguments(cluster={**CLUSTER, "topology": "ring"}))
    assert "chain.json: chain 'net': cut_bytes" in desk.refused(*desk.arguments(chain={**CHAIN, "cut_bytes": [1]}))
    cluster = desk.write("cluster.json", CLUSTER)
    assert "absent" in desk.refused("--chain", str(desk.folder / "absent"), "--cluster", cluster)
    assert "absent" in desk.refused(str(desk.folder / "absent.onnx"), "--cluster", cluster)


def test_a_bundle_and_its_model_give_the_same_stages_and_pictures_take_less_time_than_tensors(desk: Desk) -> None:
    example = str(REPOSITORY / "examples" / "cluster.yaml")
    bundle = digits_bundle()
    pictures, tensors = (desk.document(str(path), "--cluster", example) for path in (bundle.folder, bundle.model_path))
    for same in ("stages", "objective", "gap", "proven"):
        assert pictures[same] == tensors[same]
    assert pictures["stages"][0]["first_block"] == 0
    assert pictures["proven"]
    assert pictures["stages"][0]["node"] != "hall"  # 12.5 MB/s from the source to the others
    assert tensors["latency_s"] - pictures["latency_s"] == pytest.approx((4 - 1) * 8 * 8 / 12.5e6)


def test_without_time_a_plan_with_a_bound_is_printed(desk: Desk) -> None:
    found = desk.document(*desk.arguments(), "--time-limit", "0")
    assert 0 < found["lower_bound_s"] <= found["bottleneck_s"]
    assert found["proven"] == (found["gap"] <= 1e-9)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "understudy", "plan", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_in_a_process_of_its_own_exits_with_0_2_and_3(desk: Desk) -> None:
    done = run(*desk.arguments(), "--time-limit", "10", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert list(json.loads(done.stdout)) == FIELDS
    wrong = run("--chain", desk.write("chain.json", CHAIN))
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("understudy: no cluster is named")
    impossible = run(*desk.arguments(), "--stages", "3")
    assert (impossible.returncode, impossible.stdout) == (3, "")
    assert impossible.stderr == "understudy: no plan: 3 stages need 3 nodes, and there are 2\n"
