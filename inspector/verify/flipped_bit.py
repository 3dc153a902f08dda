"""Which single bit, flipped, explains a wrong CRC32.

The CRC of two messages that differ in one bit differs by x^k modulo the CRC's polynomial, where k
counts the bits behind it. That polynomial is primitive (order 2^32 - 1), so in fewer than 512 MiB
no two places give the same difference, and k is a discrete logarithm: 65,536 small steps and as
many large ones at most. Bytes with more than one wrong bit name some place by chance as rarely as
their number of bits divided by 2^32.
"""

from __future__ import annotations

from functools import cache

__all__ = ["MAX_BYTES", "flipped_bit"]

#: Past this two places may explain the same difference.
MAX_BYTES = (1 << 29) - 1

_POLYNOMIAL = 0xEDB88320
_STEPS = 1 << 16


def flipped_bit(num_bytes: int, expected: int, found: int) -> tuple[int, int] | None:
    """The byte and the bit in it (0 is the lowest) that differ, if it is only one.

    Args:
        num_bytes: Length of the message.
        expected: Its CRC32 as it was written.
        found: Its CRC32 now.
    """
    if not 0 < num_bytes <= MAX_BYTES or expected == found:
        return None
    small, large = _tables()
    state = expected ^ found
    for i in range(num_bytes * 8 // _STEPS + 1):
        j = small.get(state)
        if j is not None:
            steps = i * _STEPS + j
            behind = -(-steps // 8)
            if 0 < steps <= num_bytes * 8:
                return num_bytes - behind, behind * 8 - steps
            return None
        state = _apply(large, state)
    return None


@cache
def _tables() -> tuple[dict[int, int], list[int]]:
    """Powers of x by value, and the inverse of the largest as a matrix over GF(2)."""
    small, state = {}, 1
    for j in range(_STEPS):
        small[state] = j
        state = (state >> 1) ^ (_POLYNOMIAL if state & 1 else 0)
    # One step backwards, doubled sixteen times.
    matrix = [_back(1 << bit) for bit in range(32)]
    for _ in range(16):
        matrix = [_apply(matrix, column) for column in matrix]
    return small, matrix


def _back(state: int) -> int:
    if state >> 31:
        return ((state ^ _POLYNOMIAL) << 1 | 1) & 0xFFFFFFFF
    return state << 1


def _apply(matrix: list[int], state: int) -> int:
    result = bit = 0
    while state:
        if state & 1:
            result ^= matrix[bit]
        state >>= 1
        bit += 1
    return result
