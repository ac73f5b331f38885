"""One pipeline, started as a user starts it, that most tests share; and a shell for those that start their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.harness import Shell, Up
from tests.integration.stranger import Stranger, stranger
from understudy.data import digits_bundle, digits_frames

if TYPE_CHECKING:
    from tests.integration.test_roles import Cluster


@dataclass(frozen=True, slots=True)
class Digits:
    """The held-out digits as PNG files, and what they show."""

    frames: list[bytes]
    labels: list[int]
    bundle: Path


@pytest.fixture(scope="session")
def digits() -> Digits:
    frames, labels = digits_frames()
    folder = digits_bundle().folder
    assert folder is not None
    return Digits(frames, labels, folder)


@pytest.fixture(scope="session")
def shared_shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """The shell in which the shared pipeline runs."""
    return Shell(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="session")
def pipeline(shared_shell: Shell) -> Iterator[Up]:
    """`understudy up --nodes 4`, shared by all tests that do not break it."""
    with shared_shell.up("--nodes", "4") as running:
        yield running


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "shell")


@pytest.fixture
async def cluster(shell: Shell) -> AsyncIterator[Cluster]:
    """A nats-server; roles are added by the test, and end with it."""
    from tests.integration.flow import open_cluster  # it imports this file

    async with open_cluster(shell) as cluster:
        yield cluster


@pytest.fixture
async def client_of_its_own(pipeline: Up) -> AsyncIterator[Stranger]:
    """Somebody with nats-py and the protocol, connected to the shared pipeline."""
    async with stranger(pipeline.url, pipeline.pipeline) as own:
        yield own
