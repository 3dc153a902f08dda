"""`--serve` for real: the screen comes, hears keys, and leaves no process behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pyte
import pytest

pytest.importorskip("textual_serve")


from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType
from aiohttp.test_utils import TestServer

from inspector.web.server import WebServer, command_of
from tests.conftest import ROOT, SAMPLES
from tests.helpers.browser import chromium

pytestmark = pytest.mark.slow

DAMAGED = SAMPLES / "broken" / "chunk_overlap_and_gap"
WAIT_S = 300.0


def wait_for(what: Callable[[], object]) -> None:
    end_s = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.05)


def command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def is_gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE  # Nobody has looked at how it ended yet.
    except psutil.NoSuchProcess:
        return True


def children(pid: int) -> list[psutil.Process]:
    """The processes of a server's sessions."""
    return [p for p in psutil.Process(pid).children() if "--served" in command_line(p)]


@contextmanager
def served(*args: str | Path, cwd: Path = ROOT) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server and its address."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "inspector", *map(str, args)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=cwd, env=environ)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", address)
        yield server, address
    finally:
        server.send_signal(signal.SIGCONT)
        server.terminate()
        assert server.wait(WAIT_S) is not None


class Terminal:
    """What a terminal shows of what was sent to it."""

    def __init__(self, width: int, height: int) -> None:
        self._screen = pyte.Screen(width, height)
        self._stream = pyte.ByteStream(self._screen)

    def feed(self, data: bytes) -> None:
        self._stream.feed(data)

    @property
    def text(self) -> str:
        return "\n".join(self._screen.display)


class Page:
    """A browser as far as the server goes."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self._socket = socket
        self._terminal = Terminal(140, 40)

    @property
    def shown(self) -> str:
        return self._terminal.text

    async def press(self, keys: str) -> None:
        await self._socket.send_str(json.dumps(["stdin", keys]))

    async def until(self, *texts: str) -> None:
        """Wait until everything of `texts` stands on the screen at once."""
        end_s = time.monotonic() + WAIT_S
        while not all(text in self.shown for text in texts):
            assert time.monotonic() < end_s, f"no {texts} in {self.shown}"
            await self.receive()

    async def receive(self) -> None:
        """Take what was sent, if anything is within a second."""
        with suppress(asyncio.TimeoutError):
            message = await self._socket.receive(timeout=1)
            assert message.type == WSMsgType.BINARY, f"{message!r} after {self.shown}"
            self._terminal.feed(message.data)


@asynccontextmanager
async def opened(address: str, size: str = "width=140&height=40") -> AsyncIterator[Page]:
    socket = f"{address}ws?{size}"
    async with ClientSession() as client, client.ws_connect(socket, max_msg_size=0) as opened:
        yield Page(opened)


async def test_it_opens_filters_and_shows_findings() -> None:
    with served(DAMAGED, "--serve") as (_, address):
        async with opened(address) as page:
            await page.until("DAMAGED: 2 errors", "model.net1.weight", "^p Commands")
            assert "v Verify" not in page.shown
            await page.press("/")
            await page.press("net3")
            await page.until("2 of 6")
            await page.press("\r")
            await page.until("q Quit")  # No key is a character of the filter any more.
            await page.press("3")
            await page.until("5 of 40 elements lie in no chunk", "loads silently, 5 elements left")


async def test_who_may_only_look_starts_nothing_and_writes_nothing(tmp_path: Path) -> None:
    with served(DAMAGED, "--serve", cwd=tmp_path) as (server, address):
        async with opened(address) as page:
            await page.until("DAMAGED: 2 errors", "^p Commands")
            # Verify, a screenshot, to the shell: there is none of them. No theme is kept.
            for key in ("v", "\x1b[24~", "\x1a", "t", "v"):
                await page.press(key)
            await page.press("4")
            await page.until("the screen was served without --allow-verify")
            await page.press("6")
            await page.until("f First NaN")
            assert "Save .npy" not in page.shown
            await page.press("e")
            await page.press("1")  # A dialog would take it.
            await page.until("Placements")
            [process] = children(server.pid)
            assert process.status() != psutil.STATUS_STOPPED
            assert not [p for p in process.children() if "torch" in " ".join(command_line(p))]
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in written if "xdg_cache_home" not in path.parts] == []


@pytest.mark.torchrun
async def test_who_may_verify_does_and_no_rank_is_left() -> None:
    with served(DAMAGED, "--serve", "0", "--allow-verify") as (server, address):
        async with opened(address) as page:
            await page.until("DAMAGED: 2 errors", "v Verify")
            await page.press("v")
            await page.until("load it with torchrun", "enter starts", "2 ranks on cpu")
            await page.press("\r")
            [process] = children(server.pid)
            ranks: list[psutil.Process] = []
            end_s = time.monotonic() + WAIT_S
            while len(ranks) < 2:
                assert time.monotonic() < end_s, page.shown
                await page.receive()
                below = process.children(recursive=True)
                ranks = [p for p in below if any("ranks.worker" in a for a in command_line(p))]
        left = [process, *below]
        await asyncio.to_thread(wait_for, lambda: all(map(is_gone, left)))


async def test_what_is_no_message_is_passed_over_and_sizes_are_bounded() -> None:
    with served(DAMAGED, "--serve") as (_, address):
        async with opened(address, "width=99999999&height=-1") as page:
            socket = page._socket
            await page.until("model.net1.weight")
            for text in ("", "[]", "{}", "[1]", "null", '["stdin", 5]', '["resize", [1]]', "\x00"):
                await socket.send_str(text)
            huge = {"width": 10**12, "height": 10**12}
            await socket.send_str(json.dumps(["resize", {"width": "x"}]))
            await socket.send_bytes(b"\xff\x00")
            await socket.send_str(json.dumps(["resize", huge]))
            await socket.send_str(json.dumps(["resize", {"width": 100, "height": 30}]))
            await page.press("3")
            await page.until("5 of 40 elements lie in no chunk")


@pytest.mark.parametrize(
    "how", ["close", "quit", "hangup", "SIGTERM", "SIGINT", "SIGHUP", "SIGKILL"]
)
async def test_no_process_is_left(how: str) -> None:
    with served(DAMAGED, "--serve") as (server, address):
        async with opened(address) as page:
            await page.until("DAMAGED: 2 errors")
            [process] = children(server.pid)
            if how.startswith("SIG"):
                server.send_signal(signal.Signals[how])
            elif how == "hangup":
                process.send_signal(signal.SIGHUP)
            elif how == "quit":
                await page.press("q")
            else:
                await page._socket.close()
            await asyncio.to_thread(wait_for, lambda: is_gone(process))
        if how.startswith("SIG"):
            code = await asyncio.to_thread(server.wait, WAIT_S)
            assert code == (-signal.SIGKILL if how == "SIGKILL" else 0)
        else:
            assert server.poll() is None


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at /proc")
def test_what_is_ignored_stays_so() -> None:
    """`nohup`: the server outlives the terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with served(DAMAGED, "--serve") as (server, _):
            status = Path(f"/proc/{server.pid}/status").read_text()
    finally:
        signal.signal(signal.SIGHUP, before)
    ignored = re.search(r"^SigIgn:\s*([0-9a-f]+)", status, re.MULTILINE)
    assert ignored is not None
    assert int(ignored[1], 16) >> (signal.SIGHUP - 1) & 1


async def test_a_process_that_hears_nothing_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inspector.web.server._LEAVE_S", 0.2)
    monkeypatch.setattr("inspector.web.server._TERM_S", 0.2)
    server = TestServer(WebServer("x", command_of(str(DAMAGED), allow_verify=False), "token").app())
    await server.start_server(host="127.0.0.1")
    async with opened(f"http://127.0.0.1:{server.port}/token/") as page:
        await page.until("DAMAGED: 2 errors")
        [process] = children(os.getpid())
        process.suspend()
    await asyncio.to_thread(wait_for, lambda: is_gone(process))
    await server.close()


async def test_sessions_are_bounded() -> None:
    command = [sys.executable, "-c", "import sys; sys.stdin.read(1)"]
    server = TestServer(WebServer("x", command, "token").app())
    await server.start_server(host="127.0.0.1")
    address = f"http://127.0.0.1:{server.port}/token/ws"
    async with ClientSession() as client:
        # Each of these processes ends when it is asked to leave, and prints nothing.
        sockets = [await client.ws_connect(address) for _ in range(8)]
        async with client.get(address) as answer:
            assert answer.status == 503
        for socket in sockets:
            await socket.close()
    await server.close()
    assert not [p for p in psutil.Process().children() if "stdin.read" in " ".join(command_line(p))]


def test_nothing_is_imported_from_the_folder_that_is_stood_in(tmp_path: Path) -> None:
    for name in ("inspector", "textual", "json"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("open('ran', 'w')\n")
    (tmp_path / "aiohttp.py").write_text("open('ran', 'w')\n")

    async def look(address: str) -> None:
        async with opened(address) as page:
            await page.until("DAMAGED: 2 errors")

    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [str(Path(sys.executable).with_name("hsdp-inspect")), str(DAMAGED), "--serve"]
    if not Path(command[0]).exists():
        pytest.skip("the command is not installed")
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environ)
    try:
        assert server.stdout is not None
        asyncio.run(look(server.stdout.readline().strip()))
    finally:
        server.terminate()
        server.wait(WAIT_S)
    assert not (tmp_path / "ran").exists()


def test_in_a_real_browser() -> None:
    with chromium() as browser, served(DAMAGED, "--serve") as (_, address):
        tab = browser.new_page(viewport={"width": 1300, "height": 800})
        asked: list[str] = []
        said: list[str] = []
        terminal: list[Terminal] = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))

        def hear(socket: Any) -> None:
            size = re.search(r"width=(\d+)&height=(\d+)", socket.url)
            assert size is not None
            terminal[:] = [Terminal(int(size[1]), int(size[2]))]
            socket.on("framereceived", lambda d: isinstance(d, bytes) and terminal[0].feed(d))

        tab.on("websocket", hear)

        def until(text: str) -> None:
            end_s = time.monotonic() + WAIT_S
            while not terminal or text not in terminal[0].text:
                assert time.monotonic() < end_s, f"no {text!r}"
                tab.wait_for_timeout(50)

        tab.goto(address)
        until("DAMAGED: 2 errors")
        until("^p Commands")
        tab.wait_for_selector(".xterm-helper-textarea:focus", state="attached", timeout=300_000)
        tab.keyboard.press("/")
        tab.keyboard.type("net3")
        until("2 of 6")
        tab.keyboard.press("Enter")
        until("q Quit")
        tab.keyboard.press("3")
        until("5 of 40 elements lie in no chunk")
        assert tab.title().startswith("hsdp-inspect /")
        # Nothing elsewhere, and nothing that the policy has to forbid.
        assert {url for url in asked if not url.startswith(address)} <= {"data:,"}
        assert [line for line in said if not line.startswith("ping=")] == []
        tab.keyboard.press("q")
        tab.wait_for_selector(".ended", state="visible", timeout=300_000)
        assert "The session has ended" in tab.inner_text(".ended")
        terminal.clear()
        tab.click(".ended a")
        until("DAMAGED: 2 errors")
