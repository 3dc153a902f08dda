"""A plain web server of a folder, with what servers have and lack: ranges, HEAD, passwords."""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class HttpFiles:
    """A running server; its attributes may be changed while it runs.

    Attributes:
        folder: What it serves.
        url: Its address.
        ranges: Whether it knows Range requests.
        head: Whether it answers HEAD.
        password: `user:password` that it asks for, or an empty string.
        query: Query that it asks for, as a signature.
        asked: `METHOD PATH RANGE -> STATUS` of every request.
    """

    folder: Path
    url: str = ""
    ranges: bool = True
    head: bool = True
    password: str = ""
    query: str = ""
    asked: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: HttpFiles

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        status, body, headers = self._reply(with_body)
        path = self.path.partition("?")[0]
        ranged = self.headers.get("Range", "")
        self.files.asked.append(f"{self.command} {path} {ranged} -> {status}".replace("  ", " "))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _reply(self, with_body: bool) -> tuple[int, bytes, dict[str, str]]:
        files = self.files
        name, _, query = self.path.partition("?")
        if files.password:
            wanted = "Basic " + base64.b64encode(files.password.encode()).decode()
            if self.headers.get("Authorization") != wanted:
                return 401, b"", {"WWW-Authenticate": "Basic"}
        if files.query and query != files.query:
            return 403, b"", {}
        if not with_body and not files.head:
            return 405, b"", {}
        path = files.folder / name.removeprefix("/ckpt").strip("/")
        if not path.is_file():
            return 404, b"", {}
        data = path.read_bytes()
        headers = {"Last-Modified": self.date_time_string(path.stat().st_mtime)}
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not (found and files.ranges and with_body):
            return 200, data, headers
        first, last = int(found[1]), int(found[2] or len(data) - 1)
        if first >= len(data):
            return 416, b"", {"Content-Range": f"bytes */{len(data)}"}
        part = data[first : last + 1]
        headers["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(data)}"
        return 206, part, headers


@contextmanager
def http_files(folder: Path) -> Iterator[HttpFiles]:
    """A server of a folder, at `/ckpt` on a free port of loopback."""
    files = HttpFiles(folder)
    handler = type("Handler", (_Handler,), {"files": files})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    files.url = f"http://127.0.0.1:{server.server_port}/ckpt"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
