"""The checkpoints of a folder, and asking for a path."""
