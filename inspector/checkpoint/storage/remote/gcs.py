"""`GcsFiles`: a bucket of Google's, with bounds.

Of gcsfs, what makes a request is used alone: its listing follows any number of pages.
"""

from __future__ import annotations

import json
import os
from functools import partial
from typing import Any

from inspector.checkpoint.json_bounds import over_bounds
from inspector.checkpoint.storage.remote.bounds import (
    CONNECT_TIMEOUT_S,
    READ_TIMEOUT_S,
    BadAnswerError,
    Listing,
    Tags,
)
from inspector.checkpoint.storage.remote.errors import NoBucketError
from inspector.checkpoint.storage.remote.filesystem import FsspecFiles, users_setting
from inspector.checkpoint.storage.remote.session import session_options

__all__ = ["GcsFiles"]

#: gcsfs's own setting. Where it is on, gcsfs asks once more, by gRPC, what kind of bucket it is.
_ZONAL_BUCKETS = "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"


class GcsFiles(FsspecFiles):
    """Files of a bucket, by `bucket/name`; gcsfs makes the requests, and they are read here."""

    def __init__(self, fs: Any) -> None:
        once = getattr(type(fs)._request, "__wrapped__", None)
        super().__init__(fs, counts=once is None)
        self._tags = Tags()
        self._generations = Tags()
        if once is not None:
            # `Calls` tries again; gcsfs's six tries of its own would take minutes to give up.
            fs._request = partial(self._request, partial(once, fs))

    @staticmethod
    def options() -> dict[str, Any]:
        os.environ.setdefault(_ZONAL_BUCKETS, "false")  # Before gcsfs is imported.
        users = users_setting("session_kwargs", "gs", "gcs")
        own: dict[str, Any] = {"session_kwargs": {**(users or {}), **session_options()}}
        if users_setting("requests_timeout", "gs", "gcs") is not None:
            return own
        from aiohttp import ClientTimeout  # lazy: an optional package

        # Without one gcsfs waits for ever.
        patience = ClientTimeout(sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S)
        return {**own, "requests_timeout": patience}

    @property
    def endpoint(self) -> str:
        return str(self._fs._location)

    def list(self, path: str) -> Any:
        return self._listed(path, "/")

    def tree(self, path: str) -> Any:
        return self._listed(path, None)

    async def info(self, path: str) -> Any:
        # A folder is never asked for: it is what a listing shows.
        bucket, _, name = path.partition("/")
        found = _fields(await self._fs._call("GET", "b/{}/o/{}", bucket, name))
        return _object(bucket, found)

    async def _request(self, once: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls.asked()
        return await once(*args, **kwargs)

    async def _listed(self, path: str, delimiter: str | None) -> Any:
        # gcsfs's own `ls` and `find` of an empty folder ask for more, and follow any page.
        bucket, _, name = path.partition("/")
        asked = {"prefix": f"{name}/" if name else None, "delimiter": delimiter}
        pages, token = Listing(), None
        while True:
            try:
                answer = await self._fs._call(
                    "GET", "b/{}/o", bucket, **asked, maxResults=_PAGE_KEYS, pageToken=token
                )
            except FileNotFoundError as error:
                raise NoBucketError(bucket) from error
            page = _fields(answer)
            below, items, token = (page.get(n) for n in ("prefixes", "items", "nextPageToken"))
            infos = [{"name": f"{bucket}/{at}", "type": "directory"} for at in _items(below, str)]
            for item in _items(items, dict):
                found = _object(bucket, item)
                infos.append(found)
                self._generations.note(found["name"], found["generation"])
            pages.add(infos, token if token is None else str(token))
            if token is None:
                return pages.infos

    async def _read(self, path: str, start: int, end: int | None) -> bytes:
        asked = f"bytes={start}-{'' if end is None else end - 1}"
        headers, data = await self._fs._call("GET", self._fs.url(path), headers={"Range": asked})
        self._generations.check(path, headers.get("X-Goog-Generation"))
        self._tags.check(path, headers.get("ETag"))
        answer: bytes = data
        return answer


_PAGE_KEYS = 1000


def _fields(answer: tuple[Any, bytes]) -> dict[str, Any]:
    """The JSON object that an answer of Google's is.

    Raises:
        BadAnswerError: It is none.
    """
    text = answer[1]
    over = over_bounds(text)
    if over:
        raise BadAnswerError(f"it answers with JSON out of bounds: {over}")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadAnswerError("it answers with something that is not JSON") from error
    if type(document) is not dict:
        raise BadAnswerError("it answers with JSON that is no object")
    return document


def _items(value: Any, kind: type) -> list[Any]:
    if value is None:
        return []
    if type(value) is not list or not all(type(item) is kind for item in value):
        raise BadAnswerError("it answers with a listing that is none")
    return value


def _object(bucket: str, found: dict[str, Any]) -> dict[str, Any]:
    """An object, as one of fsspec's dictionaries."""
    name, generation, size = found.get("name"), found.get("generation"), str(found.get("size", 0))
    if type(name) is not str or not (size.isdecimal() and len(size) < 19):
        raise BadAnswerError("it answers with an object that has no name, or no size")
    told = {"name": f"{bucket}/{name}", "size": int(size), "updated": found.get("updated")}
    return {**told, "generation": None if generation is None else str(generation)}
