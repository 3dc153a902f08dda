"""Damaged checkpoints, seals and recordings by the thousand, judged, and held against torch."""
