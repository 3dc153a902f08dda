"""The screen. What Textual reads of the environment when it is imported is set here, before it."""

from __future__ import annotations

import os

# A repaint waits for the next of so many per second, and one key may take two or three of them.
# Nothing here is animated: of a screen at rest none is drawn.
os.environ.setdefault("TEXTUAL_FPS", "120")
# How long a terminal that does not tell the escape key from the start of a longer sequence is
# waited for. Textual's tenth of a second is felt; such sequences come in one piece.
os.environ.setdefault("ESCDELAY", "20")
