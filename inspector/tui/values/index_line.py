"""`IndexLine`: the line that `/` opens for an index such as `12, 0, 7`."""

from __future__ import annotations

from dataclasses import dataclass

from textual.message import Message
from textual.widgets import Input

from inspector.errors import UsageError

__all__ = ["IndexLine", "parse_index"]


class IndexLine(Input):
    """An index to go to. Enter goes there; what is wrong with it is told where it stands."""

    DEFAULT_CSS = """
    IndexLine, IndexLine:focus { height: 1; border: none; padding: 0 1; background: $boost; }
    """

    @dataclass
    class Given(Message):
        """Enter: the user wants to go to `text`."""

        text: str

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(max_length=400, id=id)

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.post_message(self.Given(event.value))


def parse_index(text: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The index that a text means: `12,0,7`, `[12, 0, 7]`, `12 0 7`; -1 is the last of a dim.

    One number for a tensor of several dims is a place in C order.

    Raises:
        UsageError: It is none, or lies outside of the shape.
    """
    parts = text.replace("[", " ").replace("]", " ").replace(",", " ").split()
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        raise UsageError(
            f"an index is whole numbers, such as {', '.join('0' * len(shape))}"
        ) from None
    if len(numbers) == 1 and len(shape) > 1:
        return _at_place(numbers[0], shape)
    if len(numbers) != len(shape):
        dims = f"{len(shape)} numbers" if len(shape) != 1 else "one number"
        raise UsageError(f"an index of {list(shape)} is {dims}, not {len(numbers)}")
    index = tuple(n + size if n < 0 else n for n, size in zip(numbers, shape, strict=True))
    for dim, (at, size) in enumerate(zip(index, shape, strict=True)):
        if not 0 <= at < size:
            raise UsageError(f"dim {dim} has the indices 0 to {size - 1}, not {numbers[dim]}")
    return index


def _at_place(place: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    total = 1
    for size in shape:
        total *= size
    place += total if place < 0 else 0
    if not 0 <= place < total:
        raise UsageError(f"there are {total:,} elements")
    index = []
    for size in reversed(shape):
        place, at = divmod(place, size)
        index.append(at)
    return tuple(reversed(index))
