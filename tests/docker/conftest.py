"""Everything here needs a Docker engine, and is skipped with the reason where none answers."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from understudy.emulation.engine import build, check_engine
from understudy.emulation.errors import EmulationError
from understudy.emulation.preparation import sources_folder
from understudy.emulation.project import IMAGE

HERE = Path(__file__).parent

# Its image cannot be pulled everywhere, and what it does the tests do: they remove their containers.
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.docker)


@pytest.fixture(scope="session", autouse=True)
def engine() -> str:
    """Its version."""
    try:
        return asyncio.run(check_engine())
    except EmulationError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def image(engine: str) -> str:
    """That of the emulation, as it is now."""
    sources = sources_folder()
    assert sources is not None
    asyncio.run(build(sources, IMAGE))
    return IMAGE
