"""The CRC32 of zip archives, as fast as the machine has it."""

from __future__ import annotations

from functools import cache

try:
    from isal.isal_zlib import crc32
except ImportError:  # Slower, and as right.
    from zlib import crc32

__all__ = ["combine", "crc32", "crc32_combine"]

# The polynomial of the zip format; of a number the highest bit is x^0, as zlib has them.
_POLYNOMIAL = 0xEDB88320


def _times(a: int, b: int) -> int:
    """The product of two polynomials, modulo that of the zip format."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


@cache
def _squares() -> list[int]:
    """x^8, x^16, x^32 ...: each the square of the one before."""
    found = [1 << 23]
    for _ in range(63):
        found.append(_times(found[-1], found[-1]))
    return found


def combine(first: int, second: int, num_bytes: int) -> int:
    """The CRC32 of two stretches of bytes, one after the other, from theirs.

    Args:
        first: That of the first stretch.
        second: That of the second.
        num_bytes: Bytes of the second.
    """
    for power in _squares():
        if num_bytes & 1:
            first = _times(power, first)
        num_bytes >>= 1
        if not num_bytes:
            break
    return first ^ second


try:
    from isal.isal_zlib import crc32_combine
except ImportError:  # Slower, and as right.
    crc32_combine = combine
