"""How good and how fast plans are: random, greedy, SEIFER's own method and a naive exact search against the planner."""
