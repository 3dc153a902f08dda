"""What torchrun runs: load, compare, save, reload. The only rooms that import torch."""
