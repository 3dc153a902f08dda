"""Following a run: each new step is judged once, and what is newest and good is told."""
