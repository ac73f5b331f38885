"""`recovery:` of the configuration file: what it means, and what its mistakes are answered with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recovery.decide import Policy
from recovery.objectives import Objectives, Weights
from recovery.options import ANY_TECHNIQUE
from understudy.config import make_config
from understudy.objectives import RecoveryConfig, read_recovery
from understudy.quantities import ConfigError
from understudy.settings import read_settings

WISHES = {
    "min_accuracy": 0.8,
    "max_latency": "200ms",
    "max_downtime": "1s",
    "weights": {"accuracy": 1, "latency": 0, "downtime": 2.5},
    "techniques": ["standby", "exit"],
    "spare_memory": "64MB",
    "standby_head": False,
}


def test_nothing_at_all_are_the_defaults_of_recovery() -> None:
    assert read_recovery(None) == RecoveryConfig() == make_config({}, "x").recovery
    assert RecoveryConfig().policy(expected_nodes=3) == Policy(expected_nodes=3)
    assert RecoveryConfig().objectives() == Objectives(techniques=ANY_TECHNIQUE)


def test_each_key_says_what_its_name_says() -> None:
    policy = make_config({"recovery": WISHES}, "x").recovery.policy(expected_nodes=2)
    assert policy.objectives == Objectives(
        min_accuracy=0.8,
        max_latency_s=0.2,
        max_downtime_s=1.0,
        weights=Weights(accuracy=1, latency=0, downtime=2.5),
        techniques=frozenset({"none", "standby", "exit"}),
    )
    assert (policy.spare_memory_bytes, policy.standby_head) == (64_000_000, False)


def test_codecs_may_cost_no_accuracy_unless_the_user_says_so() -> None:
    assert RecoveryConfig().objectives().max_codec_loss == 0
    assert make_config({"recovery": {"max_codec_loss": 0.005}}, "x").recovery.objectives().max_codec_loss == 0.005


def test_no_spares_are_written_as_0_and_only_frames_that_wait_as_no_technique() -> None:
    config = make_config({"recovery": {"spare_memory": 0, "techniques": []}}, "x").recovery
    assert config.policy(expected_nodes=1).spare_memory_bytes == 0
    assert config.objectives().techniques == {"none"}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"min_accuracy": 80}, "min_accuracy"),
        ({"min_accuracy": "high"}, "min_accuracy"),
        ({"max_latency": 200}, "max_latency"),
        ({"max_latency": "0ms"}, "max_latency"),
        ({"max_downtime": "-1s"}, "max_downtime"),
        ({"weights": {"accuracy": -1}}, "accuracy"),
        ({"weights": {"accuracy": float("inf")}}, "accuracy"),
        ({"weights": {"speed": 1}}, "speed"),
        ({"weights": {"accuracy": 0, "latency": 0, "downtime": 0}}, "weights are 0"),
        ({"weights": 3}, "weights"),
        ({"techniques": ["magic"]}, "magic"),
        ({"techniques": "exit"}, "techniques"),
        ({"max_codec_loss": 1.5}, "max_codec_loss"),
        ({"max_codec_loss": -0.1}, "max_codec_loss"),
        ({"spare_memory": "lots"}, "spare_memory"),
        ({"spare_memory": -1}, "spare_memory"),
        ({"standby_head": "maybe"}, "standby_head"),
        ({"min_acuracy": 0.8}, "min_acuracy"),
    ],
    ids=str,
)
def test_a_mistake_is_refused_and_named_in_the_file_and_on_the_command_line(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        make_config({"recovery": wrong}, "x")
    with pytest.raises(ConfigError, match=named):
        read_recovery(json.dumps(wrong))


@pytest.mark.parametrize("raw", [{}, WISHES, {"max_latency": "1.5s"}, {"spare_memory": 12}], ids=str)
def test_what_up_hands_to_its_controller_means_the_same_there(raw: dict[str, Any]) -> None:
    config = make_config({"recovery": raw}, "x").recovery
    assert read_recovery(config.model_dump_json(exclude_unset=True)) == config


def test_the_command_line_takes_a_file_too(tmp_path: Path) -> None:
    file = tmp_path / "recovery.yaml"
    file.write_text("min_accuracy: 0.8\nmax_latency: 200ms\n")
    assert read_recovery(str(file)) == RecoveryConfig.model_validate({"min_accuracy": 0.8, "max_latency": "200ms"})


@pytest.mark.parametrize("text", ["{", "{]", "no such file.yaml"])
def test_what_is_neither_json_nor_a_file_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(ConfigError):
        read_recovery(text)


def test_a_file_that_is_no_mapping_is_refused_with_an_example(tmp_path: Path) -> None:
    file = tmp_path / "recovery.yaml"
    file.write_text("- min_accuracy\n")
    with pytest.raises(ConfigError, match=r"min_accuracy: 0\.8"):
        read_recovery(str(file))


def test_the_system_account_comes_from_the_file_or_from_the_environment() -> None:
    url = "nats://system:secret@h:4222"
    assert make_config({}, "x").system_broker is None
    assert make_config({"system_broker": url}, "x").system_broker == url
    assert read_settings({}).system_broker is None
    assert read_settings({"UNDERSTUDY_SYSTEM_BROKER": url}).system_broker == url
    assert read_settings({"UNDERSTUDY_SYSTEM_BROKER": ""}).system_broker is None
