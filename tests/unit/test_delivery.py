"""What is promised, as it is written down; and what a stored message says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.errors import BrokerError
from broker.jetstream import JetStreamRefusedError, check_stored, stored
from broker.port import Message
from stages.identity import identify, reply_and_ack
from understudy.config import make_config
from understudy.delivery import DeliveryConfig, read_delivery
from understudy.quantities import ConfigError

ACK = "$JS.ACK.understudy_in_p.head.1.17.3.1795248758888725577.1"
OTHER_TIME = "$JS.ACK.understudy_in_p.head.4.17.9.1795248758888725578.0"
DOMAIN = "$JS.ACK.edge.A1B2.understudy_in_p.head.1.17.3.1795248758888725577.1.zz"


def test_a_mode_alone_stands_for_its_defaults() -> None:
    assert read_delivery("durable") == DeliveryConfig(mode="durable")
    assert read_delivery(None) == DeliveryConfig()


def test_settings_are_read_as_json_and_from_a_file(tmp_path: Path) -> None:
    wanted = DeliveryConfig(mode="durable", input_limit=2 << 20, result_age="10min")  # type: ignore[arg-type]
    assert read_delivery('{"mode": "durable", "input_limit": "2 MiB", "result_age": "10min"}') == wanted
    file = tmp_path / "delivery.yaml"
    file.write_text("mode: durable\ninput_limit: 2 MiB\nresult_age: 10min\n")
    assert read_delivery(str(file)) == wanted
    assert read_delivery(wanted.model_dump_json(exclude_unset=True)) == wanted


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("exactly-once", "at-least-once, latest, durable"),
        ('{"mode": "latest", "order": true}', "order"),
        ('{"replicas": 9}', "replicas"),
        ("{", "not valid JSON"),
    ],
)
def test_what_is_wrong_is_said(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_delivery(text)


def test_a_stored_message_has_a_name_that_stays_when_it_is_delivered_again_and_is_no_other_s() -> None:
    again = ACK.replace("head.1.17.3", "head.2.17.8")
    names = {stored(subject).id for subject in (ACK, again, DOMAIN) if stored(subject)}  # type: ignore[union-attr]
    assert len(names) == 1
    other = stored(OTHER_TIME)
    assert other is not None
    assert other.id not in names


@pytest.mark.parametrize("subject", ["", "_INBOX.a.b", "$JS.ACK", "$JS.ACK.a.b.c.d.e.f.g", "$JS.ACK.1.2.3"])
def test_another_reply_subject_says_nothing(subject: str) -> None:
    assert stored(subject) is None


def test_a_stored_frame_says_in_a_header_who_wants_its_result() -> None:
    frame = Message(subject="understudy.p.feed", data=b"x", reply=ACK, headers={"Understudy-Reply": "_INBOX.me"})
    assert reply_and_ack(frame) == ("_INBOX.me", ACK)
    assert reply_and_ack(Message(subject="understudy.p.in", data=b"x", reply="_INBOX.me")) == ("_INBOX.me", "")


def test_the_publisher_s_name_for_a_stored_frame_counts_before_its_place() -> None:
    named = Message(subject="understudy.p.feed", data=b"x", reply=ACK, headers={"Nats-Msg-Id": "mine"})
    nameless = Message(subject="understudy.p.feed", data=b"x", reply=ACK)
    same_content = Message(subject="understudy.p.feed", data=b"x", reply=OTHER_TIME)
    assert identify(named).id == "mine"
    assert identify(nameless).id not in (None, identify(same_content).id)


def test_the_store_s_refusal_says_why() -> None:
    check_stored(b'{"stream": "S", "seq": 1}')
    check_stored(b'{"stream": "S", "seq": 1, "duplicate": true}')
    with pytest.raises(JetStreamRefusedError, match="maximum bytes exceeded") as refused:
        check_stored(b'{"error": {"code": 400, "err_code": 10077, "description": "maximum bytes exceeded"}}')
    assert refused.value.code == 10077
    for nonsense in (b"", b"[]", b"\xff"):
        with pytest.raises(BrokerError):
            check_stored(nonsense)


@pytest.mark.parametrize(("given", "told"), [("2s", "2000ms"), ("always", "always"), (None, "")])
def test_how_often_the_store_is_synced_is_said_as_the_server_takes_it(given: str | None, told: str) -> None:
    assert DeliveryConfig(sync_interval=given).sync == told  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [
        {"broker": "nats://h", "delivery": {"folder": "x"}},
        {"servers": 3, "delivery": {"folder": "x"}},
        {"broker": "nats://h", "delivery": {"sync_interval": "always"}},
    ],
)
def test_settings_of_the_embedded_broker_are_refused_for_another_one(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="embedded broker"):
        make_config(settings, "options")
