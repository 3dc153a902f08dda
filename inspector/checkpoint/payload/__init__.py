"""Stored payloads: where they lie, what their headers say, their elements as numpy."""
