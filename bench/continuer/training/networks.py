"""ResNets and MobileNetV2s for CIFAR-10 as a row of blocks, with an exit after each, of any depth and width."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

CLASSES = 10

Family = Literal["resnet", "mobilenetv2"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Of a network.

    Attributes:
        depth: residual blocks in each of three groups; a group after the first begins with stride 2.
        width: channels of the first group; each next one has twice as many.
        pixels: side of the input.
    """

    family: Family
    depth: int
    width: int
    pixels: int

    @property
    def name(self) -> str:
        return f"{self.family}-{self.depth}x3-{self.width}-{self.pixels}px"


class Layer(nn.Module):  # type: ignore[misc]  # torch has no types here
    """A convolution with batch normalisation."""

    def __init__(self, into: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(into, out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out)

    def forward(self, x: Any) -> Any:
        return self.norm(self.conv(x))

    def folded(self) -> NDArray[np.float32]:
        """The weights as an exporter writes them: with batch normalisation in them."""
        scale = self.norm.weight / torch.sqrt(self.norm.running_var + self.norm.eps)
        folded: NDArray[np.float32] = (self.conv.weight * scale[:, None, None, None]).detach().cpu().numpy()
        return folded


class Residual(nn.Module):  # type: ignore[misc]
    """Two convolutions beside a shortcut without parameters (He et al. 2016, option A)."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(into, out, 3, stride), Layer(out, out, 3)])
        self.stride, self.more = stride, out - into

    def forward(self, x: Any) -> Any:
        shortcut = x[:, :, :: self.stride, :: self.stride]
        shortcut = F.pad(shortcut, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))
        return F.relu(self.layers[1](F.relu(self.layers[0](x))) + shortcut)


class Inverted(nn.Module):  # type: ignore[misc]
    """Widen, depth-wise, narrow (Sandler et al. 2018), with a shortcut where shapes match."""

    def __init__(self, into: int, out: int, stride: int, expansion: int = 4) -> None:
        super().__init__()
        wide = into * expansion
        self.layers = nn.ModuleList(
            [Layer(into, wide, 1), Layer(wide, wide, 3, stride, groups=wide), Layer(wide, out, 1)]
        )
        self.adds = stride == 1 and into == out

    def forward(self, x: Any) -> Any:
        y = self.layers[2](F.relu6(self.layers[1](F.relu6(self.layers[0](x)))))
        return x + y if self.adds else y


class Stem(nn.Module):  # type: ignore[misc]
    def __init__(self, out: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(3, out, 3)])

    def forward(self, x: Any) -> Any:
        return F.relu(self.layers[0](x))


class Answer(nn.Module):  # type: ignore[misc]
    """Mean of each channel and a dense layer: the head, and every exit."""

    def __init__(self, into: int) -> None:
        super().__init__()
        self.dense = nn.Linear(into, CLASSES)

    def forward(self, x: Any) -> Any:
        return self.dense(x.mean(dim=(2, 3)))


class Network(nn.Module):  # type: ignore[misc]
    """Blocks 0 (the stem) .. n - 1 and the head. `exits[i]` answers from what block i gives."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        block = Residual if shape.family == "resnet" else Inverted
        blocks: list[nn.Module] = [Stem(shape.width)]
        widths = [shape.width]
        for group in range(3):
            for index in range(shape.depth):
                out = shape.width << group
                blocks.append(block(widths[-1], out, 2 if group and not index else 1))
                widths.append(out)
        self.blocks = nn.ModuleList(blocks)
        self.exits = nn.ModuleList([Answer(width) for width in widths[:-1]])
        self.head = Answer(widths[-1])

    def forward(self, x: Any) -> list[Any]:
        """Logits of every exit, and at last the head's. Exits do not change the trunk: nothing flows back from them."""
        found = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index < len(self.exits):
                found.append(self.exits[index](x.detach()))
        return [*found, self.head(x)]

    def layers_of(self, block: int) -> list[Layer]:
        return list(self.blocks[block].layers)

    def weights(self) -> Iterator[NDArray[np.float32]]:
        """Of the trunk, in order, batch normalisation folded in."""
        for index in range(len(self.blocks)):
            yield from (layer.folded() for layer in self.layers_of(index))
        yield self.head.dense.weight.detach().cpu().numpy()

    def first_layers(self) -> list[int]:
        """How many layers are before each block, and before the head."""
        counts = [len(self.layers_of(index)) for index in range(len(self.blocks))]
        return [sum(counts[:index]) for index in range(len(counts) + 1)]
