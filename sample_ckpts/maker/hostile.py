"""Names that attack whatever displays them. All are harmless as data."""

from __future__ import annotations

NAMES: tuple[str, ...] = (
    "colour.\x1b[31mred\x1b[0m",
    "clear.\x1b[2J\x1b[H",
    "clipboard.\x1b]52;c;aGVsbG8=\x07",
    "title.\x1b]0;owned\x07",
    "link.\x1b]8;;file:///etc/passwd\x1b\\here\x1b]8;;\x1b\\",
    "c1.\x9b31mred",
    "newline.first\nsecond",
    "return.shown\rhidden",
    "tab.a\tb",
    "nul.a\x00b",
    "delete.a\x7f\x08b",
    "separators.a\u2028b\u2029c\x85d",
    "bidi.\u202egnp.exe\u202c",
    "isolate.\u2066a\u2069\u2067b\u2069",
    "invisible.a\u200b\u2060\ufeffb\u00adc",
    "surrogate.\udc80",
    "noncharacter.\uffff\U0010ffff",
    "markup.[bold red]loud[/bold red]",
    "markup.closing[/]",
    "markup.unclosed[",
    "markup.action[@click=app.quit]quit[/]",
    "markup.escaped\\[bold]",
    "html.<script>alert(1)</script>",
    "format.{0}%s%n{self}",
    "shell.$(touch owned);`id`",
    "--json",
    "../../etc/passwd",
    "wide.全角の重み.バイアス",
    "emoji.👩\u200d👩\u200d👧\u200d👦🏽",
    "combining.e\u0301" + "\u0300\u0316" * 12,
    "lookalike.w\u0435ight",
    " leading and trailing spaces ",
    "double..dot",
    "",
    "long." + "x" * 1995,
)

BYTES_NAME = "bytes.\x1b[5mblink"
BYTES_VALUE = "value \x1b]52;c;aGVsbG8=\x07 with [bold]markup[/bold]\nand a second line"
