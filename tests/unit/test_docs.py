"""The documentation and the code say the same, as far as that can be seen cheaply."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import typer

from broker import control, lease, roles, subjects, wire
from broker.activation import FrameTag, decode_tensor_frame, encode_tensor_frame
from broker.codecs import CODECS
from broker.control import (
    Activate,
    Assignment,
    Beat,
    Bye,
    Confirm,
    Confirmed,
    FlowSettings,
    PartRef,
    ProbeAck,
    ProbeOrder,
    ProbeResult,
    Route,
    RouteHop,
    Spares,
    Technique,
)
from broker.server import ServerConfig
from broker.wire import DTYPES
from planner.plan import Plan, Stage
from recovery.journal import Journal, Record
from recovery.objectives import Choice, Terms
from recovery.options import evaluate
from recovery.state import Activated, ClusterState, Heard, Planned, apply
from recovery.status import status
from stages.blobs import CHUNK_BYTES
from stages.errors import FrameError
from stages.ledger import Ledger
from stages.manifest import (
    Accuracy,
    CodecLoss,
    CodecRecord,
    ImageInput,
    Manifest,
    NodeProfile,
    OutputSpec,
    PartRecord,
    TensorInput,
)
from stages.results import Provenance, dead_letter_json, result_json
from stages.spec import PipelineSpec
from tests.unit.builders import beat, route
from tests.unit.recovery_cases import ESTIMATES, make_setup
from understudy import settings, versions
from understudy.cli.main import app
from understudy.config import NodeConfig, UpConfig, load_config, make_config
from understudy.delivery import DeliveryConfig
from understudy.objectives import RecoveryConfig, WeightsConfig
from understudy.result import PathHop, Result, Score

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
PROTOCOL, CONFIGURATION, BUNDLE, README = (
    (ROOT / name).read_text() for name in ("docs/protocol.md", "docs/configuration.md", "docs/bundle.md", "README.md")
)


def section(page: str, title: str) -> str:
    """The text below a heading, up to the next heading of the same or a higher level."""
    heading = re.search(rf"^(#+) {re.escape(title)}$", page, re.MULTILINE)
    assert heading is not None, f"no section '{title}'"
    rest = page[heading.end() :]
    following = re.search(rf"^#{{1,{len(heading[1])}}} ", rest, re.MULTILINE)
    return rest[: following.start()] if following else rest


def missing(names: Any, text: str) -> list[str]:
    """The names that the text does not have in backquotes, alone or with others."""
    return [name for name in names if not re.search(rf"`[^`\n]*(?<![\w-]){re.escape(name)}(?![\w-])[^`\n]*`", text)]


def code(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


# ---- subjects ------------------------------------------------------------------------------------------------------

PATTERNS = [
    subjects.STATUS,
    subjects.BEATS,
    subjects.BYE,
    subjects.frames_in("<pipeline>"),
    subjects.results_out("<pipeline>"),
    subjects.dead_letters("<pipeline>"),
    subjects.activation("<pipeline>", "<k>", "<node>"),
    subjects.blob("<sha256>"),
    subjects.beat("<node>"),
    subjects.PULSES,
    subjects.pulse("<node>"),
    subjects.GONE,
    subjects.gone("<connection>"),
    subjects.activations("<pipeline>", "<node>"),
    subjects.handover("<pipeline>", "<node>"),
    subjects.sent("<pipeline>", "<node>"),
    subjects.lead("<pipeline>"),
    subjects.feed("<pipeline>"),
    subjects.input_stream("<pipeline>"),
    subjects.result_stream("<pipeline>"),
    subjects.gap("<pipeline>"),
    subjects.events("<pipeline>"),
    subjects.journal("<pipeline>"),
    subjects.confirm("<pipeline>"),
    subjects.update("<pipeline>"),
    subjects.spares("<node>"),
    subjects.assign("<node>"),
    subjects.activate("<pipeline>"),
    subjects.probe("<node>"),
    subjects.probe_data("<node>"),
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_protocol_names_every_subject(pattern: str) -> None:
    assert f"`{pattern}`" in PROTOCOL


def test_no_subject_was_added_without_this_test_knowing_of_it() -> None:
    tree = ast.parse(Path(subjects.__file__).read_text())
    builders = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    builders -= {"check_name", "is_answerable"}
    constants = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if target.id[0] != "_"
    }
    assert len(builders) + len(constants - {"ROOT"}) == len(PATTERNS)


# ---- what is on the wire -------------------------------------------------------------------------------------------


def test_the_bytes_of_the_example_are_those_that_the_code_writes() -> None:
    [listing] = [block for block in code(PROTOCOL, "text") if block.startswith("92")]
    pairs = (re.match(r"\s*((?:[0-9a-f]{2}\s{1,2})*[0-9a-f]{2})(?:\s{3,}|$)", line) for line in listing.splitlines())
    written = bytes.fromhex("".join(found[1] for found in pairs if found))
    frame_id, tensors = decode_tensor_frame(written)
    assert frame_id == "f1"
    assert tensors["x"].tolist() == [[1.0, 2.0]]
    assert written == b"".join(encode_tensor_frame({"x": np.array([[1, 2]], dtype=np.float32)}, "f1"))
    assert "which start at byte 48" in listing
    assert written.index(np.float32(1).tobytes()) == 48


def test_the_message_of_the_example_client_is_one_that_the_code_reads() -> None:
    [program] = code(PROTOCOL, "python")
    tree = ast.parse(program)
    imports_and_function = ast.Module(
        [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.Import)], type_ignores=[]
    )
    scope: dict[str, Any] = {}
    exec(compile(imports_and_function, "docs/protocol.md", "exec"), scope)  # noqa: S102 - our own page
    array = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    frame_id, tensors = decode_tensor_frame(scope["tensor_message"]("an id", {"input": array}))
    assert frame_id == "an id"
    np.testing.assert_array_equal(tensors["input"], array)


def test_every_python_program_on_the_pages_compiles() -> None:
    for page in PAGES:
        for program in code(page.read_text(), "python"):
            compile(program, str(page), "exec")


def test_the_protocol_names_every_dtype_and_bound_of_the_wire_format() -> None:
    text = section(PROTOCOL, "Tensor messages")
    assert missing(DTYPES, text) == []
    assert f"at most {wire.MAX_TENSORS} tensors" in text.lower()
    assert f"0 to {wire.MAX_DIMENSIONS} dimensions" in text
    assert wire.MAX_HEADER_BYTES == 1 << 20


def test_the_protocol_describes_every_codec() -> None:
    assert missing(CODECS, section(PROTOCOL, "Codecs")) == []


def test_the_protocol_names_every_field_of_a_result() -> None:
    answered = json.loads(result_json(FrameTag("f", ()), {}, Provenance(epoch=1), 1.0, ("code", "reason")))
    names = {*answered, *(field.name for field in fields(Result))}
    text = section(PROTOCOL, "Results")
    assert missing(names, text) == []
    assert missing((field.name for kind in (Score, PathHop) for field in fields(kind)), text) == []
    assert missing(names, section(README, "Results")) == []


def test_the_example_of_a_result_has_the_fields_of_one() -> None:
    [example] = (json.loads(block) for block in code(section(PROTOCOL, "Results"), "json"))
    answered = json.loads(result_json(FrameTag("f", ()), {}, Provenance(epoch=1), 1.0, None))
    assert example.keys() == answered.keys() | {"class_index", "label", "scores"}
    assert all(hop.keys() == {field.name for field in fields(PathHop)} for hop in example["path"])


def test_the_protocol_names_every_field_of_a_dead_letter() -> None:
    letter = json.loads(dead_letter_json("c92bc3179832e35b", b"bad\n", "not-an-image", "why"))
    text = section(PROTOCOL, "Errors")
    assert missing(letter, text) == []
    [example] = (json.loads(block) for block in code(text, "json"))
    assert example == letter | {"reason": example["reason"]}


def test_the_protocol_names_every_error_code() -> None:
    documented = re.findall(r"`([a-z-]+)`", (FrameError.__doc__ or "").partition("code:")[2].partition("reason:")[0])
    used = {
        found
        for path in (ROOT / "stages").glob("*.py")
        for found in re.findall(r'FrameError\(\s*"([a-z-]+)"', path.read_text())
    }
    assert len(documented) > 8
    assert set(re.findall(r"^\| `([a-z-]+)` \|", section(PROTOCOL, "Errors"), re.MULTILINE)) - {"id", "withheld"} == {
        *documented,
        *used,
    }


def test_the_protocol_names_every_field_of_the_status_document() -> None:
    stage = Stage(first_block=0, end_block=1, node="a")
    served = route(1, ("a", "stage:0-1"))
    state = ClusterState(pipeline="p")
    for event in (
        Heard(beat=beat("a", pipeline="p", is_head=True), now_s=0.0),
        Planned(plan=Plan(stages=(stage,)), route=served, nodes=frozenset("a")),
        Activated(route=served, drain=False, now_s=0.0),
    ):
        state = apply(state, event)
    document = status(state, "nats://h:1", 0.0, 0.0)
    text = section(PROTOCOL, "Status")
    assert missing(document, text) == []
    assert missing(document["nodes"][0], text) == []


def test_the_protocol_names_every_field_of_a_record_of_the_journal() -> None:
    journal = Journal(clock=lambda: 0.0)
    record = journal.begin("failure", "silent", ["a"], counted=(0, 0))
    option = evaluate(make_setup().route, "a", ESTIMATES)
    choice = Choice(option=option, terms=Terms(), score=0.0)
    journal.bridged(record, choice, epoch=2, exit_name="", decided_s=0.0)
    document = record.document()
    text = section(PROTOCOL, "Events")
    assert missing(document, text) == []
    for part in ("estimates", "measured", "frames"):
        assert missing(document[part], text) == []
    for name, kind in get_type_hints(Record).items():
        if name in ("kind", "stage"):
            assert missing(get_args(kind), text) == []


CONTROL = [Beat, Confirm, Confirmed, Bye, Assignment, Spares, Activate, ProbeOrder, ProbeResult, ProbeAck]


@pytest.mark.parametrize("kind", CONTROL)
def test_the_protocol_names_every_field_of_a_control_message(kind: Any) -> None:
    text = section(PROTOCOL, kind.__name__)
    parts = (FlowSettings, Route, RouteHop, PartRef) if kind is Assignment else ()
    for part in (kind, *parts):
        assert missing((field.name for field in fields(part)), text) == []


def test_no_control_message_was_added_without_this_test_knowing_of_it() -> None:
    assert set(CONTROL) == set(control._KINDS)


def test_the_protocol_names_the_buckets_and_what_is_in_them() -> None:
    text = section(PROTOCOL, "Buckets")
    assert missing([lease.BUCKET, roles.VERSIONS], text) == []
    assert missing((field.name for field in fields(versions.Record)), text) == []
    assert f"`max_age` {lease.TTL_S:g} s" in text
    assert f"every {lease.RENEW_S:g} s" in text


def test_the_protocol_names_every_technique() -> None:
    assert missing(get_args(Technique), section(PROTOCOL, "Results")) == []


def test_the_protocol_names_the_fields_of_a_specification_and_the_size_of_a_piece() -> None:
    text = section(PROTOCOL, "Blobs")
    assert missing((field.name for field in fields(PipelineSpec)), text) == []
    assert str(CHUNK_BYTES) in text


def test_the_protocol_tells_the_limits() -> None:
    text = section(PROTOCOL, "Limits and back-pressure")
    flow = FlowSettings()
    ledger = Ledger(queue_frames=flow.queue_frames, queue_bytes=flow.queue_bytes)
    assert f"{flow.queue_frames} (`queue_frames`), and {flow.queue_bytes >> 20} MiB (`queue_bytes`)" in text
    assert f"{ServerConfig().max_payload_bytes >> 20} MiB on the embedded broker" in text
    remembered = f"{ledger.recent_frames} results, or {ledger.recent_bytes >> 20} MiB"
    assert remembered in section(PROTOCOL, "Ids, duplicates, loss").replace("\n  ", " ")
    patience_s = sum(flow.resend_after_s * 2**attempt for attempt in range(flow.max_attempts))
    assert f"take {patience_s:g} s with the defaults" in PROTOCOL


# ---- settings ------------------------------------------------------------------------------------------------------


SECTIONS: list[Any] = [UpConfig, NodeConfig, RecoveryConfig, WeightsConfig, DeliveryConfig]


@pytest.mark.parametrize("model", SECTIONS)
def test_the_configuration_page_names_every_key(model: Any) -> None:
    text = section(CONFIGURATION, "The file of `understudy up`")
    assert [name for name in model.model_fields if f"\n| `{name}` |" not in text] == []


def test_the_configuration_page_names_no_key_that_is_not_there() -> None:
    documented = re.findall(r"^\| `(\w+)` \|", section(CONFIGURATION, "The file of `understudy up`"), re.MULTILINE)
    assert set(documented) == {name for model in SECTIONS for name in model.model_fields}


def test_the_configuration_page_names_every_variable_of_the_environment() -> None:
    read = set(re.findall(r'"((?:UNDERSTUDY|XDG)_\w+)"', Path(settings.__file__).read_text()))
    assert missing(read, section(CONFIGURATION, "Environment")) == []


def test_the_example_of_a_configuration_is_a_valid_one() -> None:
    path = ROOT / "examples/config.yaml"
    config = make_config(load_config(path), str(path))
    assert [node.memory for node in config.nodes] == [220 << 10] * 4


@pytest.mark.parametrize(
    "model", [Manifest, ImageInput, TensorInput, OutputSpec, Accuracy, PartRecord, CodecRecord, CodecLoss, NodeProfile]
)
def test_the_bundle_page_names_every_key_of_the_manifest(model: Any) -> None:
    assert missing(model.model_fields, BUNDLE) == []


# ---- the command line ----------------------------------------------------------------------------------------------

TOP = typer.main.get_command(app).commands  # type: ignore[attr-defined]
GROUPS = {name: command.commands for name, command in TOP.items() if hasattr(command, "commands")}
COMMANDS = {name: command for name, command in TOP.items() if name not in GROUPS} | {
    f"{name} {inner}": command for name, commands in GROUPS.items() for inner, command in commands.items()
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_pages_name_every_command_and_option(command: str) -> None:
    assert f"understudy {command}" in README or command == "demo"
    [row] = re.findall(rf"^\| `understudy {command}\b.*$", CONFIGURATION, re.MULTILINE)
    options = [name for option in COMMANDS[command].params for name in option.opts if name.startswith("--")]
    assert missing([name for name in options if name != "--help"], row) == []


def test_the_pages_name_no_command_that_is_not_there() -> None:
    for page in PAGES:
        shells = "".join(code(page.read_text(), "sh"))
        named = set(re.findall(r"^(?:.*\| )?understudy (\w[\w-]*)", shells, re.MULTILINE))
        assert named <= TOP.keys(), page


def test_the_readme_and_ci_run_the_same_scripts() -> None:
    assert "scripts/demo" in README
    assert "scripts/test" in README
    assert "scripts/test" in (ROOT / "scripts/check").read_text()
    assert "scripts/check" in (ROOT / ".ci/run").read_text()


# ---- links ---------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    titles = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        there = page if not name else (page.parent / name).resolve()
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_that_a_page_names_are_there(page: Path) -> None:
    named = re.findall(
        r"`((?:broker|planner|stages|recovery|understudy|scripts|tests|docs|examples)/[\w./-]*)`", page.read_text()
    )
    assert [name for name in named if not (ROOT / name).exists()] == []
