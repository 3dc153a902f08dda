"""Payload pickles read without unpickling: what they hold, and what they name."""
