"""View 5: what each rank of a mesh would read."""
