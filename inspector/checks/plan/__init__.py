"""What would go wrong in a load under a mesh, or into a model."""
