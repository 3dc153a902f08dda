"""A web server on loopback that speaks S3, Google's and Azure's, too: files, and faults on the way.

It runs in a process of its own (`python -m tests.remote.faulty_server FOLDER FAULT`), prints its
address, and knows of each fault only a word. The stores' own tongues are spoken as far as a
listing, an object and ranges go.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.conftest import ROOT

#: Every fault, and what it does. `none` is the server as it should be.
FAULTS = {
    "none": "answers as it should",
    "longer": "sends more than it was asked for",
    "endless": "sends a body without length and without end",
    "endless-listing-page": "sends one page of a listing without end",
    "endless-error": "answers 403 with a body without end",
    "drip": "sends a byte a second",
    "drip-headers": "sends a byte of a header a second",
    "hang": "never answers a GET of a data file",
    "other-range": "answers with another range than was asked",
    "shorter": "answers with a part of the range, as if the file ended there",
    "no-range": "answers 206 without Content-Range",
    "head-fails": "answers every HEAD of a data file with 500",
    "redirect-loop": "leads from one address to the next",
    "redirect-away": "leads to another host",
    "etag": "gives another ETag with each answer",
    "same-token": "gives the token of a page again",
    "no-end": "lists a new page after every page",
    "deep-listing-page": "answers a listing with 200,000 brackets",
    "large-number": "claims a length of 10**30 bytes",
    "storm": "answers 503 to everything",
}
_CHUNK = b"x" * 65536
_DEEP = b"[" * 200_000
#: A file's name in an address, in any of the tongues.
_NAME = re.compile(
    r"(?:/ckpt|/devstoreaccount1/ckpt|(?:/download)?/storage/v1/b/ckpt/o)?(?P<name>/?.*)"
)
_TIME = "2026-01-01T00:00:00.000Z"

#: Keys with size and tag, and the token of the next page -> a page.
Page = Callable[[list[tuple[str, str, str]], str], str]


def _s3_page(keys: list[tuple[str, str, str]], more: str) -> str:
    text = "".join(
        f"<Contents><Key>{name}</Key><Size>{size}</Size><LastModified>{_TIME}</LastModified>"
        f"<ETag>{tag}</ETag></Contents>"
        for name, size, tag in keys
    )
    if more:
        text += "<IsTruncated>true</IsTruncated>"
        text += f"<NextContinuationToken>{more}</NextContinuationToken>"
    return f"<ListBucketResult>{text}</ListBucketResult>"


def _azure_page(keys: list[tuple[str, str, str]], more: str) -> str:
    text = "".join(
        f"<Blob><Name>{name}</Name><Properties><Content-Length>{size}</Content-Length>"
        "<Last-Modified>Thu, 01 Jan 2026 00:00:00 GMT</Last-Modified>"
        f"<BlobType>BlockBlob</BlobType><Etag>{tag}</Etag></Properties></Blob>"
        for name, size, tag in keys
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?><EnumerationResults ContainerName="ckpt">'
        f"<Blobs>{text}</Blobs><NextMarker>{more}</NextMarker></EnumerationResults>"
    )


def _google_page(keys: list[tuple[str, str, str]], more: str) -> str:
    items = [_google_object(name, size, tag) for name, size, tag in keys]
    told = {"kind": "storage#objects", "items": items}
    return json.dumps({**told, "nextPageToken": more} if more else told)


def _google_object(name: str, size: str, tag: str) -> dict[str, str]:
    return {
        "kind": "storage#object", "name": name, "bucket": "ckpt", "size": size, "etag": tag,
        "generation": tag.strip('"'), "updated": _TIME,
    }  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    fault: str
    away: str
    num_answers = 0

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        at = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(at.query).items()}
        path = unquote(at.path)
        try:
            if self.fault == "storm":
                self._send(503, b"<Error><Code>SlowDown</Code></Error>")
            elif "list-type" in query:
                self._list(_s3_page, query.get("prefix", ""), query.get("continuation-token"))
            elif query.get("comp") == "list":
                self._list(_azure_page, query.get("prefix", ""), query.get("marker"))
            elif path == "/storage/v1/b/ckpt/o":
                self._list(_google_page, query.get("prefix", ""), query.get("pageToken"))
            else:
                self._file(_NAME.fullmatch(path)["name"].strip("/"))  # type: ignore[index]
        except (BrokenPipeError, ConnectionError):
            self.close_connection = True

    # --- a listing

    def _list(self, page: Page, prefix: str, token: str | None) -> None:
        files = sorted(p for p in self.folder.iterdir() if p.is_file())
        keys = [(prefix + p.name, str(p.stat().st_size), self._tag()) for p in files]
        more = ""
        if self.fault == "large-number":
            keys = [(name, str(10**30), tag) for name, _, tag in keys]
        if self.fault == "same-token":
            more = "t"
        elif self.fault == "no-end":
            more = str(int(token or 0) + 1)
            keys = [(f"{prefix}p{more}-{i}", "1", self._tag()) for i in range(1000)]
        text = page(keys, more).encode()
        if self.fault == "endless-listing-page":
            self._endless(200, text[:60])
        elif self.fault == "deep-listing-page":
            self._send(200, _DEEP, **{"Content-Type": "application/json"})
        else:
            self._send(200, text, **{"Content-Type": "application/xml"})

    # --- a file

    def _file(self, name: str) -> None:
        path, fault = self.folder / name, self.fault
        is_data = ".distcp" in name
        if fault == "redirect-loop" and is_data:
            self._send(307, b"", Location=self.path + "x")
            return
        if not path.is_file() or not name:
            self._send(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        if fault == "endless-error" and is_data:
            self._endless(403, b"<Error><Code>AccessDenied</Code></Error>")
            return
        if fault == "redirect-away" and is_data:
            self._send(307, b"", Location=f"{self.away}{self.path}")
            return
        data = path.read_bytes()
        if self.command == "HEAD":
            if fault == "head-fails" and is_data:
                self._send(500, b"")
            elif fault == "drip-headers" and is_data:
                self._drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 600)
            else:
                size = str(10**30) if fault == "large-number" and is_data else str(len(data))
                self._head(200, size, ETag=self._tag())
            return
        status, headers = 200, {}
        asked = self.headers.get("x-ms-range") or self.headers.get("Range", "")
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", asked):
            first, last = int(found[1]), int(found[2] or len(data) - 1)
            total = len(data)
            if first >= total:
                self._send(416, b"<Error><Code>InvalidRange</Code></Error>")
                return
            data = data[first : last + 1]
            if fault == "shorter" and is_data:
                data = data[: len(data) // 2]
                total = first + len(data)
            shift = 1 if fault == "other-range" and is_data else 0
            status = 206
            told = f"bytes {first + shift}-{first + shift + len(data) - 1}/{total}"
            headers = {} if fault == "no-range" and is_data else {"Content-Range": told}
        headers |= {"ETag": self._tag(), "x-ms-blob-type": "BlockBlob"}
        headers["X-Goog-Generation"] = headers["ETag"].strip('"')
        if fault == "hang" and is_data:
            time.sleep(120)
        elif fault == "drip" and is_data:
            self._head(status, str(len(data)), **headers)
            self._drip(data * 4)
        elif fault == "drip-headers" and is_data:
            self._drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 600)
        elif fault == "endless" and is_data:
            self._endless(status, data, **headers)
        elif fault == "longer" and is_data:
            self._send(status, data + b"more" * 10, **headers)
        else:
            self._send(status, data, **headers)

    def _tag(self) -> str:
        _Handler.num_answers += 1
        return f'"{_Handler.num_answers if self.fault == "etag" else 1}"'

    # --- bytes

    def _head(self, status: int, length: str | None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", length)
        else:
            self.send_header("Connection", "close")
        self.end_headers()

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self._head(status, str(len(body)), **headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _endless(self, status: int, start: bytes, **headers: str) -> None:
        self.close_connection = True
        self._head(status, None, **headers)
        self.wfile.write(start)
        while self.command != "HEAD":
            self.wfile.write(_CHUNK)

    def _drip(self, data: bytes) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in data:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(1)


class _Away(BaseHTTPRequestHandler):
    """Another host: it says on stdout what credentials it was handed."""

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        held = {"authorization", "x-amz-security-token", "cookie", "x-auth-token"}
        given = sorted(name for name in self.headers if name.lower() in held)
        print("AWAY", *given, flush=True)  # noqa: T201 - for who started it
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET


def serve(folder: Path, fault: str) -> None:
    """Serve until the process is ended."""
    away = ThreadingHTTPServer(("127.0.0.1", 0), _Away)
    _Handler.folder, _Handler.fault = folder, fault
    # The same machine by another name is another host.
    _Handler.away = f"http://localhost:{away.server_port}"
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # Who asked has left.
    server.daemon_threads = True
    threading.Thread(target=away.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)  # noqa: T201 - for who started it
    server.serve_forever()


@contextmanager
def faulty_server(folder: Path, fault: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The server in a process of its own; its address, and the process."""
    argv = [sys.executable, "-m", "tests.remote.faulty_server", str(folder), fault]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2])
