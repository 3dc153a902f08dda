"""The numbers in a checkpoint: read in blocks, summed up, fingerprinted; without torch."""
