"""What tests and benchmarks share: makers of checkpoints, faults, the rules of the house."""
