"""`Session`: one open page: a process with the screen in it, and the websocket to the browser.

The rule this module keeps: the process ends with the session, whatever ends that. It is asked to
leave (which ends a verification, too), then told, then killed; and it watches for our own end.

The packets are those of Textual's driver for browsers (`textual/drivers/web_driver.py`): a letter
(`D` what the terminal shows or was typed, `M` JSON, `P` a file's bytes), four bytes of length, the
rest. The messages are those of textual-serve's page: a JSON list of a word and its value.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from aiohttp import WSMsgType, web

__all__ = ["Session", "command_of"]

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
    """A process and a websocket.

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
