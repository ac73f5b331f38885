"""What MQTT makes of subjects, headers and kinds of messages."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import subjects
from broker.dispatch import pattern
from broker.errors import BrokerError, WireError
from broker.mqtt_delivery import delivery_of
from broker.mqtt_envelope import MAGIC, MAX_HEADER_BYTES, unwrap, wrap
from broker.mqtt_outbox import MAX_SENDS, Outbox, Outgoing
from broker.mqtt_topics import covers, filter_of, subject_of, topic_of, widest

words = st.sampled_from(["a", "b", "c-1", "_"])
concrete = st.lists(words, min_size=1, max_size=4).map(".".join)
wild = st.lists(words | st.just("*"), min_size=1, max_size=4).map(".".join)
patterns = wild | wild.map(lambda one: f"{one}.>")


# ---- topics --------------------------------------------------------------------------------------------------------


def test_the_topics_of_a_pipeline_are_its_subjects_with_slashes() -> None:
    assert topic_of(subjects.frames_in("digits")) == "understudy/digits/in"
    assert filter_of(subjects.activations("digits", "one")) == "understudy/digits/cut/+/one"
    assert filter_of("a.>") == "a/#"
    assert subject_of("understudy/digits/out") == subjects.results_out("digits")


@pytest.mark.parametrize(
    "subject", ["", "a..b", "a/b", "a+b", "a.#", "a b", "a\0b", "a.*", "a.>", "$SYS.x", "x" * 65_536]
)
def test_what_mqtt_cannot_carry_is_refused(subject: str) -> None:
    with pytest.raises(BrokerError, match="not a subject"):
        topic_of(subject)


@pytest.mark.parametrize("subject", [">.a", "a*", "a.b>", "a.+", "a/*"])
def test_a_subscription_that_mqtt_cannot_express_is_refused(subject: str) -> None:
    with pytest.raises(BrokerError, match="not a subject"):
        filter_of(subject)


@given(st.lists(patterns | concrete, min_size=1, max_size=4), concrete)
def test_what_a_connection_asks_for_brings_each_message_of_its_subscriptions_once(
    wanted: list[str], subject: str
) -> None:
    try:
        asked = widest(filter_of(one) for one in wanted)
    except BrokerError:
        return  # they overlap in a way that no broker is asked for
    matching = [one for one in asked if covers(one, topic_of(subject))]
    if any(pattern(one).fullmatch(subject) for one in wanted):
        assert len(matching) == 1
    else:
        assert len(matching) <= 1  # `a/#` brings `a` too


def test_subscriptions_that_overlap_halfway_are_refused() -> None:
    with pytest.raises(BrokerError, match="overlap"):
        widest(["a/+", "+/b"])
    assert widest(["a/+/c", "a/#", "b", "b"]) == {"a/#", "b"}


# ---- envelopes -----------------------------------------------------------------------------------------------------

texts = st.text(max_size=20)


@given(texts, st.dictionaries(texts, texts, max_size=5), st.binary(max_size=50))
def test_a_reply_subject_and_headers_make_the_round_trip(reply: str, headers: dict[str, str], payload: bytes) -> None:
    data, found_reply, found_headers = unwrap(wrap(reply, headers) + payload)
    assert (bytes(data), found_reply, found_headers) == (payload, reply, headers)


def test_what_has_neither_travels_as_it_is() -> None:
    assert wrap("", {}) == b""
    assert unwrap(b"\xff\xd8\xff an image") == (b"\xff\xd8\xff an image", "", {})


@pytest.mark.parametrize(
    "rest",
    [
        b"",
        b"\xc1",
        msgpack.packb([]),
        msgpack.packb({}),
        msgpack.packb({"reply": 1, "headers": {}}),
        msgpack.packb({"reply": "", "headers": {"a": 1}}),
        msgpack.packb({"reply": "", "headers": []}),
        msgpack.packb({"reply": "x" * (MAX_HEADER_BYTES + 1), "headers": {}}),
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\x81" * 100_000,
    ],
)
def test_what_only_begins_like_an_envelope_is_refused(rest: bytes) -> None:
    with pytest.raises(WireError):
        unwrap(MAGIC + rest)


@given(st.binary(max_size=200))
def test_any_bytes_behind_the_magic_are_an_envelope_or_refused(rest: bytes) -> None:
    try:
        unwrap(MAGIC + rest)
    except WireError as error:
        assert error.reason


def test_headers_that_are_too_long_are_not_sent() -> None:
    with pytest.raises(WireError, match="headers"):
        wrap("", {"a": "x" * MAX_HEADER_BYTES})


# ---- quality of service --------------------------------------------------------------------------------------------


def test_frames_results_and_orders_are_confirmed_and_what_comes_again_anyway_is_not() -> None:
    confirmed = [
        subjects.frames_in("p"),
        subjects.results_out("p"),
        subjects.dead_letters("p"),
        subjects.assign("n"),
        subjects.activate("p"),
        subjects.BYE,
    ]
    assert [delivery_of(subject).qos for subject in confirmed] == [1] * len(confirmed)
    once = [subjects.activation("p", 1, "n"), subjects.pulse("n"), subjects.beat("n"), subjects.blob("0"), "_INBOX.1.2"]
    assert [delivery_of(subject).qos for subject in once] == [0] * len(once)
    retained = [subject for subject in (*confirmed, *once) if delivery_of(subject).retain]
    assert retained == [subjects.activate("p")]


# ---- the outbound buffer -------------------------------------------------------------------------------------------


def sent(outbox: Outbox, **fields: object) -> Outgoing:
    outgoing = Outgoing(**{"topic": "t", "payload": b"123", "qos": 1} | fields)  # type: ignore[arg-type]
    outbox.put(outgoing)
    outbox.note_sent(len(outbox), outbox.waiting.popleft())
    return outgoing


def test_what_was_not_confirmed_is_sent_again_before_what_waits_and_the_rest_is_forgotten() -> None:
    outbox = Outbox()
    first, second = sent(outbox, payload=b"first"), sent(outbox)
    sent(outbox, qos=0)
    sent(outbox, again=False)
    later = Outgoing(topic="t", payload=b"", qos=0)
    outbox.put(later)
    outbox.confirm(1)
    assert outbox.lose() == []
    assert list(outbox.waiting) == [second, later]
    assert first not in outbox.waiting
    assert outbox.size_bytes == second.size_bytes + later.size_bytes


def test_a_message_with_which_the_connection_is_lost_again_and_again_is_given_up() -> None:
    outbox = Outbox()
    poison = sent(outbox)
    for _ in range(MAX_SENDS - 1):
        assert outbox.lose() == []
        outbox.note_sent(1, outbox.waiting.popleft())
    assert outbox.lose() == [poison]
    assert (len(outbox), outbox.size_bytes) == (0, 0)
