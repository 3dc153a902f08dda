"""What a JSON text from a stranger may hold, counted before it is parsed.

Python makes hundreds of bytes of an object of five (`{"a":`): 51 MB of them took over 4 GB. What
it makes of a text is bounded by how many objects, lists, texts and values begin in it, and those
are counted in its bytes at memory speed. The bounds leave room for more tensors than any file has.
"""

from __future__ import annotations

__all__ = ["over_bounds"]

#: (byte, how many of it, what it begins). A tensor's entry in a safetensors header has one brace,
#: two brackets, about six commas and ten quotes, and a few more of each in what DCP adds.
_BOUNDS = (
    (b"{", 1_000_000, "objects"),
    (b"[", 2_500_000, "lists"),
    (b",", 4_000_000, "values"),
    (b'"', 6_000_000, "quotes"),
)
#: Nothing that is meant is denser: an object of a tensor takes 52 bytes at least.
_LEAST_BYTES = 12
_FREE = 10_000


def over_bounds(text: bytes, scale: int = 1) -> str:
    """Why a text is not parsed, or an empty string.

    Args:
        text: JSON, or what is said to be.
        scale: How many times the usual bounds it may have.
    """
    for byte, most, what in _BOUNDS:
        count = text.count(byte)
        if count > scale * most:
            return f"it holds more than {scale * most:,} {what}, more than a model can have"
        if byte == b"{" and count > _FREE + len(text) // _LEAST_BYTES:
            return f"it is nothing but {count:,} objects in {len(text):,} bytes"
    return ""
