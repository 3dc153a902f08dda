"""Meshes on the screen: ranks as a grid, and choosing one."""
