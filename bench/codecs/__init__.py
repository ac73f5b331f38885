"""What codecs for activations bring, and what they cost."""
