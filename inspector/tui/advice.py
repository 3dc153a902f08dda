"""Advice that names the command line's options, as somebody in front of the screen can take it.

Findings and errors say the same in text, JSON and on the screen; here alone an option becomes
the key that does it.
"""

from __future__ import annotations

import re

from inspector.tui.commands import CHECK_BYTES, VIEW_KEYS

__all__ = ["on_screen"]


_DEEP, _PLAN = CHECK_BYTES, VIEW_KEYS["plan"]
_WORDS = {
    "without --deep only": f"until {_DEEP} reads every byte, only",
    "hsdp-inspect check --deep": _DEEP,
    "check --deep": _DEEP,
    "--deep": _DEEP,
    "hsdp-inspect check": VIEW_KEYS["findings"],
    "hsdp-inspect show": VIEW_KEYS["tensors"],
    "and plan says": f"and {_PLAN} says",
    "--then none": "`none` there",
}
_ANY = re.compile("|".join(re.escape(words) for words in sorted(_WORDS, key=len, reverse=True)))


def on_screen(text: str) -> str:
    """A sentence of a check or an error, with keys where it names options of the command line."""
    return _ANY.sub(lambda match: _WORDS[match[0]], text)
