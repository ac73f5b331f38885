"""`understudy up --tls-cert`: the embedded broker speaks TLS alone, and what is wrong with its files is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

import understudy
from broker.connect import connect
from broker.errors import BrokerUnreachableError
from tests.contract.authority import Authority
from tests.integration.conftest import Digits
from tests.integration.harness import Outcome, Shell


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "an authority, its own", name="localhost")


def options(authority: Authority) -> tuple[str, ...]:
    files = ("--tls-cert", str(authority.folder / "server.pem"), "--tls-key", str(authority.folder / "server.key"))
    return ("--host", "localhost", *files, "--tls-ca", str(authority.ca))


def trusting(authority: Authority) -> str:
    return f"?ca={authority.ca}".replace(",", "%2C")


@pytest.mark.parametrize("servers", ["1", "2"])
async def test_the_pipeline_its_commands_and_its_clients_speak_tls_alone(
    shell: Shell, digits: Digits, authority: Authority, servers: str
) -> None:
    image = shell.folder / "seven.png"
    image.write_bytes(digits.frames[digits.labels.index(7)])
    with shell.up("--nodes", "2", "--servers", servers, *options(authority)) as up:
        assert up.url.startswith("tls://localhost:")
        # Commands on this machine find out by themselves whom to trust; others are told.
        for arguments in (("status",), ("measure", "--seconds", "0.05"), ("events",)):
            outcome = shell.run(*arguments)
            assert outcome.code == 0, outcome.err
        published = shell.run("publish", "digits", str(image), "--json")
        assert '"class_index":7' in published.out.replace(" ", ""), published.err
        async with understudy.connect(up.url + trusting(authority), "digits") as client:
            assert (await client.infer(digits.frames[3])).class_index == digits.labels[3]
        with pytest.raises(BrokerUnreachableError, match=r"not trusted here: add \?ca=FILE"):
            await connect(up.url)
        with pytest.raises(BrokerUnreachableError, match="tls://"):
            await connect(up.url.replace("tls://", "nats://"))
    assert shell.left_behind() == []


async def test_mqtt_clients_of_the_embedded_broker_speak_tls_too(shell: Shell, authority: Authority) -> None:
    with shell.up("--nodes", "1", "--mqtt-port", "0", *options(authority)) as up:
        url = up.document["mqtt"]
        assert url.startswith("mqtts://localhost:")
        await (await connect(url + trusting(authority))).close()
        # As a command: paho leaves a socket whose handshake failed to the garbage collector.
        careful = shell.run("status", UNDERSTUDY_BROKER=url)
        assert careful.code == 2
        assert "not trusted here: add ?ca=FILE" in careful.err
        with pytest.raises(BrokerUnreachableError):
            await connect(url.replace("mqtts://", "mqtt://"), connect_timeout_s=0.3)


def refused(shell: Shell, *arguments: str) -> Outcome:
    outcome = shell.run("up", "--nodes", "1", *arguments)
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    assert shell.left_behind() == []
    return outcome


@pytest.mark.parametrize(
    ("cert", "key", "why"),
    [
        ("nothing.pem", "server.key", "the certificate {folder}/nothing.pem is not there"),
        ("server.pem", "nothing.key", "the key {folder}/nothing.key is not there"),
        ("server.pem", ".", "the key {folder} cannot be read: Is a directory"),
        ("server.pem", "client.key", "client.key does not belong to the certificate"),
        ("text.pem", "server.key", "hold no certificate and key in PEM form"),
        ("server.pem", "locked.key", "locked.key is encrypted"),
    ],
)
def test_what_is_wrong_with_the_files_is_said(
    shell: Shell, authority: Authority, cert: str, key: str, why: str
) -> None:
    (authority.folder / "text.pem").write_text("no certificate")
    clear = serialization.load_pem_private_key((authority.folder / "server.key").read_bytes(), None)
    locked = clear.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )
    (authority.folder / "locked.key").write_bytes(locked)
    said = refused(shell, "--tls-cert", str(authority.folder / cert), "--tls-key", str(authority.folder / key)).err
    assert why.format(folder=authority.folder) in said


def test_a_certificate_that_nobody_would_take_is_said(shell: Shell, authority: Authority) -> None:
    host, name, *files = options(authority)
    unknown = refused(shell, host, name, *files[:-2]).err
    assert "not trusted here" in unknown
    assert "--tls-ca" in unknown
    misnamed = refused(shell, *files).err
    assert "not for this host name" in misnamed
    assert "--host, now 127.0.0.1" in misnamed


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every file")
def test_a_key_of_somebody_else_is_said(shell: Shell, authority: Authority) -> None:
    key = authority.folder / "server.key"
    key.chmod(0)
    outcome = refused(shell, *options(authority))
    assert f"the key {key} cannot be read: Permission denied" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--host", "0.0.0.0"), "is reached from other machines: give tls_cert and tls_key"),  # noqa: S104
        (("--tls-cert", "x.pem"), "both, or none"),
        (("--tls-ca", "x.pem"), "give tls_cert and tls_key too"),
        (("--broker", "tls://there", "--tls-cert", "x.pem", "--tls-key", "x.key"), "for the embedded broker"),
    ],
    ids=["a host without TLS", "no key", "no certificate", "another broker"],
)
def test_what_does_not_go_together_is_said(shell: Shell, arguments: tuple[str, ...], why: str) -> None:
    assert why in refused(shell, *arguments).err


def test_the_files_may_stand_in_the_configuration(shell: Shell, authority: Authority) -> None:
    config = authority.folder / "up.yaml"
    config.write_text(
        "nodes: 1\nhost: localhost\ntls_cert: server.pem\ntls_key: server.key\ntls_ca: ca.pem\nstart_timeout: 1min\n"
    )
    with shell.up("--config", str(config)) as up:
        assert up.url.startswith("tls://localhost:")
