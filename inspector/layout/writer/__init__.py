"""The mesh that wrote a checkpoint: DCP's writer replayed, with evidence and doubt."""
