"""The files of an emulation's Compose project."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.server import find_binary
from planner.cluster import Cluster, NodeSpec
from planner.plan import Plan, Stage
from understudy.emulation.default import FILE, default_compose
from understudy.emulation.errors import EmulationError
from understudy.emulation.links import payload_cluster
from understudy.emulation.preparation import Wishes, choose_window
from understudy.emulation.project import BROKER_BYTES, PROCESS_BYTES, Layout, Place, Project, links_of, make_project
from understudy.planfiles import load_cluster, load_plan

NODES = tuple(NodeSpec(name=name, memory_bytes=64 << 20, flops_per_s=1e9) for name in ("attic", "barn", "cellar"))
MESH = Cluster(
    nodes=NODES,
    bandwidth_bytes_per_s=((0, 2e6, 3e6), (4e6, 0, 0), (6e6, 7e6, 0)),
    source_bytes_per_s=(8e6, 9e6, 10e6),
    sink_bytes_per_s=(11e6, 12e6, 13e6),
)
STAR = Cluster(nodes=NODES, topology="star", up_bytes_per_s=(1e6, 2e6, 3e6), down_bytes_per_s=(4e6, 5e6, 6e6))


def layout(cluster: Cluster = MESH, **more: Any) -> Layout:
    place = Place(name="try", subnet="10.9.9", port=4333)
    return Layout(pipeline="p", cluster=cluster, place=place, cpus={"attic": 0.5}, **more)


def compose(project: Project) -> dict[str, Any]:
    document = yaml.safe_load(project.files["compose.yaml"].text)
    assert isinstance(document, dict)
    return document


def member(project: Project, name: str) -> dict[str, Any]:
    document = json.loads(project.files[f"{name}/member.json"].text)
    assert isinstance(document, dict)
    return document


def rates(project: Project, name: str) -> list[int]:
    """Bit/s of the buckets in a container, in the order of receivers."""
    return [int(bits) for bits in re.findall(r"tbf rate (\d+)bit", "\n".join(member(project, name)["tc"]))]


@pytest.mark.parametrize("cluster", [MESH, STAR], ids=["mesh", "star"])
def test_the_controller_plans_with_what_tcp_carries_over_the_links_that_are_emulated(
    cluster: Cluster, tmp_path: Path
) -> None:
    project = make_project(layout(cluster))
    file = tmp_path / "cluster.yaml"
    file.write_text(project.files["controller/cluster.yaml"].text)
    seen = load_cluster(file)
    assert seen == payload_cluster(cluster)
    planned = seen.up_bytes_per_s[0] if seen.up_bytes_per_s else (seen.bandwidth_bytes_per_s or ())[0][-1]
    assert planned * 8 == pytest.approx(0.956 * rates(project, "attic")[-1], rel=1e-3)
    [controller] = member(project, "controller")["programs"]
    assert "{here}/cluster.yaml" in controller["argv"]


def test_in_a_mesh_each_pair_has_its_own_rate() -> None:
    project = make_project(layout())
    assert rates(project, "attic") == [88_000_000, 16_000_000, 24_000_000]  # to the hub, barn, cellar
    assert rates(project, "barn") == [96_000_000, 32_000_000, 64_000]  # no link: room for the broker's words
    assert rates(project, "hub") == [64_000_000, 72_000_000, 80_000_000]
    assert rates(project, "controller") == []


def test_in_a_star_uplinks_are_the_nodes_and_downlinks_the_hubs() -> None:
    project = make_project(layout(STAR))
    assert [rates(project, name) for name in STAR.names] == [[8_000_000], [16_000_000], [24_000_000]]
    assert rates(project, "hub") == [32_000_000, 40_000_000, 48_000_000]


def test_links_without_a_limit_are_not_shaped() -> None:
    unlimited = Cluster(nodes=NODES, bandwidth_bytes_per_s=((float("inf"),) * 3,) * 3)
    assert links_of(layout(unlimited), "attic") == links_of(layout(Cluster(nodes=NODES)), "attic") == {}
    assert member(make_project(layout(Cluster(nodes=NODES))), "attic")["tc"] == []


def test_links_lead_to_the_addresses_that_compose_gives() -> None:
    services = compose(make_project(layout()))["services"]
    given = {name: service["networks"]["links"]["ipv4_address"] for name, service in services.items()}
    assert {name: link.address for name, link in links_of(layout(), "attic").items()} == {
        name: given[name] for name in ("hub", "barn", "cellar")
    }
    assert len(set(given.values())) == 5


def test_containers_have_the_memory_and_the_cores_of_their_nodes() -> None:
    mesh, star = (compose(make_project(layout(cluster)))["services"]["attic"] for cluster in (MESH, STAR))
    assert mesh["mem_limit"] == mesh["memswap_limit"] == (64 << 20) + PROCESS_BYTES + BROKER_BYTES
    assert star["mem_limit"] == (64 << 20) + PROCESS_BYTES
    assert star["cpus"] == 0.5
    [program] = member(make_project(layout(STAR)), "attic")["programs"]
    assert program["argv"][-2:] == ["--memory", str(64 << 20)]


@pytest.mark.parametrize("options", [{}, {"cluster": STAR}, {"cluster": STAR, "mqtt": True}], ids=str)
def test_passwords_are_in_private_files_alone(options: dict[str, Any]) -> None:
    project = make_project(layout(**options))
    programs = [program for name in NODES for program in member(project, name.name)["programs"]]
    found = {
        password
        for program in programs
        for password in re.findall(r"://[^:]+:([^@]+)@", " ".join(program["environment"].values()))
    }
    assert len(found) == 3  # each node has one, for all of its accounts
    public = [file.text for file in project.files.values() if not file.private]
    public += [" ".join(program["argv"]) for program in programs]
    assert not [password for password in found for text in public if password in text]
    assert {path for path, file in project.files.items() if not file.private} == {
        "compose.yaml",
        "cluster.yaml",
        "controller/cluster.yaml",
    }


def test_every_node_is_a_user_of_its_own() -> None:
    project = make_project(layout())
    users = [member(project, node.name)["programs"][-1]["environment"]["UNDERSTUDY_BROKER"] for node in NODES]
    assert [re.findall(r"//([^:]+):", url)[0] for url in users] == ["node-p.attic", "node-p.barn", "node-p.cellar"]


def test_nodes_of_a_mesh_begin_with_their_own_broker_and_those_of_a_star_have_none() -> None:
    mesh, star = make_project(layout()), make_project(layout(STAR))
    assert [program["name"] for program in member(mesh, "attic")["programs"]] == ["broker", "node"]
    url = member(mesh, "attic")["programs"][1]["environment"]["UNDERSTUDY_BROKER"]
    assert url.endswith("@127.0.0.1:4222,10.9.9.2:4222")
    assert [program["name"] for program in member(star, "attic")["programs"]] == ["node"]


@pytest.mark.parametrize("cluster", [MESH, STAR], ids=["mesh", "star"])
def test_nats_server_takes_the_configuration(cluster: Cluster, tmp_path: Path) -> None:
    project = make_project(layout(cluster))
    for path, file in project.files.items():
        if path.endswith("nats.conf"):
            config = tmp_path / "nats.conf"
            config.write_text(file.text)
            checked = subprocess.run([str(find_binary()), "-t", "-c", str(config)], capture_output=True, check=False)
            assert checked.returncode == 0, (path, checked.stderr)


def test_each_pair_of_brokers_is_connected_by_one_of_them() -> None:
    project = make_project(layout())
    own = {"10.9.9.2": "hub", "10.9.9.11": "attic", "10.9.9.12": "barn", "10.9.9.13": "cellar"}
    pairs = [
        frozenset((name, own[address]))
        for name in own.values()
        for address in re.findall(r"nats-route://route:[^@]+@([\d.]+):", project.files[f"{name}/nats.conf"].text)
    ]
    assert len(pairs) == len(set(pairs)) == 6


def test_clients_come_by_the_port_that_was_chosen() -> None:
    project = make_project(layout())
    assert compose(project)["services"]["hub"]["ports"] == ["127.0.0.1:4333:4222"]
    assert re.fullmatch(r"nats://client:[^@]+@127\.0\.0\.1:4333", project.client_url)
    assert project.client_url not in repr(project)


def test_with_mqtt_the_hub_is_a_mosquitto_and_another_container_shapes_its_links() -> None:
    project = make_project(layout(STAR, mqtt=True))
    services = compose(project)["services"]
    assert services["hub"]["image"] == "eclipse-mosquitto:2"
    assert services["hub-links"]["network_mode"] == "service:hub"
    assert rates(project, "hub-links") == [32_000_000, 40_000_000, 48_000_000]
    assert project.client_url.startswith("mqtt://client:")


def test_mqtt_brokers_form_no_mesh() -> None:
    with pytest.raises(EmulationError, match="--mqtt is for a star"):
        Wishes(cluster=MESH, mqtt=True)


def test_a_node_cannot_have_the_name_of_a_role() -> None:
    with pytest.raises(EmulationError, match="cannot be called 'hub'"):
        Wishes(cluster=Cluster(nodes=(NodeSpec(name="hub"),)))


def test_more_nodes_than_can_be_emulated_are_refused() -> None:
    with pytest.raises(EmulationError, match="65 nodes: 64 at most"):
        Wishes(cluster=Cluster(nodes=tuple(NodeSpec(name=f"n{number}") for number in range(65))))


def test_the_default_compose_file_is_the_one_that_the_code_writes() -> None:
    assert FILE.read_text() == default_compose(), "run: python -m understudy.emulation.default"


@pytest.mark.parametrize(
    ("bottleneck_s", "latency_s", "window"),
    [(0.0, 0.0, 64), (0.001, 0.01, 64), (0.1, 0.4, 20), (0.75, 3.75, 9), (0.001, 1.0, 64)],
)
def test_so_many_frames_are_under_way_as_keep_the_links_busy(
    bottleneck_s: float, latency_s: float, window: int
) -> None:
    plan = Plan(
        stages=(),
        steps=(),
        objective="bottleneck",
        bottleneck_s=bottleneck_s,
        latency_s=latency_s,
        lower_bound_s=0.0,
        solve_s=0.0,
    )
    assert choose_window(plan) == window


def test_a_plan_that_is_given_reaches_the_controller(tmp_path: Path) -> None:
    stages = (Stage(first_block=0, end_block=2, node="cellar"), Stage(first_block=2, end_block=5, node="attic"))
    project = make_project(layout(plan=stages))
    file = tmp_path / "plan.json"
    file.write_text(project.files["controller/plan.json"].text)
    assert load_plan(file) == stages
    [controller] = member(project, "controller")["programs"]
    assert controller["argv"][-2:] == ["--plan", "{here}/plan.json"]
    assert "controller/plan.json" not in make_project(layout()).files
