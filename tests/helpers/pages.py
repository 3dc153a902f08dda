"""A page of HTML read strictly: what is in it, and nothing that it may not hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

__all__ = ["ReadPage", "read_page"]

_VOID = {"meta", "br", "hr"}
_ELEMENTS = set(
    "html head meta title style body h1 h2 p section dl dt dd div b code br table thead tbody tr "
    "th td ul li figure figcaption svg g rect path text footer".split()
)
_ATTRIBUTES = set(
    "lang charset http-equiv content name class x y width height d transform viewbox role fill "
    "shape-rendering text-anchor".split()
)
# Elements of which the text is said in one go.
_BLOCKS = {"p", "h1", "h2", "dt", "dd", "td", "th", "li", "figcaption", "code", "title", "b"}


@dataclass
class ReadPage:
    """What a page says.

    Attributes:
        text: All text outside the style sheet, blocks on lines of their own.
        elements: Each element with its attributes, in order.
    """

    text: str = ""
    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def of_class(self, name: str) -> list[tuple[str, dict[str, str]]]:
        return [e for e in self.elements if name in e[1].get("class", "").split()]


class _Strict(HTMLParser):
    """Raises at whatever a page of ours does not hold: unknown tags, loose ends, comments."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.page, self.open, self.parts = ReadPage(), list[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._element(tag, attrs)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, f"<{tag}/> outside a picture is an open element"
        self._element(tag, attrs)

    def _element(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert tag in _ELEMENTS, tag
        assert set(names) <= _ATTRIBUTES, names
        assert len(set(names)) == len(names), names
        self.page.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.parts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data[:80]}")

    def handle_pi(self, data: str) -> None:
        raise AssertionError(f"an instruction: {data[:80]}")

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(f"a declaration: {data[:80]}")


def read_page(markup: str) -> ReadPage:
    """A page, read.

    Raises:
        AssertionError: It holds what no page of ours may, or is not closed as it was opened.
    """
    assert markup.isascii(), "its meaning hangs on the encoding it is written in"
    parser = _Strict()
    parser.feed(markup)
    parser.close()
    assert parser.open == [], parser.open
    page = parser.page
    page.text = "".join(parser.parts)
    return page
