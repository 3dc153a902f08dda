"""The page in a real browser: it is seen, in light and dark and on paper, and loads nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from inspector.cli.group import run_command
from inspector.report.html.findings import findings_list
from inspector.report.html.markup import Html
from inspector.report.html.page import page
from tests.conftest import SAMPLES
from tests.helpers.browser import chromium
from tests.report.test_html import HOSTILE, many

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def opened(browser: Browser, path: Path, **options: Any) -> tuple[Any, list[str], list[str]]:
    """The page, all that it loaded, and all that it or its policy complained of."""
    tab = browser.new_context(**options).new_page()
    asked: list[str] = []
    said: list[str] = []
    tab.on("requestfinished", lambda request: asked.append(request.url))
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto(path.as_uri())
    until(tab, lambda: asked)
    return tab, asked, said


def until(tab: Any, condition: Callable[[], object]) -> None:
    """Wait for what the browser tells a while after it was asked."""
    for _ in range(6000):
        if condition():
            return
        tab.wait_for_timeout(50)
    raise AssertionError("waited in vain")


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "page.html"
    folder = SAMPLES / "broken" / "chunk_overlap_and_gap"
    assert run_command(["check", str(folder), "--format", "html", "--output", str(out)]) == 1
    return out


def test_the_page_is_seen_and_loads_nothing(browser: Browser, damaged: Path) -> None:
    tab, asked, said = opened(browser, damaged)
    assert asked == [damaged.as_uri()]
    assert said == []
    assert tab.inner_text(".verdict") == "damaged: 2 errors"
    assert tab.locator(".finding").count() == 2
    box = tab.locator("figure > svg").bounding_box()
    assert box["width"] > 500 and box["height"] > 100
    assert tab.locator(".mark.gap").bounding_box()["width"] > 500
    # Nothing is wider than the page.
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_it_is_read_without_scripts_on_a_narrow_screen(browser: Browser, damaged: Path) -> None:
    size = {"width": 360, "height": 640}
    tab, _, _ = opened(browser, damaged, java_script_enabled=False, viewport=size)
    assert "loads silently, 5 elements left uninitialised" in tab.inner_text("body")
    assert tab.locator("figure > svg").bounding_box()["width"] <= 360


def test_light_and_dark_are_the_readers(browser: Browser, damaged: Path) -> None:
    shades = {}
    for scheme in ("light", "dark"):
        tab, _, _ = opened(browser, damaged, color_scheme=scheme)
        colours = tab.evaluate(
            "['body', '.verdict', '.dim, dt', '.finding b'].map(s => { const c = "
            "getComputedStyle(document.querySelector(s)); return [c.color, c.backgroundColor] })"
        )
        shades[scheme] = colours[0][1]
        for colour, _ in colours:
            assert contrast(colour, shades[scheme]) >= 4.5, (scheme, colour)
    assert luminance(shades["light"]) > 0.9 > 0.1 > luminance(shades["dark"])


def test_it_prints(browser: Browser, damaged: Path) -> None:
    tab, _, said = opened(browser, damaged)
    assert tab.pdf(format="A4")[:5] == b"%PDF-"
    assert said == []


def test_hostile_text_runs_nothing(browser: Browser, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    sections = [findings_list(many(1, name)) for name in HOSTILE]
    # A hole in the gate, on purpose: the policy still stands before it.
    sections.append(Html("<script>document.title = 'ran'</script><img src='x' onerror='ran()'>"))
    out.write_text("".join(page("title", "plain", "verdict", sections, "")))
    tab, asked, said = opened(browser, out)
    assert tab.title() == "title"
    assert asked == [out.as_uri()]
    until(tab, lambda: len(said) >= 2)
    assert all("Content Security Policy" in line for line in said)


def channels(colour: str) -> list[float]:
    return [float(part) / 255 for part in colour.partition("(")[2].rstrip(")").split(",")[:3]]


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    bright, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)
