"""The torchrun job as the front end drives it; imports no torch."""
