"""`python -m bench` lists the benchmarks."""

BENCHMARKS = {
    "continuer": "CONTINUER's tables beside ours: latency and accuracy as predicted, and the techniques chosen by them",
    "delivery": "the delivery modes against the same stages on bare core NATS, and where the time goes",
    "fitting": "what an answer is worth while a stage is lost: fitted parts, on images that nothing was fitted to",
    "liveness": "how soon a crash and a hang of a node are noticed, and how often nothing was wrong",
    "failover": "a server of a cluster killed under its clients: connected elsewhere, next answer, all frames answered",
    "memory": "what a stage takes in memory against what the planner reckons with",
    "planner": "random, greedy and SEIFER's plans against the proven optimum, and the planner's time",
    "recovery": "first answer and full accuracy after crashes and hangs, planned changes, decisions, and lost frames",
    "throughput": "the pipeline against one onnxruntime process with the same threads, and the overhead per hop",
}

if __name__ == "__main__":
    for name, what in BENCHMARKS.items():
        print(f"python -m bench.{name}: {what}")
