"""Folders of safetensors files -> `Checkpoint`."""
