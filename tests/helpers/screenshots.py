"""The pictures in the README, drawn by the real app on the samples.

    python -m tests.helpers.screenshots [--out docs]

Each is an SVG of 160 x 50 cells (and one of 80 x 24).
"""

from __future__ import annotations

import argparse
import asyncio
import html
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.cells import cell_len

from inspector.tui.app import InspectApp

ROOT = Path(__file__).parents[2]

os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")
# Without it the maps are drawn in shades, wherever this runs.
os.environ.setdefault("COLORTERM", "truecolor")


@dataclass(frozen=True)
class Shot:
    """One picture: a path (or two, to be compared) opened, keys pressed, what then shows."""

    name: str
    path: str
    keys: tuple[str, ...] = ()
    size: tuple[int, int] = (160, 50)
    wait_for: str = "bytes unread"
    moment: float = 1.0


SHOTS = (
    Shot("tensors", "sample_ckpts/fsdp2_hsdp_2x4_adamw", ("tab", "j", "l")),
    Shot("files", "sample_ckpts/fsdp2_hsdp_2x4_adamw", ("2", "j", "j")),
    Shot("narrow", "sample_ckpts/hsdp_2x4", size=(80, 24)),
    Shot("picker", "sample_ckpts/run", size=(100, 20), wait_for="newest sound"),
    Shot(
        "verify",
        "tests/data/runs/hsdp_2x4/events.jsonl",
        wait_for="exact",
        moment=1.0,
    ),
    Shot(
        "plan",
        "sample_ckpts/fsdp2_hsdp_2x4_adamw",
        ("5", "m", *"hsdp", "colon", *"2x16", "enter", "j", "j", "j"),
    ),
    Shot("axes", "sample_ckpts/hsdp_tp_2x2x2", ("5", "a", "a"), (110, 30)),
    Shot(
        "diff",
        "sample_ckpts/fsdp2_adamw_4 sample_ckpts/fsdp2_hsdp_2x2_adamw",
        ("j", "k"),
        wait_for="different: ",
    ),
    Shot(
        "values",
        "sample_ckpts/fsdp2_hsdp_2x4_adamw",
        ("slash", *"tok_emb", "enter", "6", "greater_than_sign"),
    ),
    Shot("findings", "sample_ckpts/broken/chunk_gap", ("3",), wait_for="DAMAGED"),
)


async def until(pause: Callable[[float], object], ready: Callable[[], bool]) -> None:
    for _ in range(400):
        if ready():
            return
        await pause(0.05)  # type: ignore[misc]
    raise TimeoutError("the screen never showed what was waited for")


def open_app(shot: Shot) -> InspectApp:
    """The app on a checkpoint, or on the recording of a verification at its middle."""
    a, _, b = shot.path.partition(" ")
    if b:
        from inspector.tui.diff.opening import PairOf
        from inspector.tui.one_screen import DiffApp

        return DiffApp(PairOf(a, b), with_values=True)
    if not shot.path.endswith("events.jsonl"):
        return InspectApp(shot.path)
    from inspector.tui.one_screen import ReplayApp
    from inspector.tui.verification.playback import Playback, read_recording

    playback = Playback(read_recording(shot.path))
    playback.is_paused = True
    playback.seek(playback.end_s * shot.moment)
    return ReplayApp(playback, shot.path)


async def take(shot: Shot, out: Path) -> None:
    app = open_app(shot)

    def text() -> str:
        strips = app.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in line) for line in strips)

    async with app.run_test(size=shot.size) as pilot:
        await until(pilot.pause, lambda: shot.wait_for in text())
        for key in shot.keys:
            await pilot.press(key)
            await pilot.pause(0.2)
        await pilot.pause(0.3)
        svg = app.export_screenshot(title="hsdp-inspect")
    (out / f"{shot.name}.svg").write_text(tidy(svg, shot.name), encoding="utf-8")
    print(out / f"{shot.name}.svg")


def tidy(svg: str, name: str) -> str:
    """The SVG with stable ids, without fonts from elsewhere, its texts where they begin.

    Some viewers drop the blanks at the start of a text, and with them its place.
    """
    svg = re.sub(r"terminal-\d+", f"terminal-{name}", svg)
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.S)
    svg = svg.replace("Fira Code", "DejaVu Sans Mono, Menlo, Consolas")

    def trimmed(match: re.Match[str]) -> str:
        head, x, middle, length, tail, text = match.groups()
        raw = html.unescape(text)
        cells = cell_len(raw)
        blank = len(raw) - len(raw.lstrip("\xa0"))
        kept = raw.strip("\xa0")
        if not kept or not cells:
            return "" if not kept else match.group(0)
        cell = float(length) / cells
        start, extent = float(x) + blank * cell, cell_len(kept) * cell
        shown = html.escape(kept).replace("\xa0", "&#160;")
        return f'<text{head}x="{start:.1f}"{middle}textLength="{extent:.1f}"{tail}>{shown}</text>'

    pattern = r'<text([^>]*?)x="([\d.]+)"([^>]*?)textLength="([\d.]+)"([^>]*)>(.*?)</text>'
    return re.sub(pattern, trimmed, svg, flags=re.S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--only", nargs="*")
    options = parser.parse_args()
    os.chdir(ROOT)
    options.out.mkdir(parents=True, exist_ok=True)
    for shot in SHOTS:
        if not options.only or shot.name in options.only:
            asyncio.run(take(shot, options.out))


if __name__ == "__main__":
    main()
