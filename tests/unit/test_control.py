"""Control messages: each comes back as it was, and what is not one is refused with the field that is wrong."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import control
from broker.control import (
    Activate,
    Assignment,
    Beat,
    BlobRef,
    Bye,
    Confirm,
    Confirmed,
    FlowSettings,
    ProbeAck,
    ProbeOrder,
    ProbeResult,
    Route,
    RouteHop,
    Spares,
    StageRef,
)
from broker.errors import WireError
from tests.unit.builders import BLOB, beat, part_ref, route

ROUTE = route(
    3,
    ("a", "stage:0-2"),
    ("b", "stand-in:2-4:large"),
    ("a", "exit:4-7:x_1.b+c"),
    standby_head="c",
    technique="exit",
    exit="exit:4-7:x_1.b+c",
    expected_accuracy=0.5,
)
ASSIGNMENT = Assignment(pipeline="digits", controller="c0ffee", spec=BLOB, route=ROUTE, flow=FlowSettings(window=7))
SPARES = Spares(pipeline="digits", controller="c0ffee", epoch=3, spec=BLOB, parts=(part_ref("standby:2-4:int8"),))
ANNOUNCEMENT = Activate(pipeline="digits", controller="c0ffee", epoch=3, drain=True, previous_head="b", assignment=None)
BRIDGE = replace(ANNOUNCEMENT, drain=False, previous_head="", assignment=ASSIGNMENT)
BEAT = beat(
    "a",
    pipeline="digits",
    stages=(StageRef(first_block=0, end_block=2),),
    providers=("CUDA", "CPU"),
    busy_s=0.5,
    controller="c0ffee",
    spares=("standby:2-4", "exit:2-7"),
    spares_epoch=3,
    answered_epoch=3,
    oldest_epoch=2,
    sent_again=4,
    degraded=2,
    latency_s=0.25,
    leaving=True,
)
PROBE_RESULT = ProbeResult(
    node="a", to="b", bytes_per_s=1.5e6, alone_bytes_per_s=7e5, overhead_s=0.001, size_bytes=5, failure=""
)
MESSAGES = [
    BEAT,
    Confirm(node="a", incarnation="1"),
    Confirmed(head=True),
    Bye(node="a", incarnation="1"),
    ASSIGNMENT,
    SPARES,
    ANNOUNCEMENT,
    BRIDGE,
    ProbeOrder(to="b", seconds=0.3),
    PROBE_RESULT,
    ProbeAck(probe="c0ffee", sequence=3, at_s=0.25),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_message_comes_back_as_it_was(message: Any) -> None:
    assert control.decode(control.encode(message), type(message)) == message


def test_spares_of_no_part_tell_a_node_to_let_go_of_those_that_it_has() -> None:
    none = replace(SPARES, parts=())
    assert control.decode(control.encode(none), Spares) == none


def test_a_key_of_a_later_version_is_ignored() -> None:
    data = msgpack.packb({**asdict(Bye(node="a", incarnation="1")), "mood": "good"})
    assert control.decode(data, Bye) == Bye(node="a", incarnation="1")


def test_a_route_tells_the_node_of_each_of_its_cuts_and_of_no_other() -> None:
    assert [ROUTE.node_of(cut) for cut in (0, 2, 4, 7)] == ["a", "b", "a", "a"]
    for cut in (1, 3, 6, 8):
        with pytest.raises(KeyError):
            ROUTE.node_of(cut)


def test_the_activation_of_the_last_cut_goes_to_the_head_wherever_that_is() -> None:
    apart = route(3, ("a", "stage:0-2"), ("b", "stage:2-5"), head="h", standby_head="s")
    assert apart.node_of(5) == "h"
    assert apart.nodes == {"a", "b", "h"}  # the standby head may be lost: frames need it as little as any other


def test_a_route_tells_what_a_node_encodes_with_and_nothing_within_itself_or_to_the_head() -> None:
    way = route(1, ("a", "stage:0-2"), ("b", "stage:2-3"), ("b", "stage:3-4"), ("a", "stage:4-5"))
    hops = tuple(replace(hop, codec="int8+zstd") for hop in way.hops)
    way = replace(way, hops=hops)
    assert [way.codec_from("a", 2), way.codec_from("b", 4)] == ["int8+zstd"] * 2
    assert [way.codec_from("b", 3), way.codec_from("a", 5), way.codec_from("a", 1)] == ["none"] * 3


def test_a_hop_without_a_codec_is_one_that_does_not_encode() -> None:
    raw = msgpack.unpackb(control.encode(ASSIGNMENT))
    for hop in raw["route"]["hops"]:
        del hop["codec"]
    assert {hop.codec for hop in control.decode(msgpack.packb(raw), Assignment).route.hops} == {"none"}


def test_a_route_tells_which_parts_a_node_runs() -> None:
    assert [part.part for part in ROUTE.parts_on("a")] == ["stage:0-2", "exit:4-7:x_1.b+c"]
    assert ROUTE.parts_on("c") == ()


@pytest.mark.parametrize(
    ("hops", "blocks", "reason"),
    [
        ([], 2, "must reach cut 2, this one ends at cut 0"),
        (["stage:1-2"], 2, "cut 0 is followed by cut 1"),
        (["stage:0-1", "stage:2-3"], 3, "cut 1 is followed by cut 2"),
        (["stage:0-2", "stage:1-3"], 3, "cut 2 is followed by cut 1"),
        (["stage:0-2"], 3, "must reach cut 3, this one ends at cut 2"),
        (["stage:0-3"], 2, "must reach cut 2, this one ends at cut 3"),
    ],
    ids=str,
)
def test_a_route_with_a_gap_is_none(hops: list[str], blocks: int, reason: str) -> None:
    made = tuple(RouteHop(node="a", part=part_ref(name)) for name in hops)
    with pytest.raises(ValueError, match=reason):
        Route(epoch=1, blocks=blocks, hops=made, head="a")


def test_a_part_without_blocks_is_none() -> None:
    with pytest.raises(ValueError, match="is empty"):
        part_ref("stage:2-2")


def test_an_announcement_comes_with_the_route_of_its_own_epoch_or_with_none() -> None:
    with pytest.raises(ValueError, match="epoch 4 is activated with the route of epoch 3"):
        replace(BRIDGE, epoch=4)
    document = {**msgpack.unpackb(control.encode(BRIDGE)), "epoch": 4}
    with pytest.raises(WireError, match="epoch 4"):
        control.decode(msgpack.packb(document), Activate)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_that_lacks_any_field_is_refused_and_the_field_is_named(message: Any) -> None:
    for name in asdict(message).keys() - {"malformed", "tasks"}:
        document = asdict(message)
        del document[name]
        with pytest.raises(WireError, match=f"{type(message).__name__}: {name}: Field required"):
            control.decode(msgpack.packb(document), type(message))


def test_a_beat_of_a_node_that_does_not_count_malformed_messages_and_tasks_yet_is_understood() -> None:
    document = asdict(BEAT)
    del document["malformed"], document["tasks"]
    assert control.decode(msgpack.packb(document), Beat) == BEAT


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_with_any_field_of_another_type_is_refused_and_the_field_is_named(message: Any) -> None:
    for name in asdict(message):
        document = {**asdict(message), name: [{"what": "is this"}]}
        with pytest.raises(WireError, match=f"{type(message).__name__}: {name}"):
            control.decode(msgpack.packb(document), type(message))


def test_a_wrong_value_deep_inside_is_named_by_its_path() -> None:
    document = asdict(ASSIGNMENT)
    document["route"]["hops"][1]["part"]["model"]["size_bytes"] = "many"
    with pytest.raises(WireError, match=r"route\.hops\.1\.part\.model\.size_bytes"):
        control.decode(msgpack.packb(document), Assignment)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_that_ends_anywhere_too_early_or_goes_on_is_refused(message: Any) -> None:
    data = control.encode(message)
    for end in range(len(data)):
        with pytest.raises(WireError):
            control.decode(data[:end], type(message))
    with pytest.raises(WireError):
        control.decode(data + b"\xc0", type(message))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"hello",
        msgpack.packb(5),
        msgpack.packb([]),
        msgpack.packb(None),
        msgpack.packb({1: 2}),
        msgpack.packb({"node": b"\xff", "incarnation": "1"}),
        msgpack.packb(msgpack.ExtType(4, b"")),
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xa4\xff\xff\xff\xff",
    ],
    ids=lambda data: f"{data[:8].hex()} of {len(data)}",
)
def test_what_is_no_message_at_all_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        control.decode(data, Bye)


def test_a_message_beyond_the_limit_is_refused_unread() -> None:
    with pytest.raises(WireError, match="exceeds 1048576"):
        control.decode(bytes(control.MAX_CONTROL_BYTES + 1), Beat)


@given(st.sampled_from([type(message) for message in MESSAGES]), st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_refused_and_nothing_else(kind: Any, data: bytes) -> None:
    with contextlib.suppress(WireError):
        control.decode(data, kind)


@given(
    st.sampled_from(MESSAGES), st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=3)
)
def test_a_damaged_message_is_read_or_refused_and_nothing_else(message: Any, damage: list[tuple[int, int]]) -> None:
    data = bytearray(control.encode(message))
    for place, value in damage:
        data[place % len(data)] = value
    try:
        got = control.decode(bytes(data), type(message))
    except WireError:
        return
    assert isinstance(got, type(message))


def refuse(message: Any) -> None:
    with pytest.raises(WireError):
        control.decode(control.encode(message), type(message))


@pytest.mark.parametrize("sha256", ["", "../../x", "/etc/passwd", "0f" * 31, "0F" * 32])
def test_a_hash_that_is_no_sha256_is_refused(sha256: str) -> None:
    refuse(replace(ASSIGNMENT, spec=BlobRef(sha256=sha256, size_bytes=5)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "size_bytes"), -1),
        (("spec", "size_bytes"), 1 << 60),
        (("route", "hops", 0, "part", "first_block"), -1),
        (("route", "hops", 0, "part", "first_block"), 1),
        (("route", "hops", 0, "part", "end_block"), 0),
        (("route", "hops", 0, "part", "part"), "../x"),
        (("route", "hops", 0, "node"), "a.b"),
        (("route", "hops", 0, "codec"), "gzip"),
        (("route", "hops", 0, "codec"), None),
        (("route", "hops"), []),
        (("route", "hops"), None),
        (("route", "blocks"), 8),
        (("route", "head"), ""),
        (("route", "head"), "*"),
        (("route", "standby_head"), "a b"),
        (("route", "technique"), "magic"),
        (("route", "exit"), "exit"),
        (("route", "expected_accuracy"), 1.5),
        (("route", "expected_accuracy"), float("nan")),
        (("flow", "max_batch"), 0),
    ],
    ids=lambda part: ".".join(map(str, part)) if isinstance(part, tuple) else str(part),
)
def test_an_assignment_that_cannot_be_carried_out_is_refused(path: tuple[str | int, ...], value: object) -> None:
    document: Any = msgpack.unpackb(control.encode(ASSIGNMENT))
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(WireError):
        control.decode(msgpack.packb(document), Assignment)


@pytest.mark.parametrize("name", ["", "a b", "a.b", "*", ">"])
def test_a_node_whose_name_cannot_be_part_of_a_subject_is_refused(name: str) -> None:
    refuse(beat(name))


@pytest.mark.parametrize(
    "changes",
    [
        {"assigned_epoch": 2**64 - 1, "pipeline": "digits"},
        {"assigned_epoch": -1},
        {"memory_bytes": -1},
        {"interval_s": float("nan")},
        {"interval_s": float("inf")},
        {"interval_s": -1.0},
        {"busy_s": float("nan")},
        {"latency_s": -0.5},
        {"latency_s": float("inf")},
        {"oldest_epoch": -1},
        {"spares": ("not a part",)},
        {"spares": ("stage:1",)},
    ],
    ids=str,
)
def test_a_heartbeat_with_an_impossible_number_is_refused(changes: dict[str, Any]) -> None:
    refuse(beat("a", **changes))
