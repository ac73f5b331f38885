"""The direction of imports, and what is loaded only when it is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.data import REPOSITORY

HEAVY = {"numpy", "onnx", "onnxruntime", "PIL", "torch"}


def loaded_by(module: str) -> set[str]:
    """The top-level packages that a fresh process has loaded after importing `module`."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60
    )
    return set(result.stdout.split())


def test_the_packages_import_each_other_in_the_documented_direction_only() -> None:
    lint_imports = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run(
        [lint_imports, "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 broken" in result.stdout


@pytest.mark.parametrize("module", ["broker", "broker.connect", "broker.nats", "planner.plan"])
def test_the_broker_and_the_planner_load_no_numbers_and_no_networks(module: str) -> None:
    assert not loaded_by(module) & HEAVY


@pytest.mark.parametrize(
    "module", ["broker.wire", "planner.solve", "recovery.service", "understudy", "understudy.client"]
)
def test_a_client_and_a_controller_s_core_load_no_network_runtime(module: str) -> None:
    assert not loaded_by(module) & {"onnx", "onnxruntime", "PIL", "torch"}


def test_the_command_line_loads_onnx_and_its_runtime_only_when_a_command_needs_them() -> None:
    assert not loaded_by("understudy.cli.main") & {"onnx", "onnxruntime", "PIL", "torch"}


@pytest.mark.parametrize("module", ["broker", "broker.memory", "planner.plan"])
def test_a_leaf_package_can_be_imported_without_the_others(module: str) -> None:
    ours = {"broker", "planner", "stages", "recovery", "understudy"}
    assert loaded_by(module) & ours == {module.partition(".")[0]}
