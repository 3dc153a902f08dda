"""What an answer of a storage may take, whatever its server says: bytes, time, pages and keys.

A server may be broken, overloaded or another's: it answers with more than was asked for, drips a
byte a second, lists without end, or sends another file than it began with. None of that says
anything of the checkpoint, so each is a `BadAnswerError`: not tried again, and never a finding.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

from inspector.checkpoint.text import plural

__all__ = [
    "CONNECT_TIMEOUT_S",
    "LISTING_S",
    "MAX_ERROR_BYTES",
    "MAX_TEXT_BYTES",
    "MAX_UNSIZED_BYTES",
    "READ_TIMEOUT_S",
    "BadAnswerError",
    "Listing",
    "Meter",
    "SlowAnswerError",
    "Tags",
    "answer_s",
    "check_range",
    "read_body",
    "within",
]

#: Longest wait for a connection.
CONNECT_TIMEOUT_S = 5
#: Longest silence of a server that has begun to answer, or has been asked.
READ_TIMEOUT_S = 10
#: An answer that is no file's content: a page of a listing.
MAX_TEXT_BYTES = 16 << 20
#: An answer that says what is wrong. Many may come at a time, one for each request.
MAX_ERROR_BYTES = 256 << 10
#: A file whose size nobody told.
MAX_UNSIZED_BYTES = 1 << 30
_BLOCK_BYTES = 256 << 10
#: An answer that brings less than so many bytes in so many seconds drips.
_DRIP_S = 10.0
_DRIP_BYTES = 16 << 10
#: The longest that an answer may take: so long, and as long as its bytes take at this rate.
_ANSWER_S = 20.0
_BYTES_A_SECOND = 8 << 10
_MAX_PAGES = 5000
_MAX_KEYS = 200_000
#: The longest that one listing may take, with all its pages.
LISTING_S = 30.0
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class BadAnswerError(OSError):
    """An answer that is not what was asked for; the message says in what."""


class SlowAnswerError(BadAnswerError):
    """An answer that does not come, or not to its end."""


def answer_s(num_bytes: int) -> float:
    """The longest that an answer of so many bytes may take, in seconds."""
    return _ANSWER_S + num_bytes / _BYTES_A_SECOND


class Meter:
    """Counts a body as it comes.

    Args:
        limit: Bytes that were asked for.
    """

    def __init__(self, limit: int, what: str = "an answer") -> None:
        self.limit = limit
        self.num_bytes = 0
        self._what = what
        self._since_bytes = 0
        self._began_s = self._since_s = time.monotonic()

    def add(self, num_bytes: int) -> None:
        """Count a block, which may be the empty one at the end.

        Raises:
            BadAnswerError: There is more than may come, or it comes too slowly.
        """
        self.num_bytes += num_bytes
        if self.num_bytes > self.limit:
            asked = plural(self.limit, "byte")
            raise BadAnswerError(f"it sends {self._what} of more than the {asked} asked")
        now = time.monotonic()
        if now - self._began_s > answer_s(self.limit):
            raise SlowAnswerError(
                f"it sends {self._what} for more than {answer_s(self.limit):.0f} s"
            )
        if now - self._since_s > _DRIP_S:
            brought = self.num_bytes - self._since_bytes
            if num_bytes and brought < _DRIP_BYTES:
                raise SlowAnswerError(
                    f"it sends {self._what} too slowly: {plural(brought, 'byte')} in "
                    f"{now - self._since_s:.0f} s"
                )
            self._since_s, self._since_bytes = now, self.num_bytes


async def read_body(read: Callable[[int], Awaitable[bytes]], limit: int) -> bytes:
    """The body of an answer, as it comes.

    Args:
        read: Gives at most so many bytes, none at the end.
        limit: Bytes that were asked for.

    Raises:
        BadAnswerError: There is more of it, or it comes too slowly.
    """
    blocks: list[bytes] = []
    meter = Meter(limit, "an answer")
    while True:
        # One byte more than may come: whether there is more is told by it.
        block = await read(min(_BLOCK_BYTES, limit - meter.num_bytes + 1))
        if not block:
            return b"".join(blocks)
        meter.add(len(block))
        blocks.append(block)


def check_range(told: str | None, start: int, length: int | None) -> int | None:
    """How many bytes an answer's `Content-Range` promises; None if it has none.

    Args:
        told: The header.
        start: First byte that was asked for.
        length: How many were asked for; None for all to the end.

    Raises:
        BadAnswerError: It is of another range than was asked for, or of less.
    """
    if told is None:
        return None
    found = _RANGE.fullmatch(told.strip())
    if found is None:
        raise BadAnswerError("it answers a range with a Content-Range that is none")
    first, last = int(found[1]), int(found[2])
    total = None if found[3] == "*" else int(found[3])
    if total is not None and total <= start and last < first:
        return 0  # Some say so what others say with status 416.
    end = None if length is None else start + length
    if total is not None:
        end = total if end is None else min(end, total)
    if first != start or last < first or (end is not None and last + 1 != end):
        raise BadAnswerError(
            f"it answers with bytes {first}-{last} where {start}-{'' if end is None else end - 1} "
            "were asked for"
        )
    return last - first + 1


class Tags:
    """What each file was when it was first read: its ETag."""

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}

    def note(self, path: str, tag: str | None) -> None:
        """Note what a listing told."""
        if tag:
            self._seen[path] = tag

    def check(self, path: str, tag: str | None) -> None:
        """Note the ETag of an answer.

        Raises:
            BadAnswerError: It is another than before.
        """
        if tag and self._seen.setdefault(path, tag) != tag:
            raise BadAnswerError("it changed while it was read")


class Listing:
    """The pages of one listing, bounded."""

    def __init__(self) -> None:
        self.infos: list[dict[str, Any]] = []
        self._tokens: set[str] = set()
        self._num_pages = 0
        self._began_s = time.monotonic()

    def add(self, infos: list[dict[str, Any]], token: str | None) -> None:
        """Take a page, and the token of the next one, if there is one.

        Raises:
            BadAnswerError: It goes on beyond its bounds, or in a circle.
        """
        self.infos += infos
        self._num_pages += 1
        if token is None:
            return
        if not token or token in self._tokens:
            raise BadAnswerError("its listing goes in a circle: it gives a page's token again")
        self._tokens.add(token)
        elapsed_s = time.monotonic() - self._began_s
        what = (
            f"its listing does not end: {plural(self._num_pages, 'page')} with "
            f"{plural(len(self.infos), 'name')} in {elapsed_s:.0f} s"
        )
        if elapsed_s > LISTING_S:
            raise SlowAnswerError(what)
        if self._num_pages >= _MAX_PAGES or len(self.infos) > _MAX_KEYS:
            raise BadAnswerError(what)


async def within(make: Awaitable[Any], patience_s: float) -> Any:
    """An answer, or an error if it takes longer.

    Raises:
        SlowAnswerError: It takes longer.
    """
    began = time.monotonic()
    try:
        return await asyncio.wait_for(make, patience_s)
    except (TimeoutError, asyncio.TimeoutError) as error:
        if time.monotonic() - began < patience_s:
            raise  # A library's own.
        raise SlowAnswerError(f"its answer takes more than {patience_s:.0f} s") from error
