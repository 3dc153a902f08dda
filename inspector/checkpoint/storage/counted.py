"""`AzureFiles` and `GcsFiles`: stores whose libraries hand on what aiohttp reads, bounded here.

Azure's client is asked directly: adlfs's own `ls` lists, beside a folder, every other one whose
name begins with that folder's (`step-1`: also `step-10`, `step-100`), and neither it nor `find`
lets the client's four tries, a minute together, be left to `Calls`. Of gcsfs, what makes a request
is used alone: its listing follows any number of pages. Both are given a session, or what one is
made with, so that an answer is counted where it comes in, whatever they go on to do with it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import weakref
from functools import cache, partial
from typing import Any

from inspector.checkpoint.json_bounds import over_bounds
from inspector.checkpoint.storage.bounds import (
    MAX_TEXT_BYTES,
    MAX_UNSIZED_BYTES,
    BadAnswerError,
    Listing,
    Meter,
    Tags,
    check_range,
    read_body,
)
from inspector.checkpoint.storage.errors import NoBucketError, is_past_end
from inspector.checkpoint.storage.filesystem import (
    CONNECT_TIMEOUT_S,
    READ_TIMEOUT_S,
    FsspecFiles,
    users_setting,
)

__all__ = ["AzureFiles", "GcsFiles"]


class AzureFiles(FsspecFiles):
    """Files of a container, by `container/name`."""

    def __init__(self, fs: Any) -> None:
        super().__init__(fs, counts=False)
        self._bounded: Any = None
        self._tags = Tags()
        self._each: dict[str, Any] = {
            "connection_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            **getattr(fs, "_timeout_kwargs", {}),  # The user's own.
            "retry_total": 0,
            "permit_redirects": False,  # Its headers would go with it to another host.
            "raw_request_hook": self.calls.asked,
        }

    @property
    def endpoint(self) -> str:
        client = self._fs.service_client
        return f"{client.scheme}://{client.primary_hostname}"

    def _client(self) -> Any:
        """The client of adlfs once more, over a session whose answers are bounded."""
        if self._bounded is None:
            import aiohttp  # lazy: an optional package

            # lazy: of Azure's alone
            from azure.core.pipeline.transport import (  # type: ignore[import-not-found, unused-ignore]
                AioHttpTransport,
            )

            client = self._fs.service_client
            # As Azure's own: proxies of the environment, no cookies. But what is compressed is
            # taken apart where it is counted.
            jar = aiohttp.DummyCookieJar()
            session = aiohttp.ClientSession(trust_env=True, cookie_jar=jar, **session_options())
            weakref.finalize(self, _close, self._fs.loop, session)
            self._bounded = type(client)(
                client.url, client.credential, transport=AioHttpTransport(session=session)
            )
        return self._bounded

    async def list(self, path: str) -> Any:
        container, prefix = _split(path)
        client = self._client().get_container_client(container)
        blobs = client.walk_blobs(prefix and f"{prefix}/", ["metadata"], "/", **self._each)
        return await self._paged(container, blobs)

    async def tree(self, path: str) -> Any:
        container, prefix = _split(path)
        client = self._client().get_container_client(container)
        blobs = client.list_blobs(prefix and f"{prefix}/", ["metadata"], **self._each)
        return await self._paged(container, blobs)

    async def _paged(self, container: str, blobs: Any) -> Any:
        listing, pages = Listing(), blobs.by_page()
        async for page in pages:
            infos = [_info(container, blob) async for blob in page]
            for info in infos:
                self._tags.note(info["name"], info.get("etag"))
            listing.add(infos, pages.continuation_token or None)
        return listing.infos

    async def info(self, path: str) -> Any:
        container, name = _split(path)
        client = self._client().get_blob_client(container, name)
        return _info(container, await client.get_blob_properties(**self._each))

    async def _read(self, path: str, start: int, end: int | None) -> bytes:
        container, name = _split(path)
        client = self._client().get_blob_client(container, name)
        length = None if end is None else end - start
        try:
            stream = await client.download_blob(start, length, max_concurrency=1, **self._each)
        except Exception as error:
            if is_past_end(error):
                return b""
            raise
        self._tags.check(path, stream.properties.etag)
        if stream.size > (MAX_UNSIZED_BYTES if length is None else length):
            raise BadAnswerError(f"it claims {stream.size:,} bytes of a file")
        data: bytes = await stream.readall()
        return data


def _close(loop: Any, session: Any) -> None:
    if loop.is_running():
        asyncio.run_coroutine_threadsafe(session.close(), loop)


def _split(path: str) -> tuple[str, str]:
    container, _, name = path.partition("/")
    return container, name


def _info(container: str, blob: Any) -> dict[str, Any]:
    """A blob, or what a listing calls a prefix, as one of fsspec's dictionaries."""
    name = f"{container}/{blob.name}"
    marks = {key.lower(): value for key, value in (blob.get("metadata") or {}).items()}
    if "size" not in blob or marks.get("hdi_isfolder") == "true":
        return {"name": name, "type": "directory"}
    told = {"name": name, "size": blob.size, "last_modified": blob.last_modified}
    return {**told, "etag": blob.etag}


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
        bucket, name = _split(path)
        found = _fields(await self._fs._call("GET", "b/{}/o/{}", bucket, name))
        return _object(bucket, found)

    async def _request(self, once: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls.asked()
        return await once(*args, **kwargs)

    async def _listed(self, path: str, delimiter: str | None) -> Any:
        # gcsfs's own `ls` and `find` of an empty folder ask for more, and follow any page.
        bucket, name = _split(path)
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
        try:
            headers, data = await self._fs._call(
                "GET", self._fs.url(path), headers={"Range": asked}
            )
        except Exception as error:
            if is_past_end(error):
                return b""
            raise
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
