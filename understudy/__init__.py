"""Understudy: one neural network across a cluster of small machines that keeps answering when machines fail."""
