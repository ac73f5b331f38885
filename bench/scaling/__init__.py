"""Throughput and latency against the number of nodes, on emulated clusters."""
