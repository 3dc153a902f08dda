"""`serve`: the screen in browsers of this machine, until Ctrl+C.

The rule this module keeps: it listens on 127.0.0.1 alone, answers nobody without the token, and no
process that it started is left when it ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

from inspector.checkpoint.text import printable
from inspector.errors import InspectError, UsageError
from inspector.report.html.markup import stylesheet, tag
from inspector.web.admission import HEADERS, admission

__all__ = ["WebServer", "command_of", "serve"]

# textual-serve's own page fetches a font from a server of its own choosing; here it is the one that
# lies in that package, and nothing is asked for elsewhere.
#: Files of textual-serve that the page takes, by the name under which they are served.
FILES = {
    "terminal.js": ("js/textual.js", "text/javascript"),
    "terminal.css": ("css/xterm.css", "text/css"),
    "mono.ttf": ("fonts/RobotoMono-VariableFont_wght.ttf", "font/ttf"),
}

#: textual-serve's terminal hears no key before it is clicked at; this one listens from the start,
#: which it may not do before it is connected.
SCRIPT = """\
addEventListener("load", function focus() {
  if (!document.body.classList.contains("-loaded")) return setTimeout(focus, 50);
  document.querySelector(".xterm-helper-textarea").focus();
});
"""

_CSS = """
@font-face{font-family:"Roboto Mono";src:url("mono.ttf");font-weight:100 700}
html,body{margin:0;height:100%;background:#0c181f;color:#e3e7ec;font:16px "Roboto Mono",monospace}
.textual-terminal{width:100vw;height:100vh;overflow:hidden}
.ended{display:none;position:absolute;inset:0;z-index:20;background:#0c181fe6;padding:20vh 10vw}
body.-closed .ended{display:block}
#start{display:none}
a{color:inherit}
"""


def package_files() -> dict[str, Path]:
    """The files of the installed textual-serve, by the name under which they are served.

    Raises:
        UsageError: It is not installed, or is another than is known.
    """
    hint = "pip install 'hsdp-inspect[web]' installs it"
    try:
        import textual_serve  # lazy: only who serves needs it
    except ImportError as error:
        raise UsageError("--serve needs textual-serve, which is not installed", hint) from error
    folder = Path(str(textual_serve.__file__)).with_name("static")
    found = {name: folder / place for name, (place, _) in FILES.items()}
    if missing := [path for path in found.values() if not path.is_file()]:
        raise UsageError(f"the installed textual-serve lacks {missing[0].name}", hint)
    return found


def page(title: str, socket_url: str) -> str:
    """The page."""
    head = (
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"hsdp-inspect {title}"),
        tag("link", rel="icon", href="data:,"),
        tag("link", rel="preload", href="mono.ttf", as_="font", type="font/ttf", crossorigin=""),
        tag("link", rel="stylesheet", href="terminal.css"),
        stylesheet(_CSS),
        tag("script", src="terminal.js"),
        tag("script", src="page.js"),
    )
    terminal = tag(
        "div", id="terminal", class_="textual-terminal",
        data_session_websocket_url=socket_url, data_font_size=16,
    )  # fmt: skip
    again = tag("p", "The session has ended. ", tag("a", "Start another", href="."))
    body = (tag("div", again, class_="ended"), tag("p", id="start"), terminal)
    return f"<!DOCTYPE html>\n{tag('html', tag('head', *head), tag('body', *body), lang='en')}\n"


# Bounds of what a browser may say of its size, in cells.
_MAX_CELLS = 1_000
# How long the app may take to leave: as long as it waits for the verification it ends.
_LEAVE_S, _TERM_S = 30.0, 5.0
_MAX_PACKET = 64 << 20

# Nothing of the folder that is stood in is imported, which may be a checkpoint.
_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
_BOOT += "from inspector.__main__ import main; main(sys.argv[1:])"


def command_of(path: str, *, allow_verify: bool) -> list[str]:
    """The command line of the process that shows `path`."""
    may = "verify" if allow_verify else "look"
    arguments = ["open", "--tui", "--served", may, "--", path]
    return [sys.executable, "-I", "-c", _BOOT, json.dumps(sys.path), *arguments]


class Session:
    """One open page: a process with the screen in it, and the websocket to the browser.

    The process ends with the session, whatever ends that. It is asked to leave (which ends a
    verification, too), then told, then killed; and it watches for our own end.

    The packets are those of Textual's driver for browsers (`textual/drivers/web_driver.py`): a
    letter (`D` what the terminal shows or was typed, `M` JSON, `P` a file's bytes), four bytes of
    length, the rest. The messages are those of textual-serve's page: a JSON list of a word and its
    value.

    Args:
        command: The process.
        socket: The websocket; it is open.
        width, height: Of the page's terminal, in cells.
    """

    def __init__(
        self, command: Sequence[str], socket: web.WebSocketResponse, width: int, height: int
    ) -> None:
        self._command, self._socket = command, socket
        self._size = _cells(width, 80), _cells(height, 24)
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Show the screen until either side ends."""
        process = self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # Ctrl+C in the server's terminal is the server's to answer.
            start_new_session=True,
            env=self._environment(),
        )
        shown = asyncio.create_task(self._show(process))
        heard = asyncio.create_task(self._hear(process))
        try:
            await asyncio.wait((shown, heard), return_when=asyncio.FIRST_COMPLETED)
        finally:
            heard.cancel()
            await asyncio.shield(self._end(process, shown))

    async def _end(self, process: asyncio.subprocess.Process, shown: asyncio.Task[None]) -> None:
        """Until the process is gone."""
        shown.cancel()
        # A process whose output nobody reads hears nothing, either.
        drained = asyncio.create_task(_drain(process))
        await self._tell(process, {"type": "quit"})
        gone = asyncio.create_task(process.wait())
        for wait_s, number in ((_LEAVE_S, signal.SIGTERM), (_TERM_S, signal.SIGKILL)):
            if (await asyncio.wait((gone,), timeout=wait_s))[0]:
                break
            _signal(process, number)
        await gone
        drained.cancel()
        await self._socket.close()

    def _environment(self) -> dict[str, str]:
        width, height = self._size
        return {
            **os.environ,
            "TEXTUAL_DRIVER": "inspector.tui.served:ServedDriver",
            "TEXTUAL_COLOR_SYSTEM": "truecolor",
            "TERM_PROGRAM": "textual",
            "COLUMNS": str(width),
            "ROWS": str(height),
        }

    async def _show(self, process: asyncio.subprocess.Process) -> None:
        """What the process draws goes to the browser; files and links it offers do not."""
        out = process.stdout
        assert out is not None  # noqa: S101 - it is a pipe
        try:
            # What is printed before the screen is there is none of the browser's business.
            while (line := await out.readline()) != b"__GANGLION__\n":
                if not line:
                    return
            while True:
                head = await out.readexactly(5)
                length = int.from_bytes(head[1:], "big")
                if length > _MAX_PACKET:
                    return
                payload = await out.readexactly(length)
                if head[:1] == b"D":
                    await self._socket.send_bytes(payload)
                elif head[:1] == b"M" and json.loads(payload).get("type") == "exit":
                    return
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            return  # Either side has gone.

    async def _hear(self, process: asyncio.subprocess.Process) -> None:
        """What the browser says goes to the process, if it is something that may be said."""
        async for message in self._socket:
            if message.type != WSMsgType.TEXT:
                continue
            try:
                said = json.loads(message.data)
                word, value = said[0], (said[1] if len(said) > 1 else None)
            except (ValueError, TypeError, LookupError):
                continue
            if word == "stdin" and isinstance(value, str):
                await _write(process, b"D", value.encode("utf-8", "replace"))
            elif word == "resize" and isinstance(value, dict):
                width, height = _cells(value.get("width"), 80), _cells(value.get("height"), 24)
                await self._tell(process, {"type": "resize", "width": width, "height": height})
            elif word in ("focus", "blur"):
                await self._tell(process, {"type": word})
            elif word == "ping" and isinstance(value, str):
                await self._socket.send_json(["pong", value[:64]])

    async def _tell(self, process: asyncio.subprocess.Process, told: dict[str, Any]) -> None:
        await _write(process, b"M", json.dumps(told).encode())


async def _drain(process: asyncio.subprocess.Process) -> None:
    while process.stdout is not None and await process.stdout.read(1 << 16):
        pass


async def _write(process: asyncio.subprocess.Process, kind: bytes, payload: bytes) -> None:
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    try:
        process.stdin.write(kind + len(payload).to_bytes(4, "big") + payload)
        await process.stdin.drain()
    except (ConnectionError, RuntimeError):
        pass  # It has gone; its end is seen elsewhere.


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """A signal to the process and those that it has started in its session."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def _cells(value: object, default: int) -> int:
    return min(max(value, 1), _MAX_CELLS) if type(value) is int else default


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
