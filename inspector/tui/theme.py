"""The two themes of our own, and the styles of running text under any theme.

Every theme of Textual, the 16-colour ones included, works too. A text names what it means
(`error`, `badge.ok`), never a colour: what that looks like is decided here, so that it can be read
on a light screen, with 16 colours, and with none: what is wrong is bold or reversed as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.color import Color as RichColor
from rich.style import Style
from rich.theme import Theme as RichTheme
from textual.color import Color
from textual.theme import BUILTIN_THEMES, Theme
from textual.widgets import Static

if TYPE_CHECKING:
    from textual.app import App

__all__ = ["DARK", "LIGHT", "THEMES", "dress", "own_name", "theme_named", "theme_names"]

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
    accent="#985500",
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

#: Styles of text by their names: which of the theme's colours, and whether it is bold.
_WORDS = {
    "error": ("error", True),
    "warning": ("warning", False),
    "ok": ("success", True),
    "note": ("secondary", False),
    "accent": ("accent", True),
}
#: Styles of a word that is reversed out of its line.
_BADGES = {"error": "error", "warning": "warning", "ok": "success", "running": "primary"}
#: Lighter than this, a colour has black letters on it.
_LIGHT = 0.35


def _styles(variables: Mapping[str, str]) -> dict[str, Style]:
    """The named styles in the colours of a theme."""
    colours = {name: Color.parse(variables[name]) for name, _ in _WORDS.values()}
    colours["primary"] = Color.parse(variables["primary"])
    styles = {
        name: Style(color=colours[which].rich_color, bold=bold or None)
        for name, (which, bold) in _WORDS.items()
    }
    for name, which in _BADGES.items():
        styles[f"badge.{name}"] = _badge(colours[which])
    styles["badge.plain"] = Style(bold=True, reverse=True)
    return styles


def _badge(colour: Color) -> Style:
    if colour.ansi is not None:  # Who knows how light it is there.
        return Style(color=colour.rich_color, bold=True, reverse=True)
    red, green, blue = (part / 255 for part in colour.rgb)
    is_light = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 > _LIGHT / 2
    letters = RichColor.parse("#000000" if is_light else "#ffffff")
    return Style(color=letters, bgcolor=colour.rich_color, bold=True)


def dress(app: App[int], *, again: bool = False) -> None:
    """Let texts of an app name these styles, in the colours that its theme has now.

    Args:
        app: Whose texts.
        again: Whether it was dressed before: what is on its screens is drawn anew.
    """
    if again:
        app.console.pop_theme()
    app.console.push_theme(RichTheme(_styles(app.get_css_variables())))
    for screen in app.screen_stack if again else ():
        for static in screen.query(Static):
            # What it shows was resolved to colours when it was told.
            static.update(static.content, layout=False)


def theme_names() -> list[str]:
    """What a user may call a theme: `dark` and `light` are our own."""
    return [own_name(theme.name) for theme in THEMES] + sorted(BUILTIN_THEMES)


def theme_named(name: str) -> str | None:
    """The name that a theme has in the app, for what a user calls it; None if there is none."""
    own = {own_name(theme.name): theme.name for theme in THEMES}
    return own.get(name, name if name in BUILTIN_THEMES else None)


def own_name(theme: str) -> str:
    """What a user calls a theme."""
    return theme.removeprefix("hsdp-")
