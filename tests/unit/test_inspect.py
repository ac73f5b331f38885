"""What `understudy inspect` prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import typer
from typer.testing import CliRunner

from stages.errors import ModelError
from tests import onnx_models
from understudy.cli.inspect import inspect, parse_shapes, summarise_ops
from understudy.cli.units import format_bytes, format_count

app = typer.Typer(rich_markup_mode=None)
app.command()(inspect)


@pytest.fixture
def resnet(tmp_path: Path) -> str:
    path = tmp_path / "small.onnx"
    onnx.save(onnx_models.resnet(), path)
    return str(path)


def test_json_describes_the_blocks_and_the_cuts_around_them(resnet: str) -> None:
    result = CliRunner().invoke(app, [resnet, "--json"])
    assert result.exit_code == 0
    found = json.loads(result.output)
    assert found["name"] == "small"
    assert found["inputs"] == [{"name": "image", "dtype": "float32", "shape": [None, 3, 8, 8]}]
    assert found["dynamic_batch"] is True
    assert len(found["cuts"]) == len(found["blocks"]) + 1 == 7
    assert found["cuts"][1]["bytes"] == 8 * 8 * 8 * 4
    assert found["blocks"][1]["ops"] == {"Conv": 2, "Relu": 2, "Add": 1}
    assert found["blocks"][1]["skippable"] is True
    assert found["totals"]["flops"] == sum(block["flops"] for block in found["blocks"])
    assert found["totals"]["skippable"] == 4


def test_the_table_has_a_line_per_block_with_what_it_sends(resnet: str) -> None:
    result = CliRunner().invoke(app, [resnet])
    assert result.exit_code == 0
    assert "6 blocks (4 skippable)" in result.output
    assert "batch open" in result.output
    lines = result.output.splitlines()
    block = next(line for line in lines if line.lstrip().startswith("1 "))
    assert "Conv 2, Relu 2, Add" in block
    assert "2.00 KiB" in block
    assert "?x8x8x8" in block
    assert "yes" in block


def test_a_shape_that_is_given_fills_the_open_dimensions(tmp_path: Path) -> None:
    path = tmp_path / "transformer.onnx"
    onnx.save(onnx_models.transformer(1), path)
    result = CliRunner().invoke(app, [str(path), "--json", "--shape", "tokens=1,7,4"])
    assert json.loads(result.output)["cuts"][0]["bytes"] == 4 * (7 * 4 + 7)


@pytest.mark.parametrize("text", ["tokens", "=1,2", "tokens=", "tokens=1,b", "tokens=1;2"])
def test_a_shape_that_cannot_be_read_is_a_usage_error(resnet: str, text: str) -> None:
    result = CliRunner().invoke(app, [resnet, "--shape", text])
    assert result.exit_code == 2
    assert "NAME=1,3,224,224" in result.output


def test_a_name_in_a_shape_may_hold_an_equals_sign() -> None:
    assert parse_shapes(["a=b=1,2"]) == {"a=b": (1, 2)}


def test_a_missing_model_is_a_model_error_for_the_command_line_to_report() -> None:
    result = CliRunner().invoke(app, ["nowhere.onnx"])
    assert isinstance(result.exception, ModelError)


def test_importing_the_command_does_not_import_onnx() -> None:
    code = "import sys, understudy.cli.inspect; sys.exit('onnx' in sys.modules or 'onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_operators_are_summarised_with_the_most_frequent_first() -> None:
    assert summarise_ops({"Add": 1, "Relu": 2, "Conv": 2}) == "Conv 2, Relu 2, Add"


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (10240, "10.0 KiB"),
        (1024**2 - 1, "1.00 MiB"),
        (5e12, "4.55 TiB"),
    ],
)
def test_bytes_are_written_with_three_digits(size_bytes: float, text: str) -> None:
    assert format_bytes(size_bytes) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (999, "999"), (1000, "1.00 k"), (999_999, "1.00 M"), (8.218e9, "8.22 G")]
)
def test_counts_are_written_with_three_digits(count: float, text: str) -> None:
    assert format_count(count) == text
