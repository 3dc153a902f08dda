"""What the stored bytes tell: `--deep` and `--values`."""
