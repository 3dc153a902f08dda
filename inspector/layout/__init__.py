"""`Checkpoint` -> mesh and placements, with evidence. Imports neither torch nor textual."""
