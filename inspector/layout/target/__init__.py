"""How tensors lie on the mesh that a checkpoint is to be loaded under."""
