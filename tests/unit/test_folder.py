"""Temporary folders outlive a killed owner only until the next one comes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from broker.folder import TemporaryFolder, remove_stale

OWNER = """
import sys
from broker.folder import TemporaryFolder

folder = TemporaryFolder.make("understudy-test-")
print(folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made, here and in child processes."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def names(parent: Path) -> set[str]:
    return {path.name for path in parent.iterdir()}


def test_a_folder_is_for_this_user_alone_and_gone_when_it_is_removed(parent: Path) -> None:
    with TemporaryFolder.make("understudy-test-") as folder:
        assert folder.path.parent == parent
        assert folder.path.stat().st_mode & 0o777 == 0o700
        (folder.path / "file").touch()
    assert not folder.path.exists()
    folder.remove()


def test_a_folder_that_nobody_has_any_more_is_gone(parent: Path) -> None:
    TemporaryFolder.make("understudy-test-")
    assert names(parent) == set()


@pytest.mark.parametrize("killed", [True, False])
def test_the_folder_of_a_process_goes_with_it_or_when_the_next_one_is_made(parent: Path, killed: bool) -> None:
    argv = [sys.executable, "-c", OWNER]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        path = Path(owner.stdout.readline().strip())
        assert path.parent == parent
        with TemporaryFolder.make("understudy-test-"):
            assert path.exists()
        if killed:
            owner.kill()
        owner.communicate(timeout=20)
        assert path.exists() is killed
    with TemporaryFolder.make("understudy-test-") as mine:
        assert names(parent) == {mine.path.name}


def test_tidying_up_leaves_alone_what_is_not_ours(tmp_path: Path) -> None:
    unlocked, being_made, other = (tmp_path / name for name in ("understudy-test-1", "understudy-test-2", "else"))
    for folder in (unlocked, being_made, other):
        folder.mkdir()
    (unlocked / "lock").touch()
    (other / "lock").touch()
    (tmp_path / "understudy-test-link").symlink_to(other)
    remove_stale("understudy-test-", tmp_path)
    assert names(tmp_path) == {"else", "understudy-test-link", "understudy-test-2"}
