from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from broker.errors import UnderstudyError
from stages.bundle import Bundle, write_bundle
from stages.chain import chain_of
from stages.description import describe
from stages.errors import BundleError
from stages.graph import ModelGraph
from stages.manifest import CodecRecord, NodeProfile
from tests.onnx_models import resnet
from tests.unit.latency_profiles import make_profile, roofline_law
from understudy.cli.main import app
from understudy.planfiles import load_chain
from understudy.profilefile import read_profile, write_profile

pytest.importorskip("lightgbm", reason="the extra 'profile' is not installed")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "small.onnx"
    path.write_bytes(resnet(2).SerializeToString())
    return path


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile that knows convolutions alone."""
    path = tmp_path_factory.mktemp("known") / "machine.json"
    write_profile(path, make_profile({"convolution": roofline_law}, count=40))
    return path


def invoke(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["profile", *map(str, arguments)])
    if isinstance(result.exception, UnderstudyError):
        raise result.exception
    return result


def test_a_machine_is_profiled_and_a_model_predicted_and_measured_with_it(tmp_path: Path, network: Path) -> None:
    out, chain = tmp_path / "machine.json", tmp_path / "chain.json"
    made = invoke("machine", "--quick", "--minutes", 0, "--out", out, "--json")
    assert made.exit_code == 0
    document = json.loads(made.stdout)
    assert sum(document["samples"].values()) == len(read_profile(out).samples) > 5
    assert not (tmp_path / "machine.json.part").exists()

    told = invoke("model", network, "--profile", out, "--cuts", 1, "--measure", "--runs", 3, "--chain", chain, "--json")
    found = json.loads(told.stdout)
    assert [stage["part"] for stage in found["stages"]] == [
        "stage:0-1",
        f"stage:1-{len(found['block_seconds']['here'])}",
    ]
    for stage in found["stages"]:
        assert stage["low_s"] <= stage["predicted_s"] <= stage["high_s"]
        assert stage["source"] == "measured"
        assert len(stage["runs_s"]) == 3
        assert stage["error"] == pytest.approx(stage["predicted_s"] / stage["measured_s"] - 1)
    assert found["block_seconds_source"] == {"here": "calibrated"}
    planned = load_chain(chain)
    assert planned.block_seconds["here"] == tuple(found["block_seconds"]["here"])
    assert planned.block_seconds_source == {"here": "calibrated"}


def test_a_type_that_was_never_profiled_is_warned_of(network: Path, known: Path) -> None:
    result = invoke("model", network, "--profile", known, "--node", "pi", "--json")
    found = json.loads(result.stdout)
    assert found["block_seconds_source"] == {"pi": "predicted"}
    assert sum(found["block_seconds"]["pi"]) == pytest.approx(found["latency_s"])
    assert "dense" in found["unprofiled"]
    assert "never or hardly profiled" in result.stderr
    (stage,) = found["stages"]
    assert stage["source"] == "predicted"
    assert stage["measured_s"] is None


def test_the_table_for_people_has_the_interval(network: Path, known: Path) -> None:
    told = invoke("model", network, "--profile", known).stdout
    assert "95 % interval" in told
    assert "stage:0-" in told


def test_what_is_stored_in_a_bundle_is_what_the_planner_and_the_controller_reckon_with(
    network: Path, known: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    write_bundle(folder, describe(ModelGraph.load(network), name="small"), model_path=network)
    before = Bundle.load(folder)
    found = json.loads(invoke("model", folder, "--profile", known, "--node", "pi", "--store", "--json").stdout)
    bundle = Bundle.load(folder)
    assert bundle.manifest.version != before.manifest.version
    graph = ModelGraph.load(bundle.model_path)
    chain = chain_of(graph, bundle.manifest)
    assert chain.block_seconds == {"pi": tuple(found["block_seconds"]["pi"])}
    assert chain.block_seconds_source == {"pi": "predicted"}
    assert bundle.manifest.profile["pi"].part_seconds[found["stages"][0]["part"]] == found["latency_s"]
    other = bundle.manifest.model_copy(update={"profile": {"pi": NodeProfile(source="measured", block_seconds=(1.0,))}})
    with pytest.raises(BundleError, match="understudy profile model --store"):
        chain_of(graph, other)


def test_a_chain_of_a_bundle_keeps_the_codecs_that_were_measured_for_it(
    network: Path, known: Path, tmp_path: Path
) -> None:
    graph = ModelGraph.load(network)
    cuts = len(graph.cuts)
    times = (1e-9,) * cuts
    codec = CodecRecord(
        codec="zstd", ratio=(0.5,) * cuts, encode_s_per_byte=times, decode_s_per_byte=times, flops_per_s=1e9
    )
    draft = describe(graph, name="small").model_copy(update={"codecs": (codec,)})
    bundle = write_bundle(tmp_path / "bundle", draft, model_path=network)
    invoke("model", tmp_path / "bundle", "--profile", known, "--chain", tmp_path / "chain.json")
    told, known_to_the_bundle = load_chain(tmp_path / "chain.json"), chain_of(graph, bundle.manifest)
    assert [one.name for one in told.codecs] == ["zstd"]
    assert told.codecs == known_to_the_bundle.codecs
    assert told.frame_bytes == known_to_the_bundle.frame_bytes


def test_a_bare_model_has_nowhere_to_store_a_profile(network: Path, known: Path) -> None:
    with pytest.raises(BundleError, match="understudy prepare"):
        invoke("model", network, "--profile", known, "--store")


@pytest.mark.parametrize("cuts", ["0", "99", "2,1"])
def test_cuts_that_the_model_does_not_have_are_refused(cuts: str, network: Path, known: Path) -> None:
    with pytest.raises(UnderstudyError, match="must ascend between 1 and"):
        invoke("model", network, "--profile", known, "--cuts", cuts)


def test_cuts_that_are_no_numbers_are_refused(network: Path, known: Path) -> None:
    result = invoke("model", network, "--profile", known, "--cuts", "a")
    assert result.exit_code == 2
    assert "5,10" in result.stderr


def test_a_stopped_measurement_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("understudy.profiling.LayerTimer.time", stop)
    result = invoke("machine", "--quick", "--out", tmp_path / "machine.json")
    assert result.exit_code == 130
    assert "--resume" in result.stderr
    assert (tmp_path / "machine.json.part").exists()
