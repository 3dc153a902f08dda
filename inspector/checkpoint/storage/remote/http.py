"""`HttpFiles`: the files of a web server, with bounds."""

from __future__ import annotations

import email.utils
from typing import Any
from urllib.parse import quote, urlsplit

from inspector.checkpoint.storage.base import Entry
from inspector.checkpoint.storage.remote.bounds import (
    CONNECT_TIMEOUT_S,
    MAX_UNSIZED_BYTES,
    READ_TIMEOUT_S,
    BadAnswerError,
    Tags,
    check_range,
    read_body,
)
from inspector.checkpoint.storage.remote.calls import Calls
from inspector.checkpoint.storage.remote.filesystem import users_setting
from inspector.errors import StorageError

__all__ = ["HttpFiles"]

#: A file up to this size is read whole from a server that ignores ranges.
_MAX_WHOLE_BYTES = 16 << 20
_MAX_REDIRECTS = 5


class HttpFiles:
    """Files of a web server, by their addresses; a query goes with every one of them.

    Args:
        fs: fsspec's http file system.
        query: What stands after the `?` of the address, or an empty string.

    Attributes:
        query: The same with its `?`.
    """

    has_listing = False
    has_tree = False

    def __init__(self, fs: Any, query: str) -> None:
        self._fs = fs
        self.query = f"?{query}" if query else ""
        self.calls = Calls(fs.loop)
        self.endpoint = ""
        self._tags = Tags()

    @staticmethod
    def options() -> dict[str, Any]:
        """What the file system is made with; the user's own settings go before it."""
        from aiohttp import ClientTimeout  # lazy: an optional package

        own = {"timeout": ClientTimeout(sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S)}
        users = users_setting("client_kwargs", "http", "https")
        return {"client_kwargs": {**own, **users} if isinstance(users, dict) else own}

    def _url(self, path: str) -> Any:
        scheme, _, rest = path.partition("://")
        host, slash, name = rest.partition("/")
        self.endpoint = f"{scheme}://{urlsplit(path).netloc.rpartition('@')[2]}"
        return self._fs.encode_url(f"{scheme}://{host}{slash}{quote(name, safe='/%')}{self.query}")

    async def info(self, path: str) -> dict[str, Any]:
        """Size and time by a HEAD, or by the first byte where HEAD is not allowed."""
        async with await self._ask("HEAD", path, {}) as answer:
            if answer.status not in (403, 405, 501):
                answer.raise_for_status()
                size = _size(answer.headers.get("Content-Length"))
                if size is not None:
                    self._tags.check(path, _strong(answer.headers.get("ETag")))
                    return _http_info(path, size, answer)
        self.calls.asked()
        async with await self._ask("GET", path, {"Range": "bytes=0-0"}) as answer:
            if answer.status == 416:
                return _http_info(path, 0, answer)
            answer.raise_for_status()
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            if answer.status == 200:
                total = answer.headers.get("Content-Length", "")
            answer.close()  # It may go on for ever.
            return _http_info(path, _size(total), answer)

    async def read(self, path: str, start: int, length: int | None) -> bytes:
        """A range; empty if it begins past the end.

        Raises:
            StorageError: The server ignores ranges, and the file is large.
            BadAnswerError: It answers with something else than was asked for.
        """
        headers = {}
        if start or length is not None:
            end = "" if length is None else str(start + length - 1)
            headers["Range"] = f"bytes={start}-{end}"
        async with await self._ask("GET", path, headers) as answer:
            if answer.status == 416:
                return b""
            answer.raise_for_status()
            self._tags.check(path, _strong(answer.headers.get("ETag")))
            if not headers:
                return await _body(answer, MAX_UNSIZED_BYTES)
            if answer.status == 206:
                promised = check_range(answer.headers.get("Content-Range"), start, length)
                if promised is None:
                    raise BadAnswerError("it answers a range without a Content-Range")
                data = await _body(answer, promised)
                if len(data) < promised:
                    raise BadAnswerError(f"it sends {len(data):,} of {promised:,} bytes")
                return data
            size = _size(answer.headers.get("Content-Length"))
            if size is None or size > _MAX_WHOLE_BYTES:
                answer.close()
                raise StorageError(
                    f"{self.endpoint} answers a range with the whole file",
                    "serve it with a server that knows Range requests, or copy it here",
                )
            data = await _body(answer, size)
            return data[start:] if length is None else data[start : start + length]

    async def _ask(self, method: str, path: str, headers: dict[str, str]) -> Any:
        """An answer; of another host only what it gives without our credentials.

        Raises:
            BadAnswerError: It leads in a circle, or away with what was given for this host.
        """
        session = await self._fs.set_session()
        url = self._url(path)
        options = {**self._fs.kwargs, "allow_redirects": False}
        headers = {"Accept-Encoding": "identity", **headers}
        for _ in range(_MAX_REDIRECTS):
            answer = await session.request(method, url, headers=headers, **options)
            place = answer.headers.get("Location")
            if answer.status not in (301, 302, 303, 307, 308) or not place:
                return answer
            answer.close()
            there = answer.url.join(type(answer.url)(place))
            if there.scheme not in ("http", "https"):
                raise BadAnswerError("it leads to an address that is none of the web")
            if there.origin() == answer.url.origin():
                # aiohttp takes a password out of the address that it shows.
                there = there.with_user(url.user).with_password(url.password)
            elif self._has_credentials():
                raise BadAnswerError(
                    f"it leads to another host ({there.host}), and the credentials set for it "
                    "would go with it"
                )
            url = there
        raise BadAnswerError("it leads from one address to the next without end")

    def _has_credentials(self) -> bool:
        """Whether the user set headers, cookies or keys that go with every request."""
        users = users_setting("client_kwargs", "http", "https")
        names = ("headers", "auth", "cookies")
        given = {**(users if isinstance(users, dict) else {}), **self._fs.kwargs}
        return any(given.get(name) for name in names)

    def list(self, path: str) -> Any:
        raise NotImplementedError

    def tree(self, path: str) -> Any:
        raise NotImplementedError

    def entry(self, info: dict[str, Any], base: str) -> Entry:
        """What `info` found, as an entry, named relative to the folder `base`."""
        name = str(info["name"]).removeprefix(base).strip("/")
        if info["size"] is None:
            return Entry(name, "other", problem="the server tells no size")
        return Entry(name, "file", info["size"], info["mtime"])


async def _body(answer: Any, limit: int) -> bytes:
    return await read_body(answer.content.read, limit)


def _size(text: str | None) -> int | None:
    """The number in a header; None if it is none."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 19 else None


def _strong(tag: str | None) -> str | None:
    """An ETag that stands for the bytes."""
    return None if tag is None or tag.startswith("W/") else tag


def _http_info(path: str, size: int | None, answer: Any) -> dict[str, Any]:
    modified = None
    try:
        modified = email.utils.parsedate_to_datetime(answer.headers["Last-Modified"]).timestamp()
    except (KeyError, ValueError, TypeError):
        pass  # It tells none, or none that can be read.
    return {"name": path, "size": size, "mtime": modified}
