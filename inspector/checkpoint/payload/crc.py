"""The CRC32 of zip archives, as fast as the machine has it."""

from __future__ import annotations

try:
    from isal.isal_zlib import crc32
except ImportError:  # Slower, and as right.
    from zlib import crc32

__all__ = ["crc32"]
