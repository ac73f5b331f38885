"""The configuration of `understudy up`: units, what is refused, and what the message then says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.config import NodeConfig, UpConfig, load_config, make_config
from understudy.quantities import ConfigError, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64 MB", 64_000_000),
        ("1.5GiB", 1_610_612_736),
        ("512", 512),
        (512, 512),
        ("0", 0),
        (" 2 kib ", 2048),
        ("3B", 3),
        ("1 KB", 1000),
        ("0.5 GB", 500_000_000),
        ("7MiB", 7 << 20),
    ],
)
def test_sizes_are_written_with_their_units(text: Any, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1 MB", "1 TB", "1 2", "1,5 MB", "0x10", "nan", "e3", True, None, [1]])
def test_what_is_no_size_is_refused_with_what_is(text: Any) -> None:
    with pytest.raises(ValueError, match=r"64 MB|use B, KB, MB"):
        parse_size(text)


@pytest.mark.parametrize(("text", "seconds"), [("100ms", 0.1), ("2 s", 2.0), ("1min", 60.0), ("0.5S", 0.5)])
def test_durations_are_written_with_their_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["100", 100, 0.1, "1d", "", "-1s", "s", False])
def test_a_duration_without_a_unit_is_refused_with_an_example(text: Any) -> None:
    with pytest.raises(ValueError, match="100ms"):
        parse_duration(text)


@given(st.text(max_size=12))
def test_any_text_is_a_quantity_or_a_value_error(text: str) -> None:
    for parse in (parse_size, parse_duration):
        try:
            assert parse(text) >= 0
        except ValueError as error:
            assert str(error)


def test_a_size_beyond_all_bounds_is_refused_like_any_other_mistake() -> None:
    with pytest.raises(ValueError):
        parse_size("9" * 400 + " GB")


def test_nothing_at_all_is_a_configuration_with_four_nodes() -> None:
    config = make_config({}, "defaults")
    assert [node.name for node in config.nodes] == ["node1", "node2", "node3", "node4"]
    assert (config.heartbeat, config.max_payload, config.stages) == (0.1, 8 << 20, None)


def test_a_number_stands_for_so_many_nodes() -> None:
    assert [node.name for node in make_config({"nodes": 2}, "x").nodes] == ["node1", "node2"]


def test_the_example_of_the_documentation_is_read(tmp_path: Path) -> None:
    file = tmp_path / "understudy.yaml"
    file.write_text(
        """
pipeline: digits
bundle: ./digits
nodes:
  - {name: a, memory: 256 MB}
  - {name: b, memory: 1 GiB, threads: 2, providers: [CUDA, CPU]}
stages: 2
heartbeat: 100ms
"""
    )
    config = make_config(load_config(file), str(file))
    assert config.pipeline == "digits"
    assert config.bundle == tmp_path / "digits"
    assert config.nodes == (
        NodeConfig(name="a", memory=256_000_000),
        NodeConfig(name="b", memory=1 << 30, threads=2, providers=("CUDA", "CPU")),
    )
    assert (config.stages, config.heartbeat) == (2, 0.1)


@pytest.mark.parametrize("key", ["bundle", "model"])
def test_paths_are_relative_to_the_file_and_absolute_ones_stay(tmp_path: Path, key: str) -> None:
    file = tmp_path / "up.yaml"
    file.write_text(f"{key}: ../models/m")
    assert load_config(file)[key] == tmp_path / "../models/m"
    file.write_text(f"{key}: /models/m")
    assert load_config(file)[key] == Path("/models/m")


def test_a_misspelt_key_is_answered_with_the_keys_that_there_are() -> None:
    with pytest.raises(ConfigError) as caught:
        make_config({"node": 4, "stagess": 2}, "up.yaml")
    first, second = str(caught.value).splitlines()
    assert first.startswith("up.yaml: 'node' is not a setting; there are: ")
    assert second.startswith("up.yaml: 'stagess' is not a setting; there are: ")
    assert all(name in first for name in UpConfig.model_fields)


def test_a_misspelt_key_of_a_node_is_answered_with_the_keys_of_a_node() -> None:
    with pytest.raises(ConfigError, match=r"^up.yaml: 'nodes.0.memmory' is not a setting; .*: name, memory, threads"):
        make_config({"nodes": [{"name": "a", "memmory": "1 GB"}]}, "up.yaml")


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"nodes": [{"name": "a"}, {"name": "b"}, {"name": "a"}]}, "a node name is there twice: a, b, a"),
        ({"nodes": []}, "nodes is empty"),
        ({"nodes": 0}, "0 nodes: 1 to 256"),
        ({"nodes": 257}, "257 nodes"),
        ({"nodes": True}, "nodes"),
        ({"nodes": "four"}, "nodes"),
        ({"nodes": [{}]}, "nodes.0.name"),
        ({"nodes": [{"name": "a b"}]}, "nodes.0.name: node name 'a b' is not usable"),
        ({"nodes": [{"name": "a", "memory": "lots"}]}, "nodes.0.memory: 'lots' is not a quantity"),
        ({"nodes": [{"name": "a", "memory": "1 PB"}]}, "unit 'PB'"),
        ({"nodes": [{"name": "a", "threads": 0}]}, "nodes.0.threads"),
        ({"pipeline": "_"}, "pipeline: pipeline name '_' is not usable"),
        ({"bundle": "a", "model": "b"}, "bundle and model are both given"),
        ({"nodes": 2, "stages": 3}, "stages is 3, but there are 2 nodes"),
        ({"stages": 0}, "stages"),
        ({"heartbeat": 100}, "heartbeat: 100 has no known unit of time"),
        ({"port": 65536}, "port"),
        ({"window": -1}, "window"),
        ({"max_batch": 0}, "max_batch"),
        ({"max_payload": "8 lightyears"}, "max_payload: unit 'lightyears'"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_with_the_file_the_key_and_the_reason(raw: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(raw, "up.yaml")
    assert str(caught.value).startswith("up.yaml: ")
    assert says in str(caught.value)


@pytest.mark.parametrize("key", ["heartbeat", "resend_after", "start_timeout"])
def test_a_duration_of_nothing_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        make_config({key: "0ms"}, "up.yaml")


def test_a_node_without_any_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"nodes\.0\.memory"):
        make_config({"nodes": [{"name": "a", "memory": 0}]}, "up.yaml")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"- a\n- b\n", "must be a mapping of settings"),
        (b"", "must be a mapping of settings"),
        (b"text", "must be a mapping of settings"),
        (b"nodes: 4\nstages: [2\n", r"up\.yaml:3: not valid YAML"),
        (b"nodes: \x00", "not valid YAML"),
        (b"\xff\xfe\xff", "is not a text file"),
        (b"!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
    ids=["list", "empty", "text", "unclosed", "control character", "binary", "python object"],
)
def test_a_file_that_is_no_configuration_is_refused_with_its_name(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "up.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=says) as caught:
        load_config(file)
    assert str(file) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*missing.yaml: No such file"):
        load_config(tmp_path / "missing.yaml")


def test_a_key_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "up.yaml"
    file.write_text("1: 2")
    with pytest.raises(ConfigError):
        make_config(load_config(file), "up.yaml")


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"servers": 0}, "servers"),
        ({"servers": 10}, "servers"),
        ({"servers": 2, "broker": "nats://h"}, "servers is for the embedded broker"),
        ({"servers": 3, "port": 65534}, "3 servers need as many ports"),
        ({"nodes": [{"name": "controller"}]}, "a node cannot be named controller"),
    ],
)
def test_servers_that_are_not_possible_are_refused(raw: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make_config(raw, "up.yaml")
