"""The files of a Compose project: one container for each node, one for the controller, one for the broker that clients
know, the *hub*.

In a mesh every node has a broker of its own, and the hub is one more of their cluster, without which the others go on.
In a star the hub is the only broker. Each container finds its secrets in a folder that is mounted for it alone.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from broker.server import GO_MEMORY
from planner.cluster import Cluster
from planner.plan import Stage
from understudy.brokerconfig import BrokerConfig, MosquittoConfig, NatsConfig
from understudy.emulation.links import payload_cluster
from understudy.emulation.traffic import APPLY, Link, commands

HUB, CONTROLLER, HUB_LINKS, SETUP = RESERVED = ("hub", "controller", "hub-links", "setup")
NATS_PORT, MQTT_PORT, ROUTE_PORT = 4222, 1883, 6222
IMAGE = "understudy-emulation"
MOSQUITTO_IMAGE = "eclipse-mosquitto:2"
MEMBER = "member.json"
HERE = "/run/member"
HOME = "/home/understudy"
LABEL = "understudy.emulation"

PROCESS_BYTES = 320 << 20
BROKER_BYTES = 192 << 20
"""What a container may use beside its stages: Python, onnxruntime and what is on its way; and a broker of its own."""

_FIRST_NODE = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a project is on its machine, so that several have room.

    Attributes:
        name: of the Compose project, and what the names of its containers begin with.
        subnet: the first three numbers of the containers' addresses.
        port: at which clients of this machine reach the hub.
    """

    name: str = "understudy"
    subnet: str = "10.213.0"
    port: int = NATS_PORT


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What is asked for.

    Attributes:
        pipeline: that is served.
        cluster: what is emulated, and what the controller plans with.
        cpus: by node, the cores that it may use; a node that is not there has no limit.
        served: the controller's options for what it serves; `{here}` is its folder.
        plan: the stages to serve with; none: the controller plans.
        mqtt: the hub is a mosquitto.
    """

    pipeline: str
    cluster: Cluster
    cpus: Mapping[str, float] = field(default_factory=dict)
    served: Sequence[str] = ()
    plan: Sequence[Stage] = ()
    mqtt: bool = False
    image: str = IMAGE
    place: Place = field(default_factory=Place)

    @property
    def name(self) -> str:
        """Of the Compose project."""
        return self.place.name

    @property
    def mesh(self) -> bool:
        return self.cluster.topology == "mesh"

    @property
    def names(self) -> tuple[str, ...]:
        """All containers that stand for machines."""
        return (HUB, CONTROLLER, *self.cluster.names)

    def address(self, name: str) -> str:
        fixed = {HUB: 2, CONTROLLER: 3, HUB_LINKS: 2}
        last = fixed[name] if name in fixed else _FIRST_NODE + self.cluster.names.index(name)
        return f"{self.place.subnet}.{last}"

    def container(self, name: str) -> str:
        return f"{self.name}-{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """`private`: for its owner alone, from its first byte."""

    text: str
    private: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """Files by their path in the project's folder, and where clients connect, with credentials: not for logs.
    `system_url`: of the brokers' own account; None where there is none."""

    files: Mapping[str, File]
    client_url: str = field(repr=False)
    system_url: str | None = field(repr=False)


def links_of(layout: Layout, name: str) -> dict[str, Link]:
    """What leaves a container, by the receiver. Of one that is not there the bandwidth is not limited."""
    cluster, nodes = layout.cluster, layout.cluster.names
    rates: dict[str, float] = {}
    if name in nodes:
        own = nodes.index(name)
        outwards = cluster.sink_bytes_per_s if layout.mesh else cluster.up_bytes_per_s
        if outwards is not None:
            rates[HUB] = outwards[own]
        if cluster.bandwidth_bytes_per_s is not None:
            rates |= {node: cluster.bandwidth_bytes_per_s[own][v] for v, node in enumerate(nodes) if v != own}
    elif name == HUB:
        inwards = cluster.source_bytes_per_s if layout.mesh else cluster.down_bytes_per_s
        rates = {} if inwards is None else dict(zip(nodes, inwards, strict=True))
    return {
        peer: Link(address=layout.address(peer), bytes_per_s=rate)
        for peer, rate in rates.items()
        if not math.isinf(rate)
    }


def make_project(layout: Layout) -> Project:
    """The files, with fresh passwords."""
    nodes, hub = layout.cluster.names, layout.address(HUB)
    broker: BrokerConfig
    if layout.mqtt:
        broker = MosquittoConfig(pipeline=layout.pipeline, nodes=nodes, host=hub, port=MQTT_PORT)
    else:
        store = f"{HOME}/jetstream"
        broker = NatsConfig(pipeline=layout.pipeline, nodes=nodes, host=hub, port=NATS_PORT, store=store)
    private = _members(layout, broker)
    files = {path: File(text=text) for path, text in private.items()}
    files["compose.yaml"] = File(text=to_yaml(compose_document(layout)), private=False)
    # What is emulated, and what the planner is told of it.
    described = {"cluster.yaml": layout.cluster, f"{CONTROLLER}/cluster.yaml": payload_cluster(layout.cluster)}
    files |= {path: File(text=to_yaml(cluster_document(of)), private=False) for path, of in described.items()}
    if layout.plan:
        files[f"{CONTROLLER}/plan.json"] = File(text=json.dumps(plan_document(layout.plan)), private=False)
    here = f"127.0.0.1:{layout.place.port}"
    urls = broker.environment(broker.client)
    if isinstance(broker, NatsConfig):
        urls |= broker.environment(broker.system)
    urls = {name: url.replace(f"{hub}:{broker.port}", here) for name, url in urls.items()}
    return Project(files=files, client_url=urls["UNDERSTUDY_BROKER"], system_url=urls.get("UNDERSTUDY_SYSTEM_BROKER"))


def plan_document(stages: Sequence[Stage]) -> dict[str, Any]:
    """A plan file, as `understudy plan --json` prints it."""
    return {"stages": [asdict(stage) for stage in stages]}


def cluster_document(cluster: Cluster) -> dict[str, Any]:
    """A cluster file, as docs/planner.md describes it."""
    document = json.loads(json.dumps(asdict(cluster)))  # lists in place of tuples
    nodes = [{key: value for key, value in node.items() if value is not None} for node in document.pop("nodes")]
    kept = {key: value for key, value in document.items() if value is not None and key != "chunked"}
    return {"topology": kept.pop("topology"), "nodes": nodes, **kept}


# ---- what the containers run ---------------------------------------------------------------------------------------


def _members(layout: Layout, broker: BrokerConfig) -> dict[str, str]:
    """By path: what each container runs, and what its broker reads."""
    files: dict[str, str] = {}
    programs: dict[str, list[dict[str, Any]]] = {name: [] for name in layout.names}
    if isinstance(broker, NatsConfig):
        servers = (HUB, *layout.cluster.names) if layout.mesh else (HUB,)
        password = secrets.token_urlsafe(24)
        for name in servers:
            programs[name].append(_nats_server())
            routes = _routes(layout, servers, name, password) if layout.mesh else ""
            files[f"{name}/nats.conf"] = broker.render(name=name, cluster=routes)
    else:
        # The hub runs what its own image has, and its links are shaped by a container that shares its network.
        programs[HUB_LINKS] = []
        del programs[HUB]
        out = Path("/mosquitto/private/mosquitto.conf")
        files |= {f"{HUB}/{path.name}": text for path, text in broker.files(out).items()}
    programs[CONTROLLER].append(_controller(layout, broker))
    for user, name in zip(broker.node_users, layout.cluster.names, strict=True):
        # A broker of its own comes first, the hub's when that is gone.
        hosts = ("127.0.0.1", layout.address(HUB)) if layout.mesh else (layout.address(HUB),)
        programs[name].append(_node(layout, name, broker.environment(user, *hosts)))
    for name, own in programs.items():
        lines = commands(list(links_of(layout, HUB if name == HUB_LINKS else name).values()), netem=False)
        document = {"tc": lines if len(lines) > 1 else [], "apply": APPLY, "programs": own}
        files[f"{name}/{MEMBER}"] = json.dumps(document, indent=1)
    return files


def _nats_server() -> dict[str, Any]:
    return {
        "name": "broker",
        "argv": ["nats-server", "-c", "{private}/nats.conf"],
        "environment": GO_MEMORY | {"GOMEMLIMIT": f"{BROKER_BYTES >> 21}MiB"},
        "port": NATS_PORT,
    }


def _routes(layout: Layout, servers: Sequence[str], name: str, password: str) -> str:
    """Of each pair of servers the later one connects, for ever if need be. Control has connections of its own."""
    known = servers[: servers.index(name)]
    routes = [f"nats-route://route:{password}@{layout.address(other)}:{ROUTE_PORT}" for other in known]
    return (
        f"cluster {{\n  name: understudy\n  listen: 0.0.0.0:{ROUTE_PORT}\n  no_advertise: true\n"
        f"  pool_size: 1\n  accounts: [CTRL]\n"
        f"  authorization {{ user: route, password: {json.dumps(password)}, timeout: 10 }}\n"
        f"  routes: {json.dumps(routes)}\n}}\n"
    )


def _controller(layout: Layout, broker: BrokerConfig) -> dict[str, Any]:
    argv = ["understudy", "controller", "--pipeline", layout.pipeline, "--expect", str(len(layout.cluster.nodes))]
    argv += ["--cluster", "{here}/cluster.yaml", "--cache", f"{HOME}/cache", *layout.served]
    argv += ["--plan", "{here}/plan.json"] if layout.plan else []
    # In a mesh the others are brokers as well: the hub's end is not the controller's.
    spare = layout.cluster.names[:2] if layout.mesh else ()
    hosts = [layout.address(name) for name in (HUB, *spare)]
    return {"name": CONTROLLER, "argv": argv, "environment": broker.environment(broker.controller, *hosts)}


def _node(layout: Layout, name: str, environment: Mapping[str, str]) -> dict[str, Any]:
    [spec] = [node for node in layout.cluster.nodes if node.name == name]
    argv = ["understudy", "node", "--name", name, "--pipeline", layout.pipeline, "--cache", f"{HOME}/cache"]
    argv += ["--threads", str(max(1, math.floor(layout.cpus.get(name, 1.0))))]
    if spec.memory_bytes is not None:
        argv += ["--memory", str(spec.memory_bytes)]
    return {"name": "node", "argv": argv, "environment": dict(environment)}


# ---- Compose -------------------------------------------------------------------------------------------------------


def compose_document(layout: Layout, *, build: str | None = None) -> dict[str, Any]:
    """The Compose file. With `build`, the folder of the sources, it needs no other file: a container makes those, in a
    volume that all share; without it they are beside it, and each container has its own."""
    shared = build is not None
    services: dict[str, Any] = {}
    if build is not None:
        services[SETUP] = _setup(layout, build)
    for name in layout.names:
        services[name] = _service(layout, name, shared=shared)
    if layout.mqtt:
        services[HUB] |= _mosquitto()
        links = _service(layout, HUB_LINKS, shared=shared)
        for own in ("networks", "hostname"):
            del links[own]
        services[HUB_LINKS] = links | {"network_mode": f"service:{HUB}"}
    port = MQTT_PORT if layout.mqtt else NATS_PORT
    services[HUB]["ports"] = [f"127.0.0.1:{layout.place.port}:{port}"]
    network = {"driver": "bridge", "ipam": {"config": [{"subnet": f"{layout.place.subnet}.0/24"}]}}
    document: dict[str, Any] = {"name": layout.name, "services": services, "networks": {"links": network}}
    return document | ({"volumes": {"project": {}}} if shared else {})


def _service(layout: Layout, name: str, *, shared: bool) -> dict[str, Any]:
    volume = "project:/run/project:ro" if shared else f"./{name}:{HERE}:ro"
    service: dict[str, Any] = {
        "image": layout.image,
        "container_name": layout.container(name),
        "hostname": name,
        "labels": {LABEL: layout.name},
        "command": [f"/run/project/{name}/{MEMBER}" if shared else f"{HERE}/{MEMBER}"],
        # Root shapes the links, reads the secrets, and starts the programs as another user; it can do nothing else.
        "cap_drop": ["ALL"],
        "cap_add": ["NET_ADMIN", "SETUID", "SETGID", "CHOWN", "DAC_OVERRIDE", "KILL"],
        "security_opt": ["no-new-privileges:true"],
        "tmpfs": ["/run/understudy:mode=0755"],
        "volumes": [volume],
        "networks": {"links": {"ipv4_address": layout.address(name)}},
        "stop_grace_period": "10s",
    }
    if name in layout.cluster.names:
        service |= _limits(layout, name)
    if shared:
        service["depends_on"] = {SETUP: {"condition": "service_completed_successfully"}}
    return service


def _limits(layout: Layout, name: str) -> dict[str, Any]:
    [spec] = [node for node in layout.cluster.nodes if node.name == name]
    limits: dict[str, Any] = {}
    if spec.memory_bytes is not None:
        total = spec.memory_bytes + PROCESS_BYTES + (BROKER_BYTES if layout.mesh else 0)
        limits = {"mem_limit": total, "memswap_limit": total}
    return limits | ({"cpus": round(layout.cpus[name], 3)} if name in layout.cpus else {})


def _mosquitto() -> dict[str, Any]:
    """Secrets go where mosquitto alone can read them; anew at each start, when they belong to it already."""
    own = "/mosquitto/private"
    start = (
        f"rm -rf {own} && mkdir -p {own} && cp {HERE}/mosquitto.conf* {own}/ && chmod 0600 {own}/* && "
        f"chown -R mosquitto {own} && PATH=$$PATH:/usr/sbin exec mosquitto -c {own}/mosquitto.conf"
    )
    return {"image": MOSQUITTO_IMAGE, "entrypoint": ["sh", "-c", start], "command": []}


def _setup(layout: Layout, build: str) -> dict[str, Any]:
    """Writes the files, once: passwords are made up here, and are in the volume alone."""
    here, count = "/run/project", len(layout.cluster.nodes)
    make = f"test -e {here}/cluster.yaml || understudy emulate --nodes {count} --write {here}"
    return {
        "build": {
            "context": build,
            "dockerfile": "compose/Dockerfile",
            "args": {"PIP_INDEX_URL": "${PIP_INDEX_URL:-}"},
        },
        "image": layout.image,
        "entrypoint": ["sh", "-c", make],
        "command": [],
        "healthcheck": {"disable": True},
        "network_mode": "none",
        "volumes": [f"project:{here}"],
    }


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


def to_yaml(document: Mapping[str, Any]) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120)
