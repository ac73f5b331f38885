"""Why there is no plan: which memory, or which link, and how much is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from planner.chain import Chain
from planner.cluster import Cluster, NodeSpec
from planner.plan import GaveUpError
from planner.problem import make_problem
from planner.search import Search

Fits = Callable[[Cluster], bool]
"""Whether a plan exists on a cluster. Raises GaveUpError where the time is over."""


def explain(
    chain: Chain, cluster: Cluster, stages: int | None, *, deadline_s: float, clock: Callable[[], float]
) -> str:
    """A sentence for people. What stands in the way is looked for in this order: the number of stages, a block that
    fits no node, the memory of the nodes in pieces, the payload limit, the links."""

    def fits(changed: Cluster) -> bool:
        search = Search(make_problem(chain, changed), stages=stages, deadline_s=deadline_s, clock=clock)
        return search.least_bottleneck() is not None

    reason = _stages(chain, cluster, stages) or _block(chain, cluster)
    if reason:
        return reason
    try:
        unlinked = _without_links(cluster)
        if not fits(unlinked):
            return _memory(chain, unlinked, stages, fits)
        return _links(chain, cluster, fits)
    except GaveUpError:
        return (
            f"no plan fits '{chain.name}' on these {len(cluster.nodes)} node(s); why was not found in the time allowed"
        )


def _stages(chain: Chain, cluster: Cluster, stages: int | None) -> str:
    if stages is None or 1 <= stages <= min(len(cluster.nodes), chain.blocks):
        return ""
    if stages < 1:
        return f"{stages} stages were asked for: at least 1 is needed"
    if stages > len(cluster.nodes):
        return f"{stages} stages need {stages} nodes, and there are {len(cluster.nodes)}"
    hint = "it has no cut" if chain.blocks == 1 else f"it can be cut into at most {chain.blocks}"
    return f"{stages} stages were asked for, but model '{chain.name}' has {chain.blocks} block(s): {hint}"


def _block(chain: Chain, cluster: Cluster) -> str:
    """The block that needs most, where it fits no node."""
    largest = max(cluster.nodes, key=_limit)
    needs = [chain.stage_memory_bytes(block, block + 1) for block in range(chain.blocks)]
    block = int(np.argmax(needs))
    if largest.holds(needs[block]):
        return ""
    return (
        f"block {block} of '{chain.name}' needs {needs[block]} bytes, and the largest node ({largest.name}) offers "
        f"{largest.memory_bytes}: {needs[block] - (largest.memory_bytes or 0)} bytes are missing"
    )


def _memory(chain: Chain, cluster: Cluster, stages: int | None, fits: Fits) -> str:
    """How much more memory, on each node that has a limit, would do."""
    whole = chain.stage_memory_bytes(0, chain.blocks)
    short, enough = 0, whole
    wanted = f" in exactly {stages} stages" if stages is not None else ""
    text = f"no split of '{chain.name}'{wanted} fits the memory of the {len(cluster.nodes)} node(s)"
    if not fits(_with_more(cluster, enough)):
        return f"{text}, however much memory they had"
    while enough - short > 1:
        middle = (short + enough) // 2
        if fits(_with_more(cluster, middle)):
            enough = middle
        else:
            short = middle
    return (
        f"{text}: it needs {whole} bytes in one piece, and {enough} bytes are missing on each node with a limit: "
        f"add memory, or nodes"
    )


def _links(chain: Chain, cluster: Cluster, fits: Fits) -> str:
    limit = cluster.max_payload_bytes
    if limit is not None and not cluster.chunked and fits(replace(cluster, max_payload_bytes=None)):
        return (
            f"every split of '{chain.name}' that fits the nodes' memory sends an activation larger than the broker's "
            f"limit of {limit} bytes: raise max_payload, or use nodes with more memory"
        )
    return (
        f"'{chain.name}' fits the nodes' memory, but no path of links with a bandwidth above 0 joins the nodes that it "
        f"takes, the source and the sink: check the bandwidths of 0"
    )


def _limit(node: NodeSpec) -> float:
    return float("inf") if node.memory_bytes is None else node.memory_bytes


def _with_more(cluster: Cluster, size_bytes: int) -> Cluster:
    """The cluster with so much more memory on each node that has a limit."""
    nodes = tuple(
        node if node.memory_bytes is None else replace(node, memory_bytes=node.memory_bytes + size_bytes)
        for node in cluster.nodes
    )
    return replace(cluster, nodes=nodes)


def _without_links(cluster: Cluster) -> Cluster:
    """The same nodes, with links and speeds that do not count."""
    return Cluster(nodes=tuple(replace(node, flops_per_s=None) for node in cluster.nodes))
