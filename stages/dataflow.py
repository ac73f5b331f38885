"""Who makes and who reads each tensor of an ONNX graph: canonical node order, static nodes, crossing tensors.

A *static* node depends on initializers only (weights built by ConstantOfShape, Constant nodes, transposed weights):
its results never travel, they are computed again in every sub-model that reads them. All other nodes are *dynamic*;
they are numbered 0..n-1 in canonical order, and boundary p lies between the dynamic nodes p and p + 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import accumulate
from typing import TYPE_CHECKING

from stages.errors import ModelError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

# Without an input yet different at each run: not static.
RANDOM_OPS = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataflow:
    """The tensors of one graph and the nodes that make and read them.

    Attributes:
        nodes: every node of the graph in canonical order: the file's order, sorted where the file is not.
        reads: per node, the outer tensors that it reads, those that the bodies of If, Loop and Scan capture included.
        inputs: the real inputs, in the file's order (an initializer that is listed as an input is not one).
        outputs: the graph outputs, in the file's order.
        initializers: names of all initializers, sparse ones included.
        static_makers: static tensor made by a node -> index of that node.
        dynamic: indices into `nodes` of the dynamic nodes that some output depends on.
        made: dynamic tensor -> the dynamic position that makes it, -1 for an input; inputs first, then in order.
        last_read: dynamic tensor -> the last dynamic position that reads it; absent if nothing does.
    """

    nodes: tuple[NodeProto, ...]
    reads: tuple[tuple[str, ...], ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    initializers: frozenset[str]
    static_makers: Mapping[str, int]
    dynamic: tuple[int, ...]
    made: Mapping[str, int]
    last_read: Mapping[str, int]

    @classmethod
    def of(cls, model: ModelProto) -> Dataflow:
        """Reads the graph of `model`, which stays as it is. Raises ModelError if its nodes form a cycle."""
        graph = model.graph
        initializers = _initializer_names(graph)
        inputs = tuple(value.name for value in graph.input if value.name not in initializers)
        outputs = tuple(value.name for value in graph.output)
        nodes = _sorted_nodes(graph.node, {*inputs, *initializers})
        reads = tuple(tuple(dict.fromkeys(_node_reads(node))) for node in nodes)
        makers: dict[str, int] = {}
        moving = []
        for index, node in enumerate(nodes):
            if _is_random(node) or any(name not in makers and name not in initializers for name in reads[index]):
                moving.append(index)
            else:
                makers.update({name: index for name in node.output if name})
        dynamic = _needed(nodes, reads, moving, outputs)
        made = dict.fromkeys(inputs, -1)
        last_read: dict[str, int] = {}
        for position, index in enumerate(dynamic):
            last_read.update({name: position for name in reads[index] if name in made})
            made.update({name: position for name in nodes[index].output if name})
        return cls(
            nodes=nodes,
            reads=reads,
            inputs=inputs,
            outputs=outputs,
            initializers=initializers,
            static_makers=makers,
            dynamic=dynamic,
            made=made,
            last_read=last_read,
        )

    def is_static(self, name: str) -> bool:
        return name in self.initializers or name in self.static_makers

    def node_at(self, position: int) -> NodeProto:
        """The dynamic node at a position 0..n-1."""
        return self.nodes[self.dynamic[position]]

    def reads_at(self, position: int) -> tuple[str, ...]:
        return self.reads[self.dynamic[position]]

    def crossing(self, boundary: int) -> tuple[str, ...]:
        """The tensors that exist after dynamic node `boundary` and are read later or are graph outputs.

        -1 is the start of the model (its inputs) and n - 1 the end (its outputs, a static one included).
        """
        if boundary < 0:
            return self.inputs
        if boundary >= len(self.dynamic) - 1:
            return self.outputs
        kept = set(self.outputs)
        return tuple(
            name
            for name, position in self.made.items()
            if position <= boundary and (name in kept or self.last_read.get(name, -1) > boundary)
        )

    def spans(self) -> list[tuple[int, int]]:
        """Per tensor that is read after some boundary the boundaries [first, end) that it crosses to get there.

        A graph output that is already made and not read again has none: it crosses all later boundaries alike.
        """
        spans = ((max(made, 0), self.last_read.get(name, -1)) for name, made in self.made.items())
        return [(first, end) for first, end in spans if first < end]

    def crossing_totals(self, weight: Mapping[str, int]) -> list[int]:
        """The sum of `weight` over all tensors that cross each of the n - 1 interior boundaries."""
        count = len(self.dynamic)
        steps = [0] * (count + 1)
        for name, position in self.made.items():
            first, end = max(position, 0), count if name in self.outputs else self.last_read.get(name, -1)
            if first < end:
                steps[first] += weight[name]
                steps[end] -= weight[name]
        return list(accumulate(steps))[: max(count - 1, 0)]

    def static_closure(self, names: Sequence[str]) -> tuple[set[int], set[str]]:
        """The static nodes (indices) and initializers (names) that the static tensors among `names` are made from."""
        nodes: set[int] = set()
        initializers: set[str] = set()
        waiting = [name for name in names if self.is_static(name)]
        while waiting:
            name = waiting.pop()
            if name in self.initializers:
                initializers.add(name)
            elif (index := self.static_makers[name]) not in nodes:
                nodes.add(index)
                waiting.extend(self.reads[index])
        return nodes, initializers


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The bodies that a node carries as attributes (If, Loop, Scan, SequenceMap)."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _initializer_names(graph: GraphProto) -> frozenset[str]:
    sparse = (tensor.values.name for tensor in graph.sparse_initializer)
    return frozenset((*(tensor.name for tensor in graph.initializer), *sparse))


def _node_reads(node: NodeProto) -> Iterator[str]:
    yield from (name for name in node.input if name)
    for body in subgraphs(node):
        local = {value.name for value in body.input} | _initializer_names(body)
        local.update(name for inner in body.node for name in inner.output)
        for inner in body.node:
            yield from (name for name in _node_reads(inner) if name not in local)
        yield from (value.name for value in body.output if value.name not in local)


def _is_random(node: NodeProto) -> bool:
    return node.op_type in RANDOM_OPS or any(_is_random(inner) for body in subgraphs(node) for inner in body.node)


def _sorted_nodes(nodes: Sequence[NodeProto], known: set[str]) -> tuple[NodeProto, ...]:
    """The nodes so that each comes after those it reads from; of those that are free the first in the file is next."""
    makers = {name: index for index, node in enumerate(nodes) for name in node.output if name and name not in known}
    # A name that nobody makes is the checker's business, which says it better than a cycle would.
    needs = [{makers[name] for name in _node_reads(node) if name in makers} for node in nodes]
    followers: dict[int, list[int]] = {}
    for index, makers_of in enumerate(needs):
        for maker in makers_of:
            followers.setdefault(maker, []).append(index)
    waiting = [len(makers_of) for makers_of in needs]
    free = [index for index, count in enumerate(waiting) if count == 0]
    order = []
    while free:
        index = heappop(free)
        order.append(nodes[index])
        for follower in followers.get(index, []):
            waiting[follower] -= 1
            if waiting[follower] == 0:
                heappush(free, follower)
    if len(order) < len(nodes):
        stuck = nodes[next(index for index, count in enumerate(waiting) if count)]
        raise ModelError(f"node '{stuck.name or stuck.op_type}' depends on its own result: export the model again")
    return tuple(order)


def _needed(
    nodes: Sequence[NodeProto], reads: Sequence[tuple[str, ...]], moving: Sequence[int], outputs: Sequence[str]
) -> tuple[int, ...]:
    """The nodes of `moving` that an output depends on: onnxruntime drops the others too."""
    wanted = set(outputs)
    kept = []
    for index in reversed(moving):
        if wanted.intersection(nodes[index].output):
            kept.append(index)
            wanted.update(reads[index])
    return tuple(reversed(kept))
