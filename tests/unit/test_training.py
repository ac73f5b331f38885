"""Training histories: what a run leaves behind, and that it goes on where it was stopped. Needs torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="pip install 'understudy[train]'")

import torch

from bench.continuer.histories import History
from bench.continuer.training.networks import Network, Shape
from bench.continuer.training.trainer import Data, Run, Trainer, plan
from bench.continuer.training.variants import measure

# More threads than free cores wait for each other most of the time.
torch.set_num_threads(1)


def run(family: str = "resnet", per_epoch: int = 2) -> Run:
    shape = Shape(family=family, depth=1, width=4, pixels=8)  # type: ignore[arg-type]
    return Run(shape=shape, learning_rate=0.05, batch_size=16, optimiser="sgd", epochs=2, per_epoch=per_epoch, seed=3)


@pytest.fixture(scope="module")
def data() -> Data:
    random = torch.Generator().manual_seed(0)
    images, labels = torch.randn(96, 3, 8, 8, generator=random), torch.randint(0, 10, (96,), generator=random)
    return Data(train=images[:64], train_labels=labels[:64], test=images[64:], test_labels=labels[64:])


@pytest.mark.parametrize("family", ["resnet", "mobilenetv2"])
def test_every_variant_of_a_network_is_measured(family: str, data: Data) -> None:
    torch.manual_seed(0)
    network = Network(run(family).shape)
    before = [weights.copy() for weights in network.weights()]
    found = measure(network, data.test, data.test_labels)
    assert {variant.technique for variant, _ in found} == {"none", "exit", "skip", "int8", "int4"}
    layers = len(before)
    assert all(0 <= variant.first_layer <= variant.end_layer <= layers for variant, _ in found)
    assert all(0 <= accuracy <= 1 for _, accuracy in found)
    assert all(np.array_equal(one, other) for one, other in zip(before, network.weights(), strict=True))


def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path, data: Data) -> None:
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = Trainer(run(), data, tmp_path / "whole", "cpu")
    while whole.made < whole.checkpoints:
        whole.step()
    for _ in range(whole.checkpoints):
        Trainer(run(), data, tmp_path / "stopped", "cpu").step()
    names = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("whole", "stopped")]
    assert names == [[f"{run().name}.npz"]] * 2
    one, other = (History.load(tmp_path / name / f"{run().name}.npz") for name in ("whole", "stopped"))
    assert one.epochs == other.epochs == [0.5, 1.0, 1.5, 2.0]
    assert np.allclose(one.statistics, other.statistics, atol=1e-5)
    assert np.allclose(one.accuracies, other.accuracies)


def test_a_finished_run_is_passed_over(tmp_path: Path, data: Data) -> None:
    short = run(per_epoch=1)
    trainer = Trainer(short, data, tmp_path, "cpu")
    while trainer.made < trainer.checkpoints:
        trainer.step()
    again = Trainer(short, data, tmp_path, "cpu")
    assert again.made == again.checkpoints == 2


def test_runs_have_names_of_their_own_and_both_families() -> None:
    for small in (True, False):
        runs = plan(small)
        assert len({one.name for one in runs}) == len(runs) == len(plan(small))
        assert {one.shape.family for one in runs[:6]} == {"resnet", "mobilenetv2"}
