"""The columns of the table of tensors, as wide as what stands in them."""

from __future__ import annotations

from inspector.tui.kit.columns import Column
from inspector.tui.kit.virtual_table import TableSource

__all__ = ["entry_columns"]

# Rows that are looked at to choose the widths.
_SAMPLE_ROWS = 300
# `[Replicate(), Shard(0)]`: what most placements take, until they are known.
_USUAL_PLACEMENTS = 24
# More than those of two axes take: `[Replicate(), Replicate()]`.
_MOST_PLACEMENTS = 28
# What names, dtypes and shapes have together on 80 columns, beside the bytes.
_ROOM_CELLS = 61


def entry_columns(
    source: TableSource, *, placements_known: bool, has_stages: bool = False
) -> tuple[Column, ...]:
    """Columns for a source of tensors, measured on a sample of its rows."""
    step = max(1, source.num_rows // _SAMPLE_ROWS)
    widest = dict.fromkeys(("name", "dtype", "shape", "placements", "short_placements", "ranks"), 0)
    for row in range(0, source.num_rows, step):
        for key, cells in widest.items():
            widest[key] = max(cells, len(source.text(row, key)))

    def width(key: str, least: int, most: int) -> int:
        return max(least, min(most, widest[key]))

    dtype, shape = width("dtype", 5, 18), width("shape", 5, 22)
    # Other columns go before the names lose what tells them apart, but for these two.
    name = width("name", 20, max(20, min(48, _ROOM_CELLS - dtype - shape)))
    # Those of three axes fit no table: then torch's short forms stand there, the pane tells more.
    is_short = widest["placements"] > _MOST_PLACEMENTS
    placements = width("short_placements" if is_short else "placements", 10, 44)
    if not placements_known:
        placements = _USUAL_PLACEMENTS
    return (
        Column("name", "Tensor", min_width=name, flex=3, cut="middle"),
        Column("dtype", "Dtype", width=dtype, priority=2),
        Column("shape", "Shape", width=shape, cut="middle", priority=1),
        Column(
            "short_placements" if is_short else "placements",
            "Placements",
            min_width=min(_USUAL_PLACEMENTS, placements),
            max_width=placements,
            # The pane below tells them too.
            priority=3,
        ),
        *((Column("stage", "Stage?", width=6, priority=2),) if has_stages else ()),
        Column("chunks", "Chunks", width=6, align="right", priority=4, descending_first=True),
        Column("bytes", "Bytes", width=9, align="right", descending_first=True),
        Column("ranks", "Ranks", width=width("ranks", 5, 12), priority=5, sortable=False),
    )
