"""`Watched`: what a storage server was asked, and faults on the way to it; and `relay`, which
stands in front of a server that cannot be watched from inside."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

Fault = int | str | threading.Event | None


@dataclass
class Asked:
    """One request as the server saw it."""

    method: str
    path: str
    query: str
    range: str
    status: int = 0
    num_bytes: int = 0

    @property
    def is_listing(self) -> bool:
        """As S3, Azure and Google's store have it, in this order."""
        is_list = "list-type=2" in self.query or "comp=list" in self.query
        return self.method == "GET" and (is_list or self.path.endswith("/o"))

    @property
    def is_object(self) -> bool:
        """Whether it asks for an object's bytes."""
        of_google = self.path.startswith("/storage/")  # Its bytes lie at /download/storage/.
        return self.method == "GET" and not self.is_listing and not of_google

    def __str__(self) -> str:
        return f"{self.method} {self.path}?{self.query} {self.range} -> {self.status}"


@dataclass
class Watched:
    """A running server.

    Attributes:
        url: Its endpoint.
        asked: Every request since `forget`.
        fault: Called with each request before it is answered; returns a status to answer with
            instead, `"reset"` to break the connection, `"cut"` to break it in the midst of the
            answer (a relay only), an event to wait for first (half a minute at most), or None.
        most_at_once: Largest number of requests that were in work together.
    """

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    fault: Callable[[Asked], Fault] | None = None
    most_at_once: int = 0
    _now: int = 0
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def forget(self) -> None:
        self.asked.clear()
        self.fault = None
        self.most_at_once = 0

    @contextmanager
    def watch(self, asked: Asked) -> Iterator[int | str | None]:
        """Count a request while it is answered; gives what is to be done instead, or None."""
        with self._lock:
            self.asked.append(asked)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            fault = self.fault(asked) if self.fault is not None else None
            if isinstance(fault, threading.Event):
                fault.wait(30)
                fault = None
            yield fault
        finally:
            with self._lock:
                self._now -= 1

    @property
    def listings(self) -> list[Asked]:
        return [a for a in self.asked if a.is_listing]

    @property
    def objects(self) -> list[Asked]:
        return [a for a in self.asked if a.is_object]

    @property
    def object_bytes(self) -> int:
        return sum(a.num_bytes for a in self.objects if a.status < 400)


def times(count: int, fault: int | str, of: Callable[[Asked], bool] = lambda _: True) -> Any:
    """A fault of the first `count` requests for which `of` holds."""
    left = [count]

    def disturb(asked: Asked) -> int | str | None:
        if left[0] and of(asked):
            left[0] -= 1
            return fault
        return None

    return disturb


def together(server: Watched, count: int) -> Callable[[Asked], threading.Event]:
    """No request is answered before so many were asked: in turn, they would wait for ever."""
    met = threading.Event()

    def hold(_: Asked) -> threading.Event:
        if len(server.asked) >= count:
            met.set()
        return met

    return hold


def files_below(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The name, relative to a folder, and the bytes of every file below it."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(folder)), path.read_bytes()


def reset(connection: socket.socket) -> None:
    """Break a connection off."""
    # Closed with lingering for no time at all, a socket sends RST.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextmanager
def silent_server() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def closed_port() -> str:
    """An address at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}"


_OF_ONE_CONNECTION = {"connection", "content-length", "keep-alive", "transfer-encoding"}


class _Relay(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    watched: Watched
    upstream: str

    def log_message(self, *args: Any) -> None:
        pass

    def _relay(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.partition("?")
        ranged = self.headers.get("Range") or self.headers.get("x-ms-range") or ""
        asked = Asked(self.command, unquote(path), query, ranged)
        with self.watched.watch(asked) as fault:
            if fault == "reset":
                self.close_connection = True
                reset(self.connection)
            elif isinstance(fault, int):
                asked.status = fault
                self._send(fault, [], b'{"error": {"message": "on purpose"}}')
            else:
                self._forward(asked, body, is_cut=fault == "cut")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _relay

    def _forward(self, asked: Asked, body: bytes, *, is_cut: bool) -> None:
        connection = http.client.HTTPConnection(self.upstream, timeout=30)
        try:
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() != "connection":
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            data = answer.read()
            asked.status, asked.num_bytes = answer.status, len(data)
            self._send(answer.status, answer.getheaders(), data, is_cut=is_cut)
        finally:
            connection.close()

    def _send(
        self, status: int, headers: list[tuple[str, str]], data: bytes, *, is_cut: bool = False
    ) -> None:
        self.send_response(status)
        length = str(len(data))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            if name.lower() not in _OF_ONE_CONNECTION:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if is_cut:
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.close_connection = True
            reset(self.connection)
        elif self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def relay(watched: Watched, upstream: str) -> Iterator[None]:
    """Stand before a server on a free port of loopback; `watched.url` is then its address."""
    at = urlsplit(upstream)
    handler = type("Relay", (_Relay,), {"watched": watched, "upstream": at.netloc})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # Who asked has left.
    watched.url = f"http://127.0.0.1:{server.server_port}{at.path.rstrip('/')}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
