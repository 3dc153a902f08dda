"""Where a checkpoint lies: a local folder, or a URL; listings, sizes and ranges."""
