"""Where each piece of a network runs. Pure: no I/O, no broker, no onnxruntime."""
