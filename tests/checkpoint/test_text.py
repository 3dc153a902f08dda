"""The display gate."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import get_character_cell_size

from inspector.checkpoint.text import (
    format_bytes,
    format_ranks,
    is_printable,
    parse_bytes,
    printable,
    shorten,
)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("model.w", "model.w"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("\x1b]52;c;aGk=\x07", r"\x1b]52;c;aGk=\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("\ud800", r"\ud800"),
        ("tag\U000e0041", r"tag\U000e0041"),
        ("[bold]x[/bold]", "[bold]x[/bold]"),
        ("層.é", "層.é"),
        (r"back\slash", r"back\slash"),
        ("back\\slash\x00", r"back\\slash\x00"),
        ("\u3164", r"\u3164"),
        ("a\u00a0b", r"a\xa0b"),
    ],
)
def test_what_is_obeyed_or_unseen_is_written_as_an_escape(raw: str, shown: str) -> None:
    assert printable(raw) == shown


@given(st.text(alphabet=st.characters(exclude_categories=[]), max_size=200))
def test_no_text_brings_a_control_character_through(raw: str) -> None:
    shown = printable(raw)
    assert is_printable(shown)
    for char in shown:
        assert unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn"}
    shown.encode()  # No lone surrogate is left.


@given(
    st.text(alphabet="ab\\nx0\x1b\n\u202e", max_size=12),
    st.text(alphabet="ab\\nx0\x1b\n\u202e", max_size=12),
)
def test_an_escape_is_never_mistaken_for_the_text_that_looks_like_it(one: str, other: str) -> None:
    """Among texts with something hidden, two different ones never look the same."""
    if one != other and not is_printable(one) and not is_printable(other):
        assert printable(one) != printable(other)


@given(st.text(max_size=100), st.integers(1, 40))
def test_a_limit_is_kept_and_the_tail_stays(raw: str, limit: int) -> None:
    shown = printable(raw, limit)
    assert len(shown) <= limit
    whole = printable(raw)
    if len(whole) > limit > 3:
        assert "…" in shown
        # A number that would be cut is left out whole.
        assert whole.endswith(shown[-(limit // 2) :]) or any(char.isdigit() for char in whole)


def test_a_name_of_a_million_characters_costs_no_more_than_what_is_shown() -> None:
    assert len(printable("\x1b" * 1_000_000, 80)) == 80


def test_shorten_keeps_what_fits() -> None:
    assert shorten("abc", 3) == "abc"
    assert shorten("abcdef", 4) == "a…ef"
    assert shorten("abcdef", 1) == "…"


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (1536, "1.5 KiB"),
        (5 * 1024**4, "5.0 TiB"),
        (None, "?"),
    ],
)
def test_bytes_are_in_binary_units(num_bytes: int | None, text: str) -> None:
    assert format_bytes(num_bytes) == text


@pytest.mark.parametrize(
    ("ranks", "text"),
    [([], ""), ([3], "3"), ([0, 1, 2, 3], "0-3"), ([7, 0, 1, 5, 1], "0-1,5,7"), ([-1, 2], "2,?")],
)
def test_ranks_are_short_ranges(ranks: list[int], text: str) -> None:
    assert format_ranks(ranks) == text


def test_marks_do_not_pile_up() -> None:
    """A name may stack marks over the lines above it; no script needs more than a few."""
    for legit in ("e\u0301", "x\u0323\u0302", "\u0928\u093f\u0902", "\u05e9\u05bc\u05c1\u05b8"):
        assert is_printable(legit) and printable(legit) == legit
    pile = "a" + "\u0301" * 2000 + "b" + "\u0489" * 9
    assert not is_printable(pile)
    shown = printable(pile)
    assert shown.startswith("a" + "\u0301" * 8 + "\\u0301") and shown.endswith("\\u0489")
    assert is_printable(shown)
    assert is_printable(printable(pile, 40))


def test_a_text_is_cut_at_its_start_middle_or_end_in_characters_or_cells() -> None:
    cells = get_character_cell_size
    assert shorten("abcdefghij", 7) == "ab…ghij"
    assert shorten("abcdefghij", 7, "end") == "abcdef…"
    assert shorten("abcdefghij", 7, "start") == "…efghij"
    # A wide character is not cut in half.
    assert shorten("日本語日本語", 8, "middle", cells) == "日…本語"
    assert shorten("日本語日本語", 8, "start", cells) == "…日本語"
    assert shorten("日本語", 6, "end", cells) == "日本語"
    # A number that is cut would be read as another one.
    assert shorten("at [4:8, 10:25]", 9, "end") == "at [4:…"
    assert shorten("at [4:8, 10:25]", 12, "end") == "at [4:8, …"
    assert shorten("between 1,641 and 2", 11, "end") == "between …"
    assert shorten("layers.123.attn", 12, "middle") == "lay…123.attn"
    assert shorten("layers.123.attn", 11, "middle") == "lay…attn"
    assert shorten("/runs/step-1200", 6, "start") == "…-1200"
    assert shorten("/runs/step-1200", 4, "start") == "…200"
    assert shorten("123456789", 5, "end") == "1234…"
    assert [shorten("abc", width) for width in (-1, 0, 1, 2, 3)] == ["", "", "…", "…c", "abc"]


@pytest.mark.parametrize(
    ("text", "decimal", "binary"),
    [
        ("1000", 1000, 1000),
        ("1000B", 1000, 1000),
        (" 5GB ", 5 * 10**9, 5 << 30),
        ("1.5k", 1500, 1536),
        ("300 m", 3 * 10**8, 300 << 20),
        ("2 gib", 2 << 30, 2 << 30),
        ("4Ti", 4 << 40, 4 << 40),
        ("0", 0, 0),
        ("1e9", None, 10**9),
        ("-1g", None, -(1 << 30)),
        ("nan", None, None),
        ("inf", None, None),
        ("", None, None),
        ("GiB", None, None),
        ("5i", None, None),
        ("5XB", None, None),
        ("4 apples", None, None),
    ],
)
def test_sizes_are_decimal_unless_they_are_of_memory(
    text: str, decimal: float | None, binary: float | None
) -> None:
    assert parse_bytes(text) == decimal
    assert parse_bytes(text, is_binary=True) == binary
