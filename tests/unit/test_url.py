"""Broker URLs: what is taken, what is refused and how, and that no password is ever shown."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.connect import connect
from broker.errors import BrokerError
from broker.url import Credentials, UrlOptions, parse_broker_url, redact


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("nats://host", ("nats://host:4222",)),
        ("nats://host:5000/", ("nats://host:5000",)),
        ("NATS://Host:5000", ("nats://host:5000",)),
        ("tls://host:5000", ("tls://host:5000",)),
        ("nats://[::1]:5000", ("nats://[::1]:5000",)),
        ("nats://a:1, nats://b:2", ("nats://a:1", "nats://b:2")),
        ("nats://u:p@a:1,b:2", ("nats://a:1", "nats://b:2")),
    ],
)
def test_a_url_names_its_servers(url: str, servers: tuple[str, ...]) -> None:
    assert parse_broker_url(url).servers == servers


def test_credentials_are_decoded_and_are_those_of_the_whole_list() -> None:
    assert parse_broker_url("nats://a,nats://me:p%40ss@b").credentials == Credentials(user="me", password="p@ss")  # noqa: S106
    assert parse_broker_url("nats://secret@a").credentials == Credentials(token="secret")  # noqa: S106
    assert parse_broker_url("nats://a").credentials is None


def test_options_name_files_and_are_those_of_the_whole_list() -> None:
    url = parse_broker_url("tls://a:1,b:2?ca=/etc/a%2Cb.pem&cert=own+1.pem&key=own.key")
    assert url.servers == ("tls://a:1", "tls://b:2")
    assert url.options == UrlOptions(ca=Path("/etc/a,b.pem"), cert=Path("own+1.pem"), key=Path("own.key"))
    assert parse_broker_url("nats://a?creds=me.creds,b").options == UrlOptions(creds=Path("me.creds"))
    assert parse_broker_url("nats://a").options == UrlOptions()


def test_options_are_not_printed() -> None:
    assert str(parse_broker_url("nats://host:1?nkey=/home/me/seed")) == "nats://host:1"
    assert redact("tls://host:1?key=/home/me/key") == "tls://host:1"
    assert redact("tls://u:p?q@host:1?key=/home/me/key") == "tls://host:1"


def test_credentials_are_not_printed() -> None:
    url = parse_broker_url("nats://me:secret@host:1")
    assert "secret" not in f"{url} {url!r}"
    assert str(url) == "nats://host:1"


def test_memory_takes_a_name() -> None:
    url = parse_broker_url("memory://test-1")
    assert (url.scheme, url.name, str(url)) == ("memory", "test-1", "memory://test-1")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "nats://, tls://, mqtt://, mqtts://, memory://"),
        ("localhost:4222", "nats://, tls://, mqtt://"),
        ("http://host", "nats://, tls://, mqtt://"),
        ("nats://", "no host"),
        ("nats://:4222", "no host"),
        ("nats://ho st", "no host"),
        ("nats://host:port", "port"),
        ("nats://host:99999", "port"),
        ("nats://host/path", "nothing but ?option=value may follow"),
        ("nats://host?x=1", "no 'x': there are creds, nkey"),
        ("tls://host?x=1", "no 'x': there are ca, cert, creds, key, nkey"),
        ("nats://host?ca=ca.pem", "TLS is for tls:// and mqtts:// alone"),
        ("tls://host?ca", "after the ? comes option=FILE"),
        ("tls://host?ca=", "names no file with ca="),
        ("tls://a?ca=one,b?ca=other", "names two files with ca="),
        ("tls://host?key=key.pem", "add cert=FILE"),
        ("nats://host?creds=a&nkey=b", "both creds and nkey"),
        ("nats://[::1", "not a broker URL"),
        ("nats://a,http://b", "nats:// and tls:// only"),
        ("mqtt://a,nats://b", "mqtt:// and mqtts:// only"),
        ("nats://a,", "no host"),
        ("memory://a b", "letters, digits"),
    ],
)
def test_what_is_no_broker_url_is_refused_with_the_reason(url: str, says: str) -> None:
    with pytest.raises(BrokerError) as caught:
        parse_broker_url(url)
    assert says in str(caught.value)


async def test_connect_names_the_schemes_it_knows() -> None:
    with pytest.raises(BrokerError, match="nats://, tls://, mqtt://, mqtts://, memory://"):
        await connect("amqp://host")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://host:1", "nats://host:1"),
        ("nats://u:p@host:1", "nats://host:1"),
        ("nats://token@host", "nats://host"),
        ("nats://u:p@a:1,u:p@b:2", "nats://a:1,b:2"),
        ("nats://u:p@x/y@host:1", "nats://host:1"),
        ("u:p@host", "host"),
        ("junk", "junk"),
    ],
)
def test_redact_drops_the_credentials_and_keeps_the_rest(url: str, shown: str) -> None:
    assert redact(url) == shown


@given(st.text(alphabet="abz059:/@,%.!", min_size=1), st.sampled_from(["nats://", "tls://", "http://", ""]))
def test_redact_never_shows_a_password(noise: str, scheme: str) -> None:
    assert "SECRET" not in redact(f"{scheme}user:SECRET{noise}@host:4222")


@given(st.text())
def test_junk_is_refused_with_an_error_of_ours(url: str) -> None:
    with contextlib.suppress(BrokerError):
        parse_broker_url(url)
