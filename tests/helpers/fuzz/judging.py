"""A judging process: the commands on a case, in a process of bounded memory that answers in JSON.

It imports neither torch nor anything else of the side that makes the mutations, so that its memory
is what judging takes.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import re
import resource
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
#: A hang. The process that unpickles may use 10 s of CPU time and 60 s in all by its own limits.
LIMIT_S = 90.0
MEMORY_BYTES = 4 << 30
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_VERDICT_CODES = {"sound": 0, "damaged": 1, "suspicious": 1, "unreadable": 2}
#: What is run beside `check --json`, by turns.
_MORE = (
    ("check", "--deep", "--values", "ckpt"),
    ("check", "--deep", "--format", "github", "ckpt"),
    ("show", "--chunks", "ckpt"),
    ("show", "--json", "--chunks", "ckpt"),
    ("stats", "--json", "ckpt"),
    ("plan", "--mesh", "hsdp:2x2", "--json", "ckpt"),
    ("plan", "--mesh", "fsdp:3", "ckpt"),
    ("diff", "--values", "ckpt", "intact"),
    ("diff", "--json", "--values", "intact", "ckpt"),
)


def commands(kind: str, number: int) -> list[tuple[str, ...]]:
    """What is run on a case, the first of which gives its verdict; paths are the case's."""
    if kind == "recording":
        more = ((), ("--json",))[number % 2]
        return [("replay", "--no-tui", *more, "events.jsonl")]
    if kind == "seal":
        form = ("json", "text", "github")[number % 3]
        return [("check", "--manifest", "seal.json", "--format", form, "ckpt")]
    return [("check", "--deep", "--values", "--json", "ckpt"), _MORE[number % len(_MORE)]]


def judge(folder: Path, kind: str, number: int, intact: Path) -> dict[str, Any]:
    """What the commands say of a case.

    Returns:
        `verdict`, `code`, `codes` (of findings) and `problem`, which is empty if all is as it
        must be.
    """
    verdict, codes, problems = "none", list[str](), list[str]()
    first = None
    for argv in commands(kind, number):
        paths = {"ckpt": folder / "ckpt", "intact": intact}
        paths |= {name: folder / name for name in ("seal.json", "events.jsonl")}
        code, out, err = run([str(paths.get(word, word)) for word in argv])
        problems += [f"{' '.join(argv)}: {what}" for what in wrong(code, out, err)]
        if first is None:
            first = code
            if argv[0] == "check" and out.startswith("{"):
                verdict, codes = _document(out, code, problems)
        elif argv[0] == "check" and code != first:
            problems.append(f"{' '.join(argv)}: exit {code} where --json exits {first}")
    return {"verdict": verdict, "code": first, "codes": codes, "problem": "\n".join(problems)}


def run(argv: list[str]) -> tuple[object, str, str]:
    """A command, in this process: exit code, stdout, stderr."""
    from inspector.__main__ import main

    out, err = io.StringIO(), io.StringIO()
    code: object = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(["--debug", *argv])
        except SystemExit as ended:
            code = ended.code
    return code, out.getvalue(), err.getvalue()


def wrong(code: object, out: str, err: str) -> list[str]:
    """What is not as it must be in what a command said."""
    found = []
    if code not in (0, 1, 2):
        found.append(f"exit code {code}")
    if code != 2 and not out:
        found.append("nothing is said")
    unexpected = "internal error" in err or ("Traceback" in err and not _is_told(err))
    if unexpected or "Traceback" in out:
        found.append(err[-4000:] or out[-4000:])
    for name, text in (("stdout", out), ("stderr", err)):
        if control := CONTROL.search(text):
            found.append(f"{name} holds a control character {control.group()!r}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            found.append(f"{name} is no UTF-8: {error}")
    if code == 2 and not err.strip() and not out:
        found.append("exit 2 without a word")
    return found


def _is_told(err: str) -> bool:
    """Whether a traceback is what `--debug` prints of an error that is told in words."""
    last = [line for line in err.splitlines() if line and not line[0].isspace()]
    kinds = r"inspector\.errors\.\w+|inspector[\w.]*\.\w+Error"
    return any(re.match(kinds, line) for line in last)


def _document(out: str, code: object, problems: list[str]) -> tuple[str, list[str]]:
    """The verdict in a JSON document, and the codes of its findings."""
    try:
        document = json.loads(out)
    except ValueError as error:
        problems.append(f"no JSON: {error}: {out[:200]}")
        return "none", []
    if "verdict" not in document:
        return "several", []
    verdict = document["verdict"]
    expected = {_VERDICT_CODES.get(verdict)}
    if document["checked"]["not_checked"]:
        expected.add(2)  # Not all that was asked for was done.
    if code not in expected:
        problems.append(f"exit {code} where the verdict is {verdict}")
    return verdict, [finding["code"] for finding in document["findings"]]


def environment(home: Path) -> dict[str, str]:
    """What a process gets: this project, and a home of its own for what it keeps."""
    own = {name: str(home / "home") for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME")}
    return {**os.environ, **own, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def peak_bytes() -> int:
    """The most memory that this process has held.

    Linux's ru_maxrss counts what was there before exec, so a large parent would show in it.
    """
    try:
        text = Path("/proc/self/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+) kB", text)[0]) * 1024
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def work() -> None:
    """Judge each case that a line of stdin names, and answer a line."""
    from inspector.checkpoint.child.process import Server

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    warnings.filterwarnings("ignore")
    answers = sys.stdout
    # One process for all metadata, as the screen has it; the command itself starts one for each.
    with Server():
        for line in sys.stdin:
            folder, kind, number, intact = json.loads(line)
            begin = time.perf_counter()
            answer = judge(Path(folder), kind, number, Path(intact))
            answer["s"] = round(time.perf_counter() - begin, 4)
            answer["own_bytes"] = peak_bytes()
            print(json.dumps(answer), file=answers, flush=True)


class Process:
    """A process that answers lines of JSON by lines of JSON; started anew if it died or hung.

    Args:
        module: What it runs.
        scratch: Where it stands.
    """

    def __init__(self, module: str, scratch: Path) -> None:
        self._module = module
        self._scratch = scratch
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str] = queue.Queue()

    def ask(self, question: list[Any]) -> dict[str, Any]:
        """Its answer, or a `problem` if it gives none."""
        process = self._process or self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
            line = self._answers.get(timeout=LIMIT_S)
        except queue.Empty:
            self.stop()
            return {"problem": f"{self._module} said nothing for {LIMIT_S:.0f} s", "s": LIMIT_S}
        except BrokenPipeError:
            line = ""
        if not line:
            code = process.wait()
            self.stop()
            return {"problem": f"{self._module} ended with {code}", "s": 0.0}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        answers = self._answers = queue.Queue()
        process = self._process = subprocess.Popen(
            [sys.executable, "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self._scratch,
            env=environment(self._scratch),
        )

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                answers.put(line)
            answers.put("")

        threading.Thread(target=read, daemon=True).start()
        return process


if __name__ == "__main__":
    work()
