"""What executes: bundles, sub-models, the onnxruntime engine, the stage worker, the head, the node."""
