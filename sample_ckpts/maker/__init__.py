"""What writes the sample checkpoints: the models, the cases, and what torchrun runs.

`make.py` beside this folder is the command. Nothing in `inspector/` imports anything from here, and
nothing here imports `inspector/`: the samples and their ground truth must not depend on the code
that is tested against them.
"""
