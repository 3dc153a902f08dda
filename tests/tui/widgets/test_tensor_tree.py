from __future__ import annotations

import time

import pytest

from inspector.tui.tensors.tree import TensorTree
from inspector.tui.tensors.trie import ModuleTrie
from tests.tui.widgets.hosting import HOSTILE, Host, drawn, hosted

NAMES = [
    "model.embed.weight",
    *(f"model.layers.{i}.{w}" for i in range(40) for w in ("q.weight", "q.bias", "norm.weight")),
    "model.norm.weight",
    "optim.step",
]


def tree(names: list[str] = NAMES, **kwargs: object) -> TensorTree:
    return TensorTree(ModuleTrie(names, [1024] * len(names)), **kwargs)  # type: ignore[arg-type]


def titles(widget: TensorTree) -> list[str]:
    return [" ".join(line.replace("│", "").replace("▌", "").split()) for line in drawn(widget)]


async def test_closed_then_opened() -> None:
    widget = tree()
    app = Host(widget)
    async with hosted(app, (60, 20)) as pilot:
        assert titles(widget)[:3] == ["▸ model 122 122.0 KiB", "optim.step 1.0 KiB", ""]
        await pilot.press("l")
        assert titles(widget)[:4] == [
            "▾ model 122 122.0 KiB",
            "embed.weight 1.0 KiB",
            "▸ layers 120 120.0 KiB",
            "norm.weight 1.0 KiB",
        ]
        await pilot.press("j", "j", "l")
        assert titles(widget)[3] == "▸ 0..39 (40 alike) 120 120.0 KiB"
        await pilot.press("j", "space", "l")
        assert widget._lines[widget.cursor].node.name == "0"
        assert widget.num_lines == 4 + 1 + 40 + 1
        await pilot.press("h", "h")
        assert titles(widget)[3].startswith("▸ 0..39")
        await pilot.press("h")
        assert widget._lines[widget.cursor].node.name == "layers"


async def test_messages() -> None:
    widget = tree()
    app = Host(widget)
    async with hosted(app, (60, 20)) as pilot:
        await pilot.press("l", "j", "j")
        await pilot.pause()
        last = app.posted[-1]
        assert isinstance(last, TensorTree.NodeHighlighted)
        assert last.prefix == ("model", "layers")
        assert last.indices.tolist() == list(range(1, 121))
        await pilot.press("k", "enter")
        await pilot.pause()
        assert any(isinstance(m, TensorTree.TensorSelected) and m.index == 0 for m in app.posted)
        await pilot.press("g", "enter")
        assert widget.num_lines == 2
        await pilot.click(TensorTree, offset=(3, 0))
        assert widget.num_lines == 5
        await pilot.click(TensorTree, offset=(8, 1), times=2)


async def test_a_lone_module_is_open_from_the_start() -> None:
    widget = tree([f"model.layers.{i}.w.{k}" for i in range(3) for k in "ab"])
    async with hosted(widget, (60, 20)):
        assert [t.split()[1] for t in titles(widget)[:5]] == ["model", "layers", "0", "1", "2"]


async def test_badges_rise_to_the_modules() -> None:
    widget = tree(badges={5: "warning", 6: "error", 10**9: "error"})
    async with hosted(widget, (60, 20)):
        assert drawn(widget)[0][1] == "✗"
        assert drawn(widget)[1][1] == " "
        widget.set_badges({121: "note"})
        assert drawn(widget)[0][1] == "•"


async def test_many_children_come_in_parts() -> None:
    widget = tree([f"p{i}" for i in range(5000)])
    app = Host(widget)
    async with hosted(app, (60, 20)) as pilot:
        await pilot.press("G")
        assert "… 3,000 more" in drawn(widget)[-1]
        await pilot.press("enter")
        assert widget.num_lines == 4001
        await pilot.press("G", "enter")
        assert widget.num_lines == 5000


@pytest.mark.parametrize("width", [1, 4, 10, 20, 31, 60, 120])
async def test_hostile_names(width: int) -> None:
    widget = tree([*HOSTILE, *(f"a.{name}.{name}" for name in HOSTILE)])
    async with hosted(widget, (width, 30)):
        for _ in range(40):
            widget.action_open()
            widget.action_cursor_move(1)
        drawn(widget)


async def test_no_tensors() -> None:
    widget = TensorTree()
    async with hosted(widget, (40, 5)) as pilot:
        # Nothing is said of tensors before they are known.
        assert drawn(widget)[1].strip() == "..."
        widget.set_trie(ModuleTrie([], []))
        await pilot.pause()
        assert drawn(widget)[1].strip() == "No tensors"
        await pilot.press("j", "l", "h", "enter", "space", "G")
        widget.set_trie(ModuleTrie(["a.b", "a.c"], [1, 2]))
        await pilot.pause()
        assert widget.num_lines == 3


def test_100_000_tensors_open_quickly() -> None:
    names = [f"model.layers.{i // 200}.experts.{i % 200}.weight" for i in range(100_000)]
    start = time.process_time()
    tree(names)
    assert time.process_time() - start < 5
