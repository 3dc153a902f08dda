"""What every rank of a mesh would read to load a checkpoint."""
