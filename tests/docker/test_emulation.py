"""`understudy emulate` from end to end: containers are started, broken, judged and removed."""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

RUN_S = 300.0
STEP_S = 240.0
LABEL = "label=understudy.emulation"

# Built once, before the first of them: it may take minutes, which are not theirs.
pytestmark = pytest.mark.usefixtures("image")


class Emulation:
    """The command, running. Its temporary files are in `folder`."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "understudy", "emulate", "--json", *arguments],
            env={**os.environ, "TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.said = b""

    def until(self, words: str) -> None:
        """Read what it says on stderr until these words."""
        assert self.process.stderr is not None
        deadline = time.monotonic() + STEP_S
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stderr, selectors.EVENT_READ)
            while words.encode() not in self.said:
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                piece = os.read(self.process.stderr.fileno(), 65536) if ready else b""
                assert piece, f"never said {words!r}, but: {self.said.decode()}"
                self.said += piece

    def end(self) -> tuple[int, bytes]:
        out, err = self.process.communicate(timeout=RUN_S)
        self.said += err
        return self.process.returncode, out

    @property
    def name(self) -> str:
        """Of its Compose project; others may run beside it."""
        [name] = re.findall(r"starting (understudy-\w+):", self.said.decode())
        return str(name)

    def things(self) -> list[str]:
        """Its containers, networks and volumes."""
        containers = docker("ps", "-a", "--filter", f"{LABEL}={self.name}", "--format", "{{.Names}}").split()
        networks = docker("network", "ls", "--format", "{{.Name}}").split()
        volumes = docker("volume", "ls", "-q").split()
        return [*containers, *(name for name in networks + volumes if name.startswith(self.name))]

    def passwords(self) -> set[str]:
        """Of everybody, as the broker's configuration has them."""
        [config] = self.folder.glob("*/*/hub/nats.conf")
        assert config.stat().st_mode & 0o077 == 0
        return set(re.findall(r'password: "([^"]+)"', config.read_text()))


@contextmanager
def emulation(folder: Path, *arguments: str) -> Iterator[Emulation]:
    running = Emulation(folder, *arguments)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.send_signal(signal.SIGINT)
            running.end()
    assert running.things() == []


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, check=True, timeout=60, text=True).stdout


@pytest.mark.timeout(RUN_S + STEP_S)
def test_five_nodes_answer_every_frame_rightly_while_one_crashes_one_hangs_and_one_is_cut_off(tmp_path: Path) -> None:
    with emulation(tmp_path, "--nodes", "5", "--bandwidth", "50mbit", "--fault", "three") as running:
        running.until("ready after")
        passwords = running.passwords()
        names = docker("ps", "--filter", f"{LABEL}={running.name}", "--format", "{{.Names}}").split()
        shown = docker("inspect", *names)
        code, out = running.end()
    document = json.loads(out)
    assert document["kept"], f"{json.dumps(document, indent=1)}\n{running.said.decode()}"
    assert (code, document["lost"], document["answered_twice"], document["wrong"]) == (0, 0, 0, 0)
    assert document["answered"] == document["published"] > 100
    done = [fault["action"] for fault in document["faults"]]
    assert done == ["kill", "start", "pause", "resume", "cut", "join"]
    assert document["notes"] == []
    assert len(passwords) > 7
    assert not [password for password in passwords if password in shown + running.said.decode()]
    assert list(tmp_path.glob("understudy-emulation-*")) == []


@pytest.mark.timeout(RUN_S + STEP_S)
def test_ctrl_c_removes_everything(tmp_path: Path) -> None:
    with emulation(tmp_path, "--nodes", "2", "--topology", "star", "--seconds", "600") as running:
        running.until("ready after")
        assert running.things()
        running.process.send_signal(signal.SIGINT)
        code, out = running.end()
    assert (code, out) == (130, b"")
    assert running.things() == []


@pytest.mark.timeout(RUN_S + STEP_S)
def test_links_are_as_slow_as_they_are_said_to_be(tmp_path: Path) -> None:
    """The kernel counts what it holds back: in each container a bucket of the link's rate for every receiver."""
    with emulation(tmp_path, "--nodes", "2", "--bandwidth", "10mbit", "--seconds", "600") as running:
        running.until("ready after")
        queues = json.loads(docker("exec", "-u", "0", f"{running.name}-node1", "tc", "-j", "qdisc"))
        buckets = [queue["options"]["rate"] for queue in queues if queue["kind"] == "tbf"]
        assert buckets == [1_250_000, 1_250_000]  # to the hub, and to the other node
        running.process.send_signal(signal.SIGINT)
        running.end()


@pytest.mark.timeout(RUN_S + STEP_S)
def test_without_the_right_to_shape_links_a_container_says_so_and_ends(image: str, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    written = Emulation(tmp_path, "--nodes", "2", "--write", str(folder))
    assert written.end()[0] == 0
    done = subprocess.run(
        [
            "docker",
            "run",
            "--rm",
            "--cap-drop",
            "NET_ADMIN",
            "-v",
            f"{folder}/node1:/run/member:ro",
            image,
        ],
        capture_output=True,
        timeout=60,
        check=False,
        text=True,
    )
    assert done.returncode == 78
    assert "links cannot be shaped here (the container needs cap_add: NET_ADMIN" in done.stderr
