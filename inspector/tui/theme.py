"""The two themes of our own. Every theme of Textual, the 16-colour ones included, works too."""

from __future__ import annotations

from textual.theme import Theme

__all__ = ["DARK", "LIGHT", "THEMES"]

DARK = Theme(
    name="hsdp-dark",
    primary="#4c9be8",
    secondary="#8fa8c8",
    accent="#e8a33d",
    foreground="#d7dde5",
    background="#10151c",
    surface="#151b24",
    panel="#1f2833",
    success="#5fb87a",
    warning="#e0b14a",
    error="#e86671",
    dark=True,
)

LIGHT = Theme(
    name="hsdp-light",
    primary="#1f6fc0",
    secondary="#51657d",
    accent="#a85f00",
    foreground="#1c2530",
    background="#f4f6f8",
    surface="#ffffff",
    panel="#e3e8ee",
    success="#1f7a3f",
    warning="#8a5d00",
    error="#b3202d",
    dark=False,
)

THEMES = (DARK, LIGHT)
