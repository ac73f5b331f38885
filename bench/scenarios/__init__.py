"""Faults over time, on a cluster of containers."""
