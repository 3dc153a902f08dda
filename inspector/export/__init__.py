"""Tensors taken out of a checkpoint into files of other formats."""
