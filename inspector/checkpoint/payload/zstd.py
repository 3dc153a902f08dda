"""What a zstd frame unpacks to (`stream.zstd/1`), as a source of bytes.

Format: RFC 8878; torch/distributed/checkpoint/_extension.py, torch 2.7 and later.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from inspector.checkpoint.payload.source import (
    BLOCK_BYTES,
    MissingPackageError,
    PayloadError,
    Source,
    rechunk,
)

__all__ = ["unpacked"]

_KEPT_BYTES = 16 << 20
_END_BYTES = 256 << 10


class _Feed:
    """Blocks as something that can be read from."""

    def __init__(self, blocks: Iterator[memoryview]) -> None:
        self._blocks = blocks

    def read(self, _num_bytes: int = -1) -> bytes:
        return bytes(next(self._blocks, b""))


class _ZstdSource:
    """What a zstd frame unpacks to (DCP's `stream.zstd/1` extension).

    A zip's directory stands at its end and a zstd frame can only be read forwards. A payload that
    unpacks to little is kept; a large one is unpacked twice, first for its head, tail and length.

    Args:
        packed: The frame.
        limit: Most bytes it may unpack to; a frame of 10 kB can hold a terabyte.

    Raises:
        MissingPackageError: zstandard is not installed.
        PayloadError: It is no zstd frame, a damaged one, or over the limit.
    """

    def __init__(self, packed: Source, limit: int) -> None:
        try:
            import zstandard  # lazy: an optional package
        except ImportError as error:
            raise MissingPackageError(
                "zstd payloads need the zstandard package", "pip install zstandard"
            ) from error
        self._zstd: Any = zstandard
        self._packed = packed
        self._limit = limit
        self._known: list[tuple[int, bytes]] = []
        self.length = 0
        self._measure()

    def _measure(self) -> None:
        kept = bytearray()
        for data in self._unpack():
            self.length += len(data)
            if self.length > self._limit:
                raise PayloadError(
                    f"its zstd frame unpacks to more than {self._limit:,} bytes, "
                    "more than the tensor can need"
                )
            kept += data
            if len(kept) > _KEPT_BYTES:
                if not self._known:
                    self._known = [(0, bytes(kept[:_END_BYTES]))]
                del kept[:-_END_BYTES]
        self._known.append((self.length - len(kept), bytes(kept)))

    def _unpack(self) -> Iterator[memoryview]:
        # A bounded window, for a frame may ask for one of gigabytes; and output in steps of a
        # size that we choose, for a few bytes may unpack to gigabytes.
        decoder = self._zstd.ZstdDecompressor(max_window_size=1 << 26)
        feed = _Feed(self._packed.blocks(0, self._packed.length))
        buffer = bytearray(BLOCK_BYTES)
        try:
            with decoder.stream_reader(feed, read_size=BLOCK_BYTES, closefd=False) as reader:
                while count := reader.readinto(buffer):
                    yield memoryview(buffer)[:count]
        except self._zstd.ZstdError as error:
            raise PayloadError(f"its zstd frame is damaged ({error})") from error

    def read(self, offset: int, num_bytes: int) -> bytes:
        num_bytes = max(min(num_bytes, self.length - offset), 0)
        return b"".join(bytes(block) for block in self.blocks(offset, num_bytes))

    def blocks(self, offset: int, num_bytes: int) -> Iterator[memoryview]:
        num_bytes = max(min(num_bytes, self.length - offset), 0)
        for start, data in self._known:
            if start <= offset and offset + num_bytes <= start + len(data):
                yield memoryview(data)[offset - start : offset - start + num_bytes]
                return
        yield from rechunk(self._between(offset, offset + num_bytes))

    def _between(self, first: int, last: int) -> Iterator[memoryview]:
        at = 0
        for data in self._unpack():
            if at + len(data) > first:
                yield data[max(first - at, 0) : last - at]
            at += len(data)
            if at >= last:
                return


def unpacked(source: Source, transforms: tuple[str, ...], limit: int) -> Source:
    """The payload behind its stream transforms (`stream.zstd/1`).

    Args:
        source: The bytes in the file.
        transforms: As the metadata lists them, the last one applied last on writing.
        limit: Most bytes that unpacking may give.

    Raises:
        PayloadError: They do not unpack.
        MissingPackageError: A package is needed that is not installed.
    """
    for name in reversed(transforms):
        if name.partition("@")[0].partition("/")[0] != "stream.zstd":
            raise MissingPackageError(f"its stream transform {name[:60]!r} is not known")
        source = _ZstdSource(source, limit)
    return source
