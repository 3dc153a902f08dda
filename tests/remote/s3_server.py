"""moto's S3 server on loopback: what it was asked, and faults on its way."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "ckpts"
KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIALOOPBACKONLY",
    "AWS_SECRET_ACCESS_KEY": "never-a-real-secret/key",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


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
        return self.method == "GET" and "list-type=2" in self.query

    @property
    def is_object(self) -> bool:
        return self.method == "GET" and not self.is_listing

    def __str__(self) -> str:
        return f"{self.method} {self.path}?{self.query} {self.range} -> {self.status}"


@dataclass
class S3Server:
    """A running server.

    Attributes:
        url: Its endpoint.
        asked: Every request since `forget`.
        fault: Called with each request before it is answered; returns a status to answer with
            instead, `"reset"` to break the connection, an event to wait for first (half a
            minute at most), or None.
        most_at_once: Largest number of requests that were in work together.
    """

    url: str
    asked: list[Asked] = field(default_factory=list)
    fault: Callable[[Asked], int | str | threading.Event | None] | None = None
    most_at_once: int = 0

    @property
    def env(self) -> dict[str, str]:
        return {**KEYS, "AWS_ENDPOINT_URL": self.url}

    def forget(self) -> None:
        self.asked.clear()
        self.fault = None
        self.most_at_once = 0

    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
        )

    def put_folder(self, folder: Path, prefix: str) -> str:
        """Upload every file below a folder; the URL of the copy."""
        client = self.client()
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                key = f"{prefix}/{path.relative_to(folder)}"
                client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
        self.forget()
        return f"s3://{BUCKET}/{prefix}"

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


def together(server: S3Server, count: int) -> Callable[[Asked], threading.Event]:
    """No request is answered before so many were asked: in turn, they would wait for ever."""
    met = threading.Event()

    def hold(_: Asked) -> threading.Event:
        if len(server.asked) >= count:
            met.set()
        return met

    return hold


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *args: Any, **kwargs: Any) -> None:
        pass


class _Watched:
    """moto's application, watched, and disturbed where the test says so."""

    def __init__(self, server: S3Server) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = server
        self._lock = threading.Lock()
        self._now = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        asked = Asked(
            environ["REQUEST_METHOD"],
            environ["PATH_INFO"],
            environ.get("QUERY_STRING", ""),
            environ.get("HTTP_RANGE", ""),
        )
        with self._lock:
            self._server.asked.append(asked)
            self._now += 1
            self._server.most_at_once = max(self._server.most_at_once, self._now)
        try:
            fault = self._server.fault(asked) if self._server.fault is not None else None
            if isinstance(fault, threading.Event):
                fault.wait(30)
            elif fault == "reset":
                return _reset(environ)
            elif isinstance(fault, int):
                asked.status = fault
                body = b"<Error><Code>%s</Code></Error>" % _CODES.get(fault, b"Fault")
                start_response(f"{fault} Fault", [("Content-Length", str(len(body)))])
                return [body]
            return self._answer(asked, environ, start_response)
        finally:
            with self._lock:
                self._now -= 1

    def _answer(self, asked: Asked, environ: Any, start_response: Any) -> Iterable[bytes]:
        def started(status: str, headers: Any, *more: Any) -> Any:
            asked.status = int(status.split()[0])
            return start_response(status, headers, *more)

        body = list(self._app(environ, started))
        asked.num_bytes = sum(map(len, body)) if asked.method == "GET" else 0
        return body


_CODES = {403: b"AccessDenied", 500: b"InternalError", 503: b"SlowDown"}


def _reset(environ: dict[str, Any]) -> Iterator[bytes]:
    connection: socket.socket = environ["werkzeug.socket"]
    # Closed with lingering for no time at all, a socket sends RST.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.shutdown(socket.SHUT_RDWR)
    connection.close()
    raise ConnectionError("reset on purpose")


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server with one empty bucket, on a free port of loopback."""
    server = S3Server("")
    http = make_server("127.0.0.1", 0, _Watched(server), threaded=True, request_handler=_Quiet)
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        server.client().create_bucket(Bucket=BUCKET)
        server.forget()
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
