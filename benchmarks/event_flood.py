"""The live view of a verification under a flood of events: does the screen stutter?

A process of its own appends events of 8 ranks, as many a second as asked; a thread follows, folds
and records them as the job's launcher does; the app shows them, headless, at 160 x 50. Measured is
how late a task of the event loop is that wants to run every 5 ms: what a key press would wait.
The same without events is the base. On a machine that others use, `chrt -r 1 python ...` keeps
their work out of the figures; the result says so.

    python benchmarks/event_flood.py [--rate 20000] [--seconds 10] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")

from measuring import RESULTS, machine  # noqa: E402
from measuring import write as write_results  # noqa: E402

from inspector.tui.verification.launch import ReplayApp  # noqa: E402
from inspector.tui.verification.run import Moment, Run  # noqa: E402
from inspector.verify.events import EventWriter  # noqa: E402
from inspector.verify.progress import JobState  # noqa: E402
from inspector.verify.recording import EventFollower  # noqa: E402

NUM_RANKS = 8
NUM_TENSORS = 5000
PROBE_S = 0.005


def write(folder: str, rate: int, seconds: float) -> None:
    """The ranks: progress, verdicts, and now and then a line of log."""
    writers = [EventWriter(folder, rank) for rank in range(NUM_RANKS)]
    for writer in writers:
        writer.send("hello", pid=1, host="node", device="cpu")
        writer.send("phase", phase="compare", mesh="hsdp:2x4")
    total = int(rate * seconds)
    started = time.perf_counter()
    for i in range(total):
        rank, turn = i % NUM_RANKS, i // NUM_RANKS
        writer = writers[rank]
        if turn % 10 == 9:
            writer.send("log", stream="stderr", text=f"line {turn} \x1b[2J of rank {rank}")
        elif turn % 2:
            fqn = f"model.layers.{turn % NUM_TENSORS}.weight"
            verdict = "DIFFER" if turn % 997 == 1 else "EXACT"
            fields = {"fqn": fqn, "verdict": verdict, "num_elements": 4096}
            if verdict == "DIFFER":
                fields |= {"num_different": 1, "first_index": [turn, 3], "detail": "one bit"}
            writer.send("tensor", phase="compare", **fields)
        else:
            done = i * 1024
            writer.send("progress", phase="compare", bytes_done=done, bytes_total=total * 1024,
                        tensors_done=turn, tensors_total=total)  # fmt: skip
        if i % 200 == 0:
            time.sleep(max(0.0, started + i / rate - time.perf_counter()))


class Flooded(Run):
    """What `verify_run.Verification` does, with files instead of a job."""

    def __init__(self, folder: str) -> None:
        super().__init__("/flood")
        self._events = EventFollower(folder)
        self._recording = open(Path(folder, "recording"), "ab")  # noqa: SIM115
        self._state = JobState()
        spec = {"event": "spec", "mesh": "hsdp:2x4", "then": ["fsdp:8"], "t": time.time()}
        self._state.apply({**spec, "world_size": NUM_RANKS, "num_entries": NUM_TENSORS})
        self._lock = threading.Lock()
        self.num_events = 0
        self.is_closed = False

    def now_t(self) -> float:
        return time.time()

    def _drive(self) -> None:
        last_s = 0.0
        while not self.is_closed:
            told = self._events.read()
            with self._lock:
                for event, _ in told:
                    self._state.apply(event)
            self._recording.write(b"".join(line + b"\n" for _, line in told))
            self.num_events += len(told)
            if told and time.monotonic() - last_s >= 0.09:
                last_s = time.monotonic()
                self._publish()
            time.sleep(0.01 if told else 0.05)

    def _publish(self) -> None:
        with self._lock:
            lines = tuple(self._state.log_lines(self._watched, 500))
            self.moment = Moment(self._state.snapshot(), lines, time.time())


async def measure(rate: int, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        run = Flooded(folder)
        app = ReplayApp(run, "flood")
        late_ms: list[float] = []
        async with app.run_test(size=(160, 50)) as pilot:
            await pilot.pause(1.0)
            ranks, deadline = None, time.perf_counter() + 20
            if rate:
                command = [sys.executable, __file__, "--write", folder, "--rate", str(rate)]
                ranks = subprocess.Popen([*command, "--seconds", str(seconds)])
                while not run.num_events:
                    await asyncio.sleep(0.05)
                    if run.error is not None or time.perf_counter() > deadline:
                        raise RuntimeError(run.error or f"no event came: {run.is_alive=}")
            seen, frames, before = run.num_events, 0, run.moment
            cpu, start = time.process_time(), time.perf_counter()
            while time.perf_counter() - start < seconds:
                asked = time.perf_counter()
                await asyncio.sleep(PROBE_S)
                late_ms.append((time.perf_counter() - asked - PROBE_S) * 1e3)
                frames += run.moment is not before
                before = run.moment
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu
            taken = run.num_events - seen
            run.is_closed = True
            if ranks is not None:
                ranks.kill()
                ranks.wait()
        late_ms.sort()
        return {
            "events_per_s_asked": rate,
            "events_per_s_taken": round(taken / wall),
            "moments_per_s": round(frames / wall, 1),
            "cpu_share": round(cpu / wall, 3),
            "late_ms": {
                "median": round(statistics.median(late_ms), 2),
                "p99": round(late_ms[int(len(late_ms) * 0.99)], 2),
                "max": round(late_ms[-1], 2),
            },
            "over_50_ms": sum(late > 50 for late in late_ms),
            "num_probes": len(late_ms),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rate", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", type=Path, default=RESULTS / "event_flood.json")
    parser.add_argument("--write", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write(options.write, options.rate, options.seconds)
        return
    result = {
        "real_time_priority": os.sched_getscheduler(0) != os.SCHED_OTHER,
        "idle": asyncio.run(measure(0, options.seconds)),
        "flood": asyncio.run(measure(options.rate, options.seconds)),
        "machine": machine("textual"),
    }
    write_results(options.json, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
