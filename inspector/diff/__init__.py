"""Two checkpoints, whatever their sharding: what differs, in structure and in values."""
