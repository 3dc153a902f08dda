"""What Azure's and Google's clients are given to make a session of aiohttp with.

An answer is counted and bounded where it comes in, whatever those libraries go on to do with it.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from inspector.checkpoint.storage.remote.bounds import (
    MAX_ERROR_BYTES,
    MAX_TEXT_BYTES,
    MAX_UNSIZED_BYTES,
    BadAnswerError,
    Meter,
    check_range,
    read_body,
)

__all__ = ["session_options"]

#: Azure's own header goes before the common one.
_RANGE_HEADERS = ("x-ms-range", "Range")
_ASKED = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")


@cache
def session_options() -> dict[str, Any]:
    """What an `aiohttp.ClientSession` is made with, so that its answers are bounded.

    An answer to a range may have as many bytes as the range, any other as a page of a listing;
    redirections are not followed.
    """
    import aiohttp  # lazy: an optional package

    class BoundedResponse(aiohttp.ClientResponse):  # type: ignore[misc, unused-ignore]
        _bounded: Any = None

        @property
        def content(self) -> Any:
            return self._bounded

        @content.setter
        def content(self, stream: Any) -> None:
            self._bounded = None if stream is None else _Content(self, stream)

    tracing = aiohttp.TraceConfig()
    tracing.on_request_redirect.append(_refuse)
    return {"response_class": BoundedResponse, "trace_configs": [tracing]}


async def _refuse(_session: Any, _context: Any, told: Any) -> None:
    raise BadAnswerError(f"it leads elsewhere ({told.response.status}), and is not followed")


class _Content:
    """A body as it comes in, which breaks off where it goes beyond what was asked for."""

    def __init__(self, answer: Any, stream: Any) -> None:
        self._answer = answer
        self._stream = stream
        self._meter: Meter | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def read(self, most: int = -1) -> bytes:
        """At most so many bytes, or all."""
        if self._meter is None:
            # Not before: an error here is one of reading.
            self._meter = Meter(_limit(self._answer))
        if most < 0:
            return await read_body(self._stream.read, self._meter.limit)
        block: bytes = await self._stream.read(most)
        self._meter.add(len(block))
        return block


def _limit(answer: Any) -> int:
    """How many bytes an answer may have."""
    if answer.status >= 300:
        return MAX_ERROR_BYTES
    sent = answer.request_info.headers
    found = _ASKED.fullmatch(next((sent[name] for name in _RANGE_HEADERS if name in sent), ""))
    if found is None or answer.status not in (200, 206):
        return MAX_TEXT_BYTES
    start = int(found[1])
    length = int(found[2]) + 1 - start if found[2] else None
    promised = check_range(answer.headers.get("Content-Range"), start, length)
    if promised is not None:
        return promised
    return MAX_UNSIZED_BYTES if length is None else length
