"""The NATS back end keeps the contract over TLS, both sides with certificates; what is wrong with them is said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from broker.connect import connect as connect_to
from broker.errors import BrokerError, BrokerUnreachableError
from broker.server import NatsServer
from tests.contract.authority import Authority
from tests.contract.conftest import Connect, Inbox, connections, eventually
from tests.contract.suite import BrokerContract, payload


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
async def server(authority: Authority) -> AsyncIterator[NatsServer]:
    async with await NatsServer.start(tls=authority.server(wants_certificates=False)) as server:
        yield server


@pytest.fixture
async def strict_server(authority: Authority) -> AsyncIterator[NatsServer]:
    async with await NatsServer.start(tls=authority.server(wants_certificates=True)) as server:
        yield server


class TestNatsOverTls(BrokerContract):
    @pytest.fixture
    async def connect(self, tmp_path: Path) -> AsyncIterator[Connect]:
        authority = Authority(tmp_path / "authority")
        async with (
            await NatsServer.start(tls=authority.server(wants_certificates=True)) as server,
            connections(server.operator_url + authority.known) as connect,
        ):
            yield connect


async def refused(url: str) -> str:
    """At once: not when the time for connecting is over."""
    async with asyncio.timeout(15):
        with pytest.raises(BrokerUnreachableError) as caught:
            await connect_to(url, connect_timeout_s=30)
    return str(caught.value)


async def test_the_connection_comes_back_over_tls(server: NatsServer, authority: Authority) -> None:
    broker = await connect_to(server.operator_url + authority.trusting)
    inbox = Inbox()
    await broker.subscribe("a", inbox)
    await server.kill()
    await eventually(lambda: not broker.connected)
    await server.restart()
    await broker.flush()
    await broker.publish("a", payload(2_000_000))
    assert bytes((await inbox.next()).data) == payload(2_000_000)
    await broker.close()


async def test_an_authority_that_is_not_trusted_is_said(server: NatsServer, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    for url in (server.url, server.url + other.trusting):
        assert "signed by an authority that is not trusted here: add ?ca=FILE" in await refused(url)


async def test_a_certificate_for_another_name_is_said(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority", name="example.org")
    async with await NatsServer.start(tls=authority.server(wants_certificates=False)) as server:
        said = await refused(server.url + authority.trusting)
    assert "certificate is not for this host name" in said
    assert "127.0.0.1" in said


async def test_a_server_that_wants_a_certificate_is_said_to(strict_server: NatsServer, authority: Authority) -> None:
    assert "wants a certificate of ours: add ?cert=FILE&key=FILE" in await refused(
        strict_server.url + authority.trusting
    )


async def test_a_certificate_that_the_server_does_not_know_is_said(
    strict_server: NatsServer, authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other").known.partition("&")[2]
    said = await refused(f"{strict_server.url}{authority.trusting}&{other}")
    assert "does not accept our certificate" in said


async def test_without_tls_at_a_server_that_wants_it(server: NatsServer) -> None:
    assert "the server wants TLS: write tls://" in await refused(server.url.replace("tls://", "nats://"))


async def test_tls_at_a_server_without_it_and_no_password_is_sent(authority: Authority) -> None:
    async with await NatsServer.start() as server:
        url = server.control_url.replace("nats://", "tls://")
        assert "the server does not speak TLS: write nats://" in await refused(url + authority.trusting)
        log = server.log_file.read_text()
    assert "authentication error" not in log
    assert "operator" not in log


@pytest.mark.parametrize("option", ["ca", "cert", "key"])
@pytest.mark.parametrize(
    ("content", "says"), [(None, "is not there"), (b"no certificate", "in PEM form"), (bytes(2 << 20), "too large")]
)
async def test_a_file_that_is_of_no_use_is_named(
    authority: Authority, tmp_path: Path, option: str, content: bytes | None, says: str
) -> None:
    files = {"ca": authority.ca, "cert": authority.folder / "client.pem", "key": authority.folder / "client.key"}
    files[option] = tmp_path / "broken"
    if content is not None:
        files[option].write_bytes(content)
    query = "&".join(f"{name}={path}" for name, path in files.items())
    with pytest.raises(BrokerError, match=says) as caught:
        await connect_to(f"tls://127.0.0.1:1?{query}")
    assert str(files[option]) in str(caught.value)


async def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="cannot be read: Is a directory"):
        await connect_to(f"tls://127.0.0.1:1?ca={tmp_path}")


async def test_an_encrypted_key_is_refused_and_not_asked_for(authority: Authority, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(trustme.CA().private_key_pem.bytes(), None)
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(BrokerError, match="the key that belongs to it"):
        await connect_to(f"tls://127.0.0.1:1?cert={authority.folder / 'client.pem'}&key={encrypted}")
