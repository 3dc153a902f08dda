"""What stands on the screen can be read: letters against what lies behind them, in every theme."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.color import Color
from rich.terminal_theme import DEFAULT_TERMINAL_THEME
from textual.app import App
from textual.screen import ModalScreen

from inspector.tui.theme import DARK, LIGHT
from tests.conftest import SAMPLES
from tests.tui.app_driver import opened, quiet, until, words

#: The least that WCAG 2.1 asks of large letters and of signs; faint words are to reach it too.
LEAST = 3.0
Colour = tuple[int, int, int]


def lightness(colour: Colour) -> float:
    """Relative luminance, 0 to 1 (WCAG 2.1)."""
    parts = [part / 255 for part in colour]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a: Colour, b: Colour) -> float:
    darker, lighter = sorted((lightness(a), lightness(b)))
    return (lighter + 0.05) / (darker + 0.05)


def faint_texts(app: App[int]) -> Iterator[str]:
    """Texts that cannot be read, with their colours; what lies behind a dialog is meant to fade."""
    screen = app.screen
    window = screen.children[0].region if isinstance(screen, ModalScreen) else screen.region
    for y, line in enumerate(screen._compositor.render_strips()[: app.size.height]):
        x = 0
        for segment in line:
            is_inside = window.contains(x, y)
            x += segment.cell_length
            style = segment.style
            if not is_inside or style is None or not any(map(str.isalnum, segment.text)):
                continue
            front, back = style.color, style.bgcolor
            if front is None or back is None or front.is_default or back.is_default:
                continue  # The terminal's own.
            colours = _rgb(front), _rgb(back)
            if contrast(*colours) < LEAST:
                yield f"{segment.text.strip()[:40]!r}: {colours}, {contrast(*colours):.2f}"


def _rgb(colour: Color) -> Colour:
    return tuple(colour.get_truecolor(DEFAULT_TERMINAL_THEME))


async def faint(path: Path, keys: list[str], theme: str, until_words: str = "") -> set[str]:
    """What cannot be read when a checkpoint was opened, or after any of the keys."""
    found: set[str] = set()
    async with opened(path, size=(120, 30)) as (app, pilot):
        app.theme = theme
        for key in ["", *keys]:
            if key:
                await pilot.press(key)
            await quiet(pilot)
            found |= {f"{path.name} {key}: {text}" for text in faint_texts(app)}
        await until(pilot, lambda: until_words in words(app))
        found |= {f"{path.name}: {text}" for text in faint_texts(app)}
    return found


TOURS = {
    "numbers": ("broken/values_nan", ["6", "j", "l", "7", "u", "enter"], " nan"),
    "views": ("broken/chunk_gap", ["tab", "2", "3", "5", "slash"], ""),
    "a plan": ("fsdp2_hsdp_2x4_adamw", ["5", "m", "escape", "z"], ""),
    "the form": ("hsdp_2x4", ["v"], "enter starts"),
    "help": ("hsdp_2x4", ["question_mark"], "In this view"),
    "a run": ("run", ["j"], "step-200"),
}


@pytest.mark.parametrize("tour", TOURS)
@pytest.mark.parametrize("theme", [pytest.param(DARK.name, marks=pytest.mark.slow), LIGHT.name])
async def test_every_word_can_be_read(theme: str, tour: str) -> None:
    path, keys, shows = TOURS[tour]
    assert await faint(SAMPLES / path, keys, theme, shows) == set()


@pytest.mark.slow
@pytest.mark.parametrize("tour", TOURS)
@pytest.mark.parametrize("theme", [DARK.name, LIGHT.name])
async def test_every_word_can_be_read_without_colours(
    theme: str, tour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    path, keys, shows = TOURS[tour]
    assert await faint(SAMPLES / path, keys, theme, shows) == set()


def test_the_measure_is_that_of_wcag() -> None:
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)
