"""Seals: digests of what a checkpoint held, and the comparison with them later."""
