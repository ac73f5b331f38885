"""`python -m bench` lists the benchmarks."""

BENCHMARKS = {
    "memory": "what a stage takes in memory against what the planner reckons with",
    "throughput": "the pipeline against one onnxruntime process with the same threads, and the overhead per hop",
}

if __name__ == "__main__":
    for name, what in BENCHMARKS.items():
        print(f"python -m bench.{name}: {what}")
