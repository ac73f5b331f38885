"""Training histories: many checkpoints of small networks, and the accuracy of every variant of each. Needs torch."""
