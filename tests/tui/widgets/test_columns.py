from __future__ import annotations

from inspector.report.fitting import GAP, fit_columns
from inspector.tui.kit.cell_text import fit
from inspector.tui.kit.virtual_table import Column

NAME = Column("name", "Name", min_width=10, flex=1)
SIZE = Column("size", "Size", width=8)
SHAPE = Column("shape", "Shape", min_width=6, max_width=12, priority=1)
RANKS = Column("ranks", "Ranks", width=6, priority=2)


def widths(width: int) -> dict[str, int]:
    return {c.key: w for c, w in fit_columns([NAME, SHAPE, RANKS, SIZE], width)}


def test_all_room_goes_to_the_flex_column() -> None:
    assert widths(100) == {"name": 100 - 12 - 6 - 8 - 3 * GAP, "shape": 12, "ranks": 6, "size": 8}


def test_little_room_is_shared() -> None:
    at = widths(10 + 6 + 6 + 8 + 3 * GAP + 4)
    assert at == {"name": 12, "shape": 8, "ranks": 6, "size": 8}


def test_columns_hide_by_priority() -> None:
    assert list(widths(35)) == ["name", "shape", "size"]
    assert list(widths(27)) == ["name", "size"]


def test_columns_that_must_show_may_be_wider_than_the_pane() -> None:
    assert widths(5) == {"name": 10, "size": 8}


def test_flex_columns_share_by_weight_and_stop_at_their_most() -> None:
    a = Column("a", "A", min_width=2, flex=1, max_width=5)
    b = Column("b", "B", min_width=2, flex=3)
    fitted = [w for _, w in fit_columns([a, b], 42)]
    assert sum(fitted) == 40
    assert fitted[0] == 5
    assert fit_columns([], 10) == []


def test_fit_cuts_by_cells() -> None:
    assert fit("abc", 5) == "abc  "
    assert fit("abc", 5, "right") == "  abc"
    assert fit("abc", 6, "center") == " abc  "
    assert fit("abcdef", 4) == "abc…"
    assert fit("model.layers.10.weight", 10, cut="middle") == "mod…weight"
    assert fit("模型权重", 5) == "模型…"
    assert fit("模型权重", 4) == "模… "
    assert fit("模型权重", 6, cut="middle") == "…权重 "
    assert fit("abc", 1) == "…"
    assert fit("abc", 0) == ""
