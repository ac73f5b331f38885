"""`understudy emulate` where it cannot run: one line that says what to do. What it does is in tests/docker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml


def emulate(*arguments: str, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "understudy", "emulate", *arguments],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def fake_docker(folder: Path, script: str) -> str:
    """A PATH on which `docker` is this."""
    (folder / "docker").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "docker").chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def test_without_docker_it_says_so(tmp_path: Path) -> None:
    done = emulate(path=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "there is no docker here" in done.stderr


def test_without_an_engine_it_says_what_docker_said(tmp_path: Path) -> None:
    done = emulate(path=fake_docker(tmp_path, "echo 'Cannot connect to the Docker daemon' >&2; exit 1"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no Docker engine answers" in done.stderr
    assert "Cannot connect to the Docker daemon" in done.stderr


def test_without_compose_it_says_what_to_install(tmp_path: Path) -> None:
    done = emulate(path=fake_docker(tmp_path, '[ "$1" = version ] && echo 20.10 || exit 1'))
    assert done.returncode == 2
    assert "docker-compose-plugin" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--fault", "flood"), "there is no scenario 'flood'; there are: "),
        (("--bandwidth", "quick"), "'quick' is neither a rate such as 100mbit"),
        (("--memory", "much"), "--memory: 'much' is not a quantity"),
        (("--recovery", '{"techniques": ["prayer"]}'), "'prayer' is no technique: there are "),
        (("--mqtt", "--topology", "mesh"), "--mqtt is for a star"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_started(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parents[2]}:{os.environ.get('PYTHONPATH', '')}")
    done = emulate(*arguments, path=str(tmp_path))
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_project_is_written_for_compose_alone(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    wanted = ("--recovery", '{"max_codec_loss": 0.01}')
    done = emulate("--nodes", "3", "--topology", "star", "--bandwidth", "10mbit", *wanted, "--write", str(folder))
    assert done.returncode == 0, done.stderr
    assert f"docker compose -f {folder / 'compose.yaml'} up" in done.stdout
    services = yaml.safe_load((folder / "compose.yaml").read_text())["services"]
    assert services.keys() == {"hub", "controller", "node1", "node2", "node3"}
    assert (folder / "controller/bundle/manifest.json").exists()
    for path in folder.glob("*/member.json"):
        assert path.stat().st_mode & 0o777 == 0o600
        assert json.loads(path.read_text())["programs"]
    [controller] = json.loads((folder / "controller/member.json").read_text())["programs"]
    argv = controller["argv"]
    assert json.loads(argv[argv.index("--recovery") + 1]) == {"max_codec_loss": 0.01}
    again = emulate("--write", str(folder))
    assert again.returncode == 2
    assert "holds a project already" in again.stderr
