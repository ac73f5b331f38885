"""Why there is no plan: which memory, or which link, and how much is missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from planner.chain import Chain
from planner.cluster import Cluster, NodeSpec
from planner.problem import make_problem
from planner.search import Search


def explain(chain: Chain, cluster: Cluster, stages: int | None) -> str:
    """A sentence for people. What stands in the way is looked for in this order: the number of stages, a block that
    fits no node, the memory of all nodes together, the links."""
    if stages is not None:
        if stages < 1:
            return f"{stages} stages were asked for: at least 1 is needed"
        if stages > len(cluster.nodes):
            return f"{stages} stages need {stages} nodes, and there are {len(cluster.nodes)}"
        if stages > chain.blocks:
            hint = "it has no cut" if chain.blocks == 1 else f"it can be cut into at most {chain.blocks}"
            return f"{stages} stages were asked for, but model '{chain.name}' has {chain.blocks} block(s): {hint}"
    largest = max(cluster.nodes, key=_memory)
    needs = [chain.stage_memory_bytes(block, block + 1) for block in range(chain.blocks)]
    block = int(np.argmax(needs))
    if not largest.holds(needs[block]):
        missing = needs[block] - (largest.memory_bytes or 0)
        return (
            f"block {block} of '{chain.name}' needs {needs[block]} bytes, and the largest node ({largest.name}) offers "
            f"{largest.memory_bytes}: {missing} bytes are missing"
        )
    if _fits_without_links(chain, cluster, stages):
        return _explain_links(chain, cluster)
    whole = chain.stage_memory_bytes(0, chain.blocks)
    offered = sum(node.memory_bytes or 0 for node in cluster.nodes)
    wanted = f" in exactly {stages} stages" if stages is not None else ""
    lack = f": {whole - offered} bytes are missing" if whole > offered else ""
    return (
        f"'{chain.name}' needs {whole} bytes in one piece, the {len(cluster.nodes)} node(s) offer {offered} together"
        f"{lack}, and no split{wanted} fits: add nodes, or memory"
    )


def _memory(node: NodeSpec) -> float:
    return float("inf") if node.memory_bytes is None else node.memory_bytes


def _fits_without_links(chain: Chain, cluster: Cluster, stages: int | None) -> bool:
    free = replace(
        cluster,
        topology="mesh",
        bandwidth_bytes_per_s=None,
        up_bytes_per_s=None,
        down_bytes_per_s=None,
        source_bytes_per_s=None,
        sink_bytes_per_s=None,
        max_payload_bytes=None,
    )
    search = Search(make_problem(chain, free), stages=stages, deadline_s=float("inf"))
    return search.least_bottleneck() is not None


def _explain_links(chain: Chain, cluster: Cluster) -> str:
    limit = cluster.max_payload_bytes
    if limit is not None and not cluster.chunked and any(size > limit for size in chain.cut_bytes[1:]):
        return (
            f"every split of '{chain.name}' that fits the nodes' memory sends an activation larger than the broker's "
            f"limit of {limit} bytes: raise max_payload, or use nodes with more memory"
        )
    return (
        f"'{chain.name}' fits the nodes' memory, but no path of links with a bandwidth above 0 joins the nodes that it "
        f"takes, the source and the sink: check the bandwidths of 0"
    )
