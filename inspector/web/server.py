"""`serve`: the screen in browsers of this machine, until Ctrl+C.

The rule this module keeps: it listens on 127.0.0.1 alone, answers nobody without the token, and no
process that it started is left when it ends.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
from collections.abc import Sequence

from aiohttp import web

from inspector.checkpoint.text import printable
from inspector.errors import InspectError
from inspector.web.admission import HEADERS, admission
from inspector.web.page import FILES, SCRIPT, package_files, page
from inspector.web.session import Session, command_of

__all__ = ["WebServer", "serve"]

_HOST = "127.0.0.1"
_MAX_SESSIONS = 8
_MAX_MESSAGE = 1 << 20


class WebServer:
    """The server, without a port yet.

    Args:
        title: What the page is called.
        command: The process of a session.
        token: First part of every path (default: a new one).
    """

    def __init__(self, title: str, command: Sequence[str], token: str = "") -> None:
        self.token = token or secrets.token_urlsafe(24)
        self._title, self._command = title, command
        self._files = package_files()
        self._sockets: set[web.WebSocketResponse] = set()
        self._sessions: set[asyncio.Task[None]] = set()

    def app(self) -> web.Application:
        """The application of aiohttp."""
        app = web.Application(middlewares=[admission(self.token)])
        app.router.add_get(f"/{self.token}/", self._index)
        app.router.add_get(f"/{self.token}/ws", self._socket)
        app.router.add_get(f"/{self.token}/{{name}}", self._file)
        app.on_shutdown.append(self._shut)
        return app

    async def _index(self, request: web.Request) -> web.Response:
        # The gate has let in one of this machine's names; by a tunnel the port may be another.
        url = f"ws://{request.host}/{self.token}/ws"
        text = page(self._title, url)
        return web.Response(text=text, content_type="text/html", headers=HEADERS)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name == "page.js":
            return web.Response(text=SCRIPT, content_type="text/javascript", headers=HEADERS)
        if name not in FILES:
            raise web.HTTPNotFound
        kind = {"Content-Type": FILES[name][1]}
        return web.FileResponse(self._files[name], headers={**HEADERS, **kind})

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        if len(self._sockets) >= _MAX_SESSIONS:
            raise web.HTTPServiceUnavailable(reason=f"{_MAX_SESSIONS} sessions are open")
        socket = web.WebSocketResponse(heartbeat=15, max_msg_size=_MAX_MESSAGE)
        self._sockets.add(socket)
        try:
            await socket.prepare(request)
            width, height = (_number(request.query.get(key, "")) for key in ("width", "height"))
            session = asyncio.create_task(
                Session(self._command, socket, width or 80, height or 24).run()
            )
            self._sessions.add(session)
            session.add_done_callback(self._sessions.discard)
            # aiohttp cancels the handler when the browser goes; the session ends by itself.
            await asyncio.shield(session)
        finally:
            self._sockets.discard(socket)
        return socket

    async def _shut(self, app: web.Application) -> None:
        """End every session, and wait for their processes."""
        for socket in list(self._sockets):
            await socket.close(code=1001, message=b"the server ends")
        await asyncio.gather(*self._sessions, return_exceptions=True)


def serve(path: str, port: int, *, allow_verify: bool) -> None:
    """Serve the screen on `path` until a signal ends it.

    Args:
        path: A checkpoint, a folder with checkpoints under it, or a URL.
        port: Where to listen; 0 for any that is free.
        allow_verify: Whether jobs may be started from the browser.

    Raises:
        UsageError: textual-serve is not installed.
        InspectError: The port cannot be had.
    """
    server = WebServer(printable(path, 200), command_of(path, allow_verify=allow_verify))
    asyncio.run(_serve(server, port, allow_verify))


async def _serve(server: WebServer, port: int, allow_verify: bool) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # It stays so (`nohup`).
            loop.add_signal_handler(number, ended.set)
    # An access log would hold the token.
    runner = web.AppRunner(server.app(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, _HOST, port).start()
        except OSError as error:
            raise InspectError(
                f"cannot listen on {_HOST}:{port}: {error.strerror}", "--serve PORT takes another"
            ) from error
        port = runner.addresses[0][1]
        sys.stdout.write(f"http://{_HOST}:{port}/{server.token}/\n")
        sys.stdout.flush()
        may = "verifications may be started" if allow_verify else "for looking alone"
        sys.stderr.write(
            f"hsdp-inspect: {may}; whoever has this address sees what you may read. "
            f"From elsewhere: ssh -L {port}:{_HOST}:{port} HOST. Ctrl+C ends it.\n"
        )
        await ended.wait()
    finally:
        await runner.cleanup()


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and text.isascii() and len(text) < 6 else 0
