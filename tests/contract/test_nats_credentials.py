"""Credentials files and NKeys, at a real server that knows them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.connect import connect
from broker.errors import BrokerError, BrokerUnreachableError
from broker.process import spawn, terminate
from broker.server import find_binary
from tests.contract.conftest import Inbox, eventually
from tests.contract.credentials import Key, Operator

START_S = 15.0
AT_ONCE_S = 15.0
"""Not when the time for connecting is over."""


class PlainServer:
    """A nats-server with a configuration of the test's own."""

    def __init__(self, folder: Path, config: str) -> None:
        self._folder = folder
        self._config = config
        self._process: asyncio.subprocess.Process | None = None
        self._port = "-1"

    async def start(self) -> None:
        self._folder.mkdir(exist_ok=True)
        config = self._folder / "config"
        config.write_text(f'listen: "127.0.0.1:{self._port}"\nports_file_dir: "{self._folder}"\n{self._config}')
        with (self._folder / "log").open("wb") as log:
            self._process = await spawn([str(find_binary()), "-c", str(config)], stdout=log, stderr=log)
        ports = self._folder / f"{find_binary().name}_{self._process.pid}.ports"
        await eventually(lambda: ports.exists() and '"nats"' in ports.read_text(), within_s=START_S)
        self._port = ports.read_text().split("127.0.0.1:")[1].split('"')[0]

    async def stop(self) -> None:
        assert self._process is not None
        await terminate(self._process, 2.0)

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self._port}"


@pytest.fixture
def operator() -> Operator:
    return Operator()


@pytest.fixture
async def jwt_server(tmp_path: Path, operator: Operator) -> AsyncIterator[PlainServer]:
    server = PlainServer(tmp_path / "server", operator.server_config())
    await server.start()
    yield server
    await server.stop()


async def works_and_comes_back(server: PlainServer, url: str) -> None:
    broker = await connect(url)
    inbox = Inbox()
    await broker.subscribe("a", inbox)
    await server.stop()
    await eventually(lambda: not broker.connected)
    await server.start()
    await broker.flush()
    await broker.publish("a", b"x")
    assert bytes((await inbox.next()).data) == b"x"
    await broker.close()


async def test_a_credentials_file_opens_a_server_that_lives_by_jwts(
    jwt_server: PlainServer, operator: Operator, tmp_path: Path
) -> None:
    creds = operator.write_creds(tmp_path / "me.creds")
    await works_and_comes_back(jwt_server, f"{jwt_server.url}?creds={creds}")


async def test_the_credentials_of_another_operator_are_refused_at_once(jwt_server: PlainServer, tmp_path: Path) -> None:
    creds = Operator().write_creds(tmp_path / "other.creds")
    async with asyncio.timeout(AT_ONCE_S):
        with pytest.raises(BrokerUnreachableError, match=r"authorization failed .* token or key"):
            await connect(f"{jwt_server.url}?creds={creds}", connect_timeout_s=30)


async def test_the_seed_of_an_nkey_opens_a_server_that_knows_its_public_key(tmp_path: Path) -> None:
    key = Key()
    server = PlainServer(tmp_path / "server", f"authorization {{ users: [ {{ nkey: {key.public} }} ] }}")
    await server.start()
    seed = tmp_path / "seed"
    seed.write_bytes(key.seed + b"\n")
    await works_and_comes_back(server, f"{server.url}?nkey={seed}")
    other = tmp_path / "other"
    other.write_bytes(Key().seed)
    with pytest.raises(BrokerUnreachableError, match="authorization failed"):
        await connect(f"{server.url}?nkey={other}")
    await server.stop()


async def test_an_nkey_is_used_also_where_the_server_has_a_user_for_those_without(tmp_path: Path) -> None:
    key = Key()
    users = f"{{ nkey: {key.public} }}, {{ user: guest, password: guest, permissions: {{ publish: nothing }} }}"
    server = PlainServer(tmp_path / "server", f"accounts {{ A {{ users: [ {users} ] }} }}\nno_auth_user: guest\n")
    await server.start()
    seed = tmp_path / "seed"
    seed.write_bytes(key.seed)
    await works_and_comes_back(server, f"{server.url}?nkey={seed}")
    await server.stop()


@pytest.mark.parametrize("option", ["creds", "nkey"])
@pytest.mark.parametrize("content", [None, b"", b"\xff\x00", b"SUSECRETSECRET", b"-----BEGIN NATS USER JWT-----\n"])
async def test_a_file_that_holds_no_key_is_named_and_not_shown(
    tmp_path: Path, option: str, content: bytes | None
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    async with asyncio.timeout(AT_ONCE_S):
        with pytest.raises(BrokerError, match="is not there" if content is None else "is not ") as caught:
            await connect(f"nats://127.0.0.1:1?{option}={path}")
    assert str(path) in str(caught.value)
    assert "SECRET" not in str(caught.value)


async def test_a_file_that_breaks_later_is_said_and_read_again(
    jwt_server: PlainServer, operator: Operator, tmp_path: Path
) -> None:
    creds = operator.write_creds(tmp_path / "me.creds")
    good = creds.read_bytes()
    broker = await connect(f"{jwt_server.url}?creds={creds}")
    creds.write_bytes(b"")
    await jwt_server.stop()
    await jwt_server.start()
    await eventually(lambda: not broker.connected)
    creds.write_bytes(good)
    await eventually(lambda: broker.connected)
    await broker.close()
