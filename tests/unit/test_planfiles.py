from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from planner.chain import Chain
from planner.cluster import Cluster, NodeSpec
from planner.codec import CodecCost
from planner.plan import Stage
from tests.data import REPOSITORY
from understudy.planfiles import load_chain, load_cluster, load_plan
from understudy.quantities import ConfigError

CHAIN: dict[str, Any] = {
    "name": "net",
    "cut_bytes": [8, 4, 2],
    "block_memory_bytes": [1, 2],
    "block_peak_bytes": [3, 4],
    "block_flops": [5, 6],
}
NODES: list[dict[str, Any]] = [
    {"name": "a", "memory_bytes": 100, "flops_per_s": 2.0},
    {"name": "b", "memory_bytes": 200, "flops_per_s": None},
]
MESH: dict[str, Any] = {"topology": "mesh", "nodes": NODES, "bandwidth_bytes_per_s": [[0, 1.5], [2, 0]]}
STAR: dict[str, Any] = {
    "topology": "star",
    "nodes": NODES,
    "up_bytes_per_s": [1, 2],
    "down_bytes_per_s": [3, 4],
    "source_bytes_per_s": [5, 6],
    "sink_bytes_per_s": None,
}


class Files:
    """A chain and a cluster on disk, as text or as what JSON can say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, content: Any) -> Path:
        """Text is JSON where it begins like it."""
        text = content if isinstance(content, str) else json.dumps(content)
        path = self.folder / ("file.json" if text.startswith("{") else "file.yaml")
        path.write_text(text)
        return path

    def chain(self, content: Any) -> Chain:
        return load_chain(self.write(content))

    def cluster(self, content: Any) -> Cluster:
        return load_cluster(self.write(content))

    def refused_chain(self, **changes: Any) -> str:
        return self._refused(self.chain, {**CHAIN, **changes})

    def refused_cluster(self, base: dict[str, Any] = MESH, **changes: Any) -> str:
        return self._refused(self.cluster, {**base, **changes})

    def _refused(self, load: Any, content: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            load(content)
        message = str(caught.value)
        return message.replace(str(self.folder / "file.json"), "FILE")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_a_chain_is_read_from_its_json_keys(files: Files) -> None:
    assert files.chain(CHAIN) == Chain(
        name="net", cut_bytes=(8, 4, 2), block_memory_bytes=(1, 2), block_peak_bytes=(3, 4), block_flops=(5, 6)
    )
    zstd = {"name": "zstd", "ratio": [1, 0.5, 1], "encode_s_per_byte": [0, 1e-9, 0], "decode_s_per_byte": [0, 0, 0]}
    (codec,) = files.chain({**CHAIN, "codecs": [{**zstd, "accuracy_loss": 0}]}).codecs
    assert codec == CodecCost(
        name="zstd",
        ratio=(1.0, 0.5, 1.0),
        encode_s_per_byte=(0.0, 1e-9, 0.0),
        decode_s_per_byte=(0.0, 0.0, 0.0),
        accuracy_loss=0.0,
    )
    measured = files.chain({**CHAIN, "block_seconds": {"a": [0.5, 1]}})
    assert measured.block_seconds == {"a": (0.5, 1.0)}


def test_a_mesh_is_read_from_its_json_keys(files: Files) -> None:
    assert files.cluster(MESH) == Cluster(
        nodes=(NodeSpec(name="a", memory_bytes=100, flops_per_s=2.0), NodeSpec(name="b", memory_bytes=200)),
        bandwidth_bytes_per_s=((0.0, 1.5), (2.0, 0.0)),
    )


def test_a_star_is_read_from_its_json_keys(files: Files) -> None:
    star = files.cluster(STAR)
    assert (star.topology, star.up_bytes_per_s, star.down_bytes_per_s) == ("star", (1.0, 2.0), (3.0, 4.0))
    assert (star.source_bytes_per_s, star.sink_bytes_per_s) == ((5.0, 6.0), None)


def test_a_cluster_in_yaml_has_sizes_with_units(files: Files) -> None:
    cluster = files.cluster(
        """
        nodes:
          - {name: a, memory_bytes: 64 MB, flops_per_s: 8.0e+9}
          - {name: b, memory_bytes: 1.5GiB}
          - {name: c}
        message_overhead_s: 0.0003
        max_payload_bytes: 8 MiB
        """
    )
    assert [node.memory_bytes for node in cluster.nodes] == [64_000_000, 3 * 2**29, None]
    assert (cluster.message_overhead_s, cluster.max_payload_bytes) == (0.0003, 2**23)


def test_null_is_no_link(files: Files) -> None:
    cluster = files.cluster({**MESH, "bandwidth_bytes_per_s": [[None, 1], [None, None]]})
    assert cluster.bandwidth_bytes_per_s == ((0.0, 1.0), (0.0, 0.0))


def test_the_example_cluster_can_be_read() -> None:
    cluster = load_cluster(REPOSITORY / "examples" / "cluster.yaml")
    assert cluster.names == ("kitchen", "hall", "roof")
    assert cluster.topology == "star"


@pytest.mark.parametrize("name", ["cut_bytes", "block_peak_bytes", "block_flops"])
def test_lists_of_a_chain_that_do_not_fit_together_name_the_file_and_the_list(files: Files, name: str) -> None:
    assert f"FILE: chain 'net': {name} has" in files.refused_chain(**{name: [1]})


@pytest.mark.parametrize(("value", "wanted"), [(-1, "greater than or equal to 0"), ("x", "integer"), (1.5, "integer")])
def test_an_impossible_number_of_a_chain_is_named_with_its_place(files: Files, value: Any, wanted: str) -> None:
    message = files.refused_chain(block_memory_bytes=[1, value])
    assert message.startswith("FILE: block_memory_bytes.1: ")
    assert wanted in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5])
def test_impossible_measured_seconds_are_named_with_their_place(files: Files, value: float) -> None:
    assert files.refused_chain(block_seconds={"a": [value, 1]}).startswith("FILE: block_seconds.a.0: ")


def test_a_missing_key_is_named(files: Files) -> None:
    chain = {key: value for key, value in CHAIN.items() if key != "block_flops"}
    with pytest.raises(ConfigError, match="block_flops: Field required"):
        files.chain(chain)
    with pytest.raises(ConfigError, match="nodes: Field required"):
        files.cluster({"topology": "mesh"})


def test_unknown_keys_are_named_with_those_that_there_are(files: Files) -> None:
    message = files.refused_cluster(bandwith=[[1]])
    assert message.startswith("FILE: 'bandwith'")
    assert "bandwidth_bytes_per_s" in message
    message = files.refused_cluster(nodes=[{"name": "a", "ram": 5}])
    assert message.startswith("FILE: 'nodes.0.ram'")
    assert message.endswith("there are: name, memory_bytes, flops_per_s")
    assert "block_peak_bytes" in files.refused_chain(blocks=2)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"bandwidth_bytes_per_s": [[0, -1], [1, 0]]}, "bandwidth_bytes_per_s.0.1: "),
        ({"bandwidth_bytes_per_s": [[0, 1], [float("nan"), 0]]}, "bandwidth_bytes_per_s.1.0: "),
        ({"bandwidth_bytes_per_s": [[0, float("inf")], [1, 0]]}, "bandwidth_bytes_per_s.0.1: "),
        ({"bandwidth_bytes_per_s": [[0, "5 MB"], [1, 0]]}, "bandwidth_bytes_per_s.0.1: "),
        ({"bandwidth_bytes_per_s": [[0, 1]]}, "bandwidth_bytes_per_s has 1 rows, 2 are needed"),
        ({"bandwidth_bytes_per_s": [[0, 1], [1]]}, "bandwidth_bytes_per_s[1] has 1 numbers, 2 are needed"),
        ({"source_bytes_per_s": [1]}, "source_bytes_per_s has 1 numbers, 2 are needed"),
        ({"topology": "ring"}, "topology: Input should be 'mesh' or 'star'"),
        ({"topology": "star"}, "a star needs up_bytes_per_s and down_bytes_per_s"),
        ({"message_overhead_s": -1}, "message_overhead_s: "),
        ({"max_payload_bytes": 0}, "max_payload_bytes is 0"),
        ({"nodes": []}, "the cluster has no node"),
        ({"nodes": [NODES[0], NODES[0]]}, "node name 'a' is there twice"),
        ({"nodes": [{"name": "a", "flops_per_s": 0}]}, "nodes.0.flops_per_s: "),
        ({"nodes": [{"name": "a", "flops_per_s": float("nan")}]}, "nodes.0.flops_per_s: "),
        ({"nodes": [{"name": "a", "memory_bytes": -5}]}, "nodes.0.memory_bytes: "),
        ({"nodes": [{"name": "a", "memory_bytes": "5 parsecs"}]}, "nodes.0.memory_bytes: unit 'parsecs'"),
        ({"nodes": [{"name": 4}]}, "nodes.0.name: "),
    ],
)
def test_an_impossible_cluster_names_what_is_wrong_and_where(files: Files, changes: dict[str, Any], place: str) -> None:
    message = files.refused_cluster(**changes)
    assert message.startswith("FILE: ")
    assert place in message


@pytest.mark.parametrize("content", ["", "[1, 2]", "plain words"])
def test_a_file_that_is_no_mapping_is_refused(files: Files, content: str) -> None:
    for load in (files.chain, files.cluster):
        with pytest.raises(ConfigError, match="valid dictionary"):
            load(content)


def test_a_file_that_cannot_be_read_or_parsed_names_itself_and_the_line(files: Files, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*absent.*No such file"):
        load_chain(tmp_path / "absent")
    with pytest.raises(ConfigError, match="cannot read"):
        load_cluster(tmp_path)
    with pytest.raises(ConfigError, match=r"file\.json:2: "):
        files.cluster('{"nodes": [\n]]')
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a text file"):
        load_cluster(tmp_path / "binary")


JSON_IS_NOT_YAML = "JSON is read as YAML 1.1"


@pytest.mark.parametrize("number", ["1e9", "1E9", "1e+15"])
def test_numbers_of_json_may_have_an_exponent(files: Files, number: str) -> None:
    text = json.dumps({**CHAIN, "block_flops": [5, 7]}).replace("7]", f"{number}]")
    assert files.chain(text).block_flops == (5, int(float(number)))
    text = json.dumps({"nodes": [{"name": "a", "memory_bytes": 7}]}).replace("7", number)
    assert files.cluster(text).nodes[0].memory_bytes == int(float(number))


def test_json_may_be_indented_with_tabs(files: Files) -> None:
    assert files.chain(json.dumps(CHAIN, indent="\t")).name == "net"


def test_a_number_beyond_floating_point_is_refused(files: Files) -> None:
    assert "block_flops" in files.refused_chain(block_flops=[10**400, 1])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "gzip"}, "codecs.0.name"),
        ({"name": "none"}, "codec 'none' needs no numbers"),
        ({"ratio": [1, 1]}, "as many times as ratios"),
        ({"ratio": [1, 0, 1]}, "a ratio is above 0"),
        ({"ratios": [1, 1, 1]}, "ratios"),
        ({"accuracy_loss": 2}, "accuracy_loss"),
        ({"ratio": [1], "encode_s_per_byte": [1], "decode_s_per_byte": [1]}, "has 1 entries, 3 are needed"),
    ],
    ids=str,
)
def test_a_codec_that_cannot_be_is_refused_and_named(files: Files, change: dict[str, Any], says: str) -> None:
    zstd = {"name": "zstd", "ratio": [1, 0.5, 1], "encode_s_per_byte": [0, 0, 0], "decode_s_per_byte": [0, 0, 0]}
    assert says in files.refused_chain(codecs=[{**zstd, **change}])


def test_a_plan_file_is_what_understudy_plan_prints(tmp_path: Path) -> None:
    stages = [{"first_block": 0, "end_block": 2, "node": "b"}, {"first_block": 2, "end_block": 3, "node": "a"}]
    file = Files(tmp_path).write({"stages": stages, "bottleneck_s": 0.5, "proven": True})
    assert load_plan(file) == tuple(Stage(**stage) for stage in stages)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"stages": []}, "stages: Tuple should have at least 1 item"),
        ({"stages": None, "reason": "no room"}, "stages: Input should be a valid tuple"),
        ({"stages": [{"first_block": 0, "end_block": 1, "host": "a"}]}, "'stages.0.host' is not a setting"),
    ],
)
def test_a_wrong_plan_file_is_refused_with_the_place(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_plan(Files(tmp_path).write(content))
