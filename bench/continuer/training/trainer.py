"""Trains the networks of `bench.continuer.training`, checkpoint by checkpoint. Needs torch."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch.nn import functional as F  # noqa: N812 - its usual name

from bench.continuer.histories import History
from bench.continuer.training.networks import Family, Network, Shape
from bench.continuer.training.variants import measure
from bench.harness import INTERRUPTED
from bench.prepared import RESNET32, TEST, TRAIN, images
from bench.subjects import IMAGENET, MissingSubjectError, data_file
from stages.description import describe
from stages.fitting.activations import Sample
from stages.graph import ModelGraph
from stages.weights import statistics_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How one network is trained. `learning_rate`: the first; `per_epoch`: checkpoints."""

    shape: Shape
    learning_rate: float
    batch_size: int
    optimiser: str
    epochs: int
    per_epoch: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.shape.name}-{self.optimiser}-{self.learning_rate:g}-b{self.batch_size}-s{self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Normalised images (n, 3, p, p) and labels (n,), to train on and to measure on."""

    train: Any
    train_labels: Any
    test: Any
    test_labels: Any


def plan(small: bool) -> list[Run]:
    """Every shape with every optimiser, and of the rest a mixture that is always the same."""
    families: tuple[Family, ...] = ("resnet", "mobilenetv2")
    depths, widths, pixels = ((1, 2, 3), (8, 12), 16) if small else ((2, 3, 5, 7), (16, 24), 32)
    rates = {"sgd": (0.02, 0.05, 0.1), "adam": (0.001, 0.003)}
    mixture = random.Random(0)
    runs = [
        Run(
            shape=Shape(family=family, depth=depth, width=width, pixels=pixels),
            learning_rate=mixture.choice(rates[optimiser]),
            batch_size=mixture.choice((32, 64, 128)),
            optimiser=optimiser,
            epochs=6 if small else 40,
            per_epoch=2 if small else 1,
            seed=seed,
        )
        for seed, (family, depth, width, optimiser) in enumerate(product(families, depths, widths, ("sgd", "adam")))
    ]
    # So that whoever stops early has some of each.
    mixture.shuffle(runs)
    return runs


def load(small: bool, device: str) -> Data:
    """Raises MissingSubjectError where the images are not here."""
    graph = ModelGraph.load(data_file(RESNET32.file))
    draft = describe(graph, normalisation=IMAGENET)
    counts = (3000, 1000) if small else (50_000, 4000)
    loaded = []
    for name, count in zip((TRAIN, TEST), counts, strict=True):
        sample = Sample.of(images(graph, draft, name, count))
        pixels = torch.from_numpy(sample.inputs)
        loaded += [F.avg_pool2d(pixels, 2) if small else pixels, torch.from_numpy(sample.labels)]
    train, train_labels, test, test_labels = (item.to(device) for item in loaded)
    return Data(train=train, train_labels=train_labels, test=test, test_labels=test_labels)


class Trainer:
    """One run. Its history and its state are on disk after each checkpoint."""

    def __init__(self, run: Run, data: Data, folder: Path, device: str) -> None:
        self._run, self._data, self._device = run, data, device
        self._path, self._state = folder / f"{run.name}.npz", folder / f"{run.name}.pt"
        torch.manual_seed(run.seed)
        self._network = Network(run.shape).to(device)
        parameters = self._network.parameters()
        if run.optimiser == "sgd":
            self._optimiser: Any = torch.optim.SGD(
                parameters, lr=run.learning_rate, momentum=0.9, nesterov=True, weight_decay=5e-4
            )
        else:
            self._optimiser = torch.optim.Adam(parameters, lr=run.learning_rate)
        self._history: History | None = None
        if self._path.is_file() and (self.done or self._state.is_file()):
            self._resume()

    @property
    def checkpoints(self) -> int:
        return self._run.epochs * self._run.per_epoch

    @property
    def made(self) -> int:
        return len(self._history.epochs) if self._history is not None else 0

    @property
    def done(self) -> bool:
        return self._path.is_file() and len(History.load(self._path).epochs) >= self.checkpoints

    def step(self) -> None:
        """Train until the next checkpoint, and measure it."""
        run, data = self._run, self._data
        self._network.train()
        # Half a cosine from the first to the last checkpoint, in steps: what is resumed goes on with the same rate.
        rate = run.learning_rate * (1 + math.cos(math.pi * self.made / self.checkpoints)) / 2
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        generator = torch.Generator().manual_seed(1000 * run.seed + self.made)
        order = torch.randperm(len(data.train), generator=generator)[: len(data.train) // run.per_epoch]
        for batch in order.to(self._device).split(run.batch_size):
            if len(batch) == 1:
                continue  # batch normalisation needs two
            logits = self._network(_augmented(data.train[batch], generator))
            loss = sum(F.cross_entropy(answer, data.train_labels[batch]) for answer in logits)
            self._optimiser.zero_grad()
            loss.backward()
            self._optimiser.step()
        self._record()

    def _record(self) -> None:
        run = self._run
        found = measure(self._network, self._data.test, self._data.test_labels)
        weights = list(self._network.weights())
        if self._history is None:
            facts = {
                "name": run.name,
                "network": run.shape.name,
                "family": run.shape.family,
                "pixels": run.shape.pixels,
                "learning_rate": run.learning_rate,
                "batch_size": run.batch_size,
                "optimiser": run.optimiser,
                "images": len(self._data.train),
                "seed": run.seed,
            }
            self._history = History(
                facts=facts,
                parameters=np.array([one.size for one in weights], np.int64),
                variants=[variant for variant, _ in found],
            )
        self._history.epochs.append((self.made + 1) / run.per_epoch)
        self._history.statistics.append(np.stack([statistics_of(one) for one in weights]))
        self._history.accuracies.append(np.array([accuracy for _, accuracy in found]))
        # The state first: one that is ahead of its history would leave out a checkpoint, one behind repeats it.
        state = {"made": self.made, "network": self._network.state_dict(), "optimiser": self._optimiser.state_dict()}
        temporary = self._state.with_suffix(".part")
        torch.save(state, temporary)
        temporary.replace(self._state)
        self._history.save(self._path)
        if self.made >= self.checkpoints:
            self._state.unlink()

    def _resume(self) -> None:
        history = History.load(self._path)
        if not self._state.is_file():
            self._history = history
            return
        state = torch.load(self._state, map_location=self._device, weights_only=True)
        if state["made"] > len(history.epochs):
            return  # stopped between the two files: the run begins again
        self._history = history
        self._network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])


def _augmented(batch: Any, generator: Any) -> Any:
    """Half of the batches mirrored, all shifted by up to an eighth of the side."""
    side = batch.shape[-1]
    reach = side // 8
    dy, dx = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
    moved = torch.roll(F.pad(batch, (reach,) * 4), (dy, dx), (2, 3))[:, :, reach : reach + side, reach : reach + side]
    return moved.flip(3) if torch.rand(1, generator=generator) < 0.5 else moved


def train_all(folder: Path, *, small: bool, runs: int | None, threads: int, console: Console) -> int:
    """The exit code. What is there already is gone on with."""
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() and not small else "cpu"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        data = load(small, device)
    except MissingSubjectError as error:
        console.print(f"[red]{error}[/]")
        return 1
    chosen = plan(small)[:runs]
    try:
        with Progress(console=console) as progress:
            total = sum(run.epochs * run.per_epoch for run in chosen)
            bar = progress.add_task(f"checkpoints, on {device}", total=total)
            for run in chosen:
                trainer = Trainer(run, data, folder, device)
                progress.advance(bar, trainer.made)
                while trainer.made < trainer.checkpoints:
                    trainer.step()
                    progress.advance(bar)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        return INTERRUPTED
    return 0
