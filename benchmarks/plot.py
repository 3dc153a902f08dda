"""Growth drawn: curves over two logarithmic axes, as SVG that needs nothing but a browser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Curve", "Panel", "drawn"]

_WIDTH, _HEIGHT = 420, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 40, 48
_COLOURS = ("#1f6feb", "#c2410c", "#15803d")
_DASHES = ("", "6 4", "2 3")


@dataclass(frozen=True)
class Curve:
    """A name, and (x, y) by x, all above 0."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One picture.

    Attributes:
        title: What is on its vertical axis, with the unit.
        across: What is on its horizontal one.
        curves: At most three.
    """

    title: str
    across: str
    curves: Sequence[Curve]


def drawn(panels: Sequence[Panel]) -> str:
    """The panels side by side."""
    width = _WIDTH * len(panels)
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_HEIGHT}" '
            f'width="{width}" height="{_HEIGHT}" font-family="sans-serif" font-size="12">'
        ),
        f'<rect width="{width}" height="{_HEIGHT}" fill="#ffffff"/>',
    ]
    for number, panel in enumerate(panels):
        parts.append(f'<g transform="translate({number * _WIDTH} 0)">')
        parts += _panel(panel)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel) -> list[str]:
    xs = [x for curve in panel.curves for x, _ in curve.points]
    ys = [y for curve in panel.curves for _, y in curve.points]
    across, up = _decades(xs), _decades(ys)
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (math.log10(x) - across[0]) / (across[-1] - across[0]) * (right - _LEFT),
            bottom - (math.log10(y) - up[0]) / (up[-1] - up[0]) * (bottom - _TOP),
        )

    parts = [f'<text x="{_LEFT}" y="20" font-weight="bold">{panel.title}</text>']
    for power in across:
        x, _ = place(10.0**power, 10.0 ** up[0])
        parts.append(f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="#d4d4d8"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{_said(power)}</text>'
        )
    for power in up:
        _, y = place(10.0 ** across[0], 10.0**power)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="#d4d4d8"/>')
        parts.append(
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_said(power)}</text>'
        )
    middle = (_LEFT + right) / 2
    parts.append(
        f'<text x="{middle}" y="{_HEIGHT - 10}" text-anchor="middle">{panel.across}</text>'
    )
    for curve, colour, dash in zip(panel.curves, _COLOURS, _DASHES, strict=False):
        places = [place(x, y) for x, y in curve.points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2" '
            f'stroke-dasharray="{dash}"/>'
        )
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
    for number, (curve, colour, dash) in enumerate(
        zip(panel.curves, _COLOURS, _DASHES, strict=False)
    ):
        y = _TOP + 14 + 16 * number
        parts.append(
            f'<path d="M{_LEFT + 8} {y - 4}h24" stroke="{colour}" stroke-width="2" '
            f'stroke-dasharray="{dash}"/>'
        )
        parts.append(f'<text x="{_LEFT + 38}" y="{y}">{curve.name}</text>')
    return parts


def _decades(values: Sequence[float]) -> list[int]:
    """The powers of ten around some values; two at least."""
    low = math.floor(math.log10(min(values)))
    high = math.ceil(math.log10(max(values)) - 0.01)  # A hair beyond one needs no decade more.
    return list(range(low, max(high, low + 1) + 1))


def _said(power: int) -> str:
    """A power of ten, in few letters."""
    if power < 0:
        return f"{10.0**power:g}"
    for least, word in ((6, " M"), (3, " k")):
        if power >= least:
            return f"{10 ** (power - least)}{word}"
    return str(10**power)
