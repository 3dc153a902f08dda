"""Where checkpoints lie under a path, and which one is meant."""
