"""Thousands of damaged checkpoints: each must end in a verdict, in time, without a traceback.

A mutation is a sample with one file changed: bytes (flips, cuts, repeats, splices of another
sample), opcodes of a pickle (dropped, doubled, moved, with an attack put in), values
of the metadata (sizes, offsets, names, paths, whole containers), fields of a payload's zip, a
payload's pickle with its checksum set right again. Each is judged as `check --deep --values` and
`show` do, and printed as text, JSON and annotations. Workers are processes of their own, of
bounded memory; one that says nothing for LIMIT_S is a hang. The same seed gives the same mutations.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import pickletools
import queue
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = "tests/data/golden"
SAMPLES = (
    "sample_ckpts/hsdp_2x2",
    "sample_ckpts/hsdp_uneven_2x4",
    "sample_ckpts/lowest_rank_2x2",
    "sample_ckpts/accelerate_fsdp/optimizer_0",
    "sample_ckpts/names_hostile_1",
    "sample_ckpts/per_rank_metadata_2",
    "sample_ckpts/fsdp2_tp_2x2",
    f"{GOLDEN}/1.13.1/st_nested",
    f"{GOLDEN}/2.3.1/fsdp4_opt",
    f"{GOLDEN}/2.15.0/hsdp2x2",
)
#: A hang. The process that unpickles may use 10 s of CPU time and 60 s in all by its own limits.
LIMIT_S = 90.0
MEMORY_BYTES = 4 << 30
MARKER = "hsdp-fuzz-marker"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

Mutate = Callable[[Path, random.Random], str]


# -- bytes -------------------------------------------------------------------------------------


def change_bytes(data: bytes, rng: random.Random, other: bytes = b"") -> bytes:
    """One to four edits of the kinds that disks, copies and people make."""
    edits = (_flip, _set, _cut_out, _repeat, _insert, _zero, _end, _swap, _number)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not data:
            return rng.randbytes(rng.randrange(64))
        if other and rng.random() < 0.1:
            a, b, c = (rng.randrange(len(x)) for x in (data, data, other))
            data = data[:a] + other[c : c + rng.randrange(1, 400)] + data[b:]
        else:
            data = rng.choice(edits)(data, rng)
    return data


def _flip(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _set(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x2E))]) + data[at + 1 :]


def _cut_out(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randrange(1, 40) :]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    part = data[at : at + rng.randrange(1, 40)]
    return data[:at] + part * rng.randrange(2, 20) + data[at:]


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(rng.randrange(1, 20)) + data[at:]


def _zero(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    num = min(rng.choice((4, 64, 512, 4096)), len(data) - at)
    return data[:at] + bytes(num) + data[at + num :]


def _end(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))] if rng.random() < 0.7 else data + rng.randbytes(100)


def _swap(data: bytes, rng: random.Random) -> bytes:
    a, b = sorted(rng.randrange(len(data)) for _ in range(2))
    num = min(rng.randrange(1, 64), b - a, len(data) - b)
    one, other = data[a : a + num], data[b : b + num]
    return data[:a] + other + data[a + num : b] + one + data[b + num :]


def _number(data: bytes, rng: random.Random) -> bytes:
    at, size = rng.randrange(len(data)), rng.choice((1, 2, 4, 8))
    number = rng.choice((0, 1, (1 << 8 * size) - 1, 1 << (8 * size - 1), rng.getrandbits(8 * size)))
    return data[:at] + number.to_bytes(size, "little") + data[at + size :]


# -- opcodes -----------------------------------------------------------------------------------


def _attacks() -> list[bytes]:
    """Opcodes that a pickle of ours has no use for."""
    call = b"cposix\nsystem\n(S'touch " + MARKER.encode() + b"'\ntR"
    return [
        call,
        call + b"0",
        b"\x8c\x02os\x8c\x06system\x93",
        b"cbuiltins\neval\n(S'1'\ntR",
        b"cbuiltins\ngetattr\n",
        b"ctorch.serialization\nload\n",
        b"(i__main__\nNothing\n",
        b"\x82\x01",
        b"P1\n",
        b"Q",
        b"\x8b\xff\xff\xff\x7f\x01",
        b"\x8a\xff" + b"\xff" * 255,
        b"\x8e" + b"\xff" * 7 + b"\x7fx",
        b"\x8d\x00\x00\x00\x00\x00\x10\x00\x00x",
        b"r\xff\xff\xff\xff",
        b"h\xff",
        b"j\xff\xff\xff\x7f",
        b"2" * 50,
        b"0",
        b"(" * 1000,
        b"\x85" * 5000,
        b"]" * 2000 + b"a" * 1999,
        b"R",
        b"b",
        b"\x81",
        b"\x92",
        b"o",
        b"u",
        b"e",
        b"s",
        b"a",
        b"t",
        b"}",
        b")",
        b"N",
        b"\x94",
        b"I" + b"9" * 5000 + b"\n",
        b"F1e999\n",
        b"\x95" + b"\xff" * 8,
        b".",
        b"\x97\x98",
        b"\x96\x00\x00\x00\x00\x00\x00\x10\x00x",
    ]


def change_opcodes(data: bytes, rng: random.Random) -> bytes:
    """Edits between opcodes, so that the pickle machine gets far before it meets them.

    Frames are left out: they are optional, and a wrong length would end the reading at once.
    """
    steps: list[bytes] = []
    positions = [(op, pos) for op, _, pos in pickletools.genops(data)]
    ends = [pos for _, pos in positions[1:]] + [len(data)]
    for (op, pos), end in zip(positions, ends, strict=True):
        if op.name != "FRAME":
            steps.append(data[pos:end])
    attacks = _attacks()
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(1, len(steps))
        kind = rng.randrange(7)
        if kind == 0:
            del steps[at]
        elif kind == 1:
            steps.insert(at, steps[at] * rng.choice((1, 1, 2, 30)))
        elif kind == 2:
            to = rng.randrange(1, len(steps))
            steps[at], steps[to] = steps[to], steps[at]
        elif kind == 3:
            steps.insert(at, rng.choice(attacks))
        elif kind == 4:
            steps[at] = rng.choice(attacks)
        elif kind == 5:
            step = bytearray(steps[at])
            step[rng.randrange(len(step))] = rng.randrange(256)
            steps[at] = bytes(step)
        else:
            steps.insert(at, rng.choice(steps))
    return b"".join(steps)


# -- values of the metadata --------------------------------------------------------------------


def _odd_value(rng: random.Random) -> Any:
    odd: tuple[Any, ...] = (
        -1, 0, 1, 7, 1 << 31, (1 << 63) - 1, 1 << 63, 1 << 200, -(1 << 63), True, None, 1.5,
        float("nan"), "", "x", "model.net1.weight", "\x1b]0;owned\x07", "\u202ex", "\udc80",
        "../../etc/passwd", "/dev/zero", "a\0b", "C:\\x", "s3://x/y", "x" * 20_000, b"x", [], {},
        (), [[]], (1, 2), ("a",), (-1,), (1 << 62, 1 << 62), (0,) * 200, {1: 2}, ((((1,),),),),
        complex(1, 1), frozenset((1,)), range(3), object,
    )  # fmt: skip
    return rng.choice(odd)


def change_values(data: bytes, rng: random.Random) -> bytes:
    """The metadata with some of its values others, pickled by Python."""
    root = pickle.loads(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        _change_value(root, rng)
    return pickle.dumps(root, rng.choice((2, 3, 4, 4, 5)))


def _change_value(root: Any, rng: random.Random) -> None:
    """Walk down to some container or object, and change one thing in it."""
    here = root
    for _ in range(rng.randrange(1, 7)):
        inner = _inside(here)
        if not inner:
            break
        here = rng.choice(inner)
    if isinstance(here, dict) and here:
        key = rng.choice(list(here))
        kind = rng.randrange(4)
        if kind == 0:
            del here[key]
        elif kind == 1:
            here[key] = _odd_value(rng)
        elif kind == 2:
            here[key], other = here[rng.choice(list(here))], here[key]
            here.setdefault("another", other)
        else:
            odd = _odd_value(rng)
            try:
                here[odd] = here.pop(key)
            except TypeError:
                pass  # Not hashable.
    elif isinstance(here, list):
        if here and rng.random() < 0.5:
            here.append(rng.choice(here))
        elif here and rng.random() < 0.5:
            del here[rng.randrange(len(here))]
        else:
            here.append(_odd_value(rng))
    elif hasattr(here, "__dict__") and vars(here) and not isinstance(here, type):
        fields = vars(here)
        name = rng.choice(list(fields))
        if rng.random() < 0.15:
            fields.pop(name)
        elif isinstance(fields[name], tuple) and rng.random() < 0.6:
            values = list(fields[name])
            if values:
                values[rng.randrange(len(values))] = _odd_value(rng)
            fields[name] = tuple(values)
        elif type(fields[name]) is int and rng.random() < 0.6:
            fields[name] += rng.choice((-1, 1, -700, 4096, 1 << 40))
        else:
            fields[name] = _odd_value(rng)


def _inside(value: Any) -> list[Any]:
    """What a value holds that can be changed."""
    if isinstance(value, dict):
        inner = [*value.values(), *(k for k in value if hasattr(k, "__dict__"))]
    elif isinstance(value, list):
        inner = value
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        inner = list(vars(value).values())
    else:
        return []
    return [item for item in inner if isinstance(item, (dict, list)) or hasattr(item, "__dict__")]


# -- payloads ----------------------------------------------------------------------------------


def change_zip(data: bytes, rng: random.Random) -> bytes:
    """A field of a local header, a directory entry or the directory's end."""
    marks = [m.start() for m in re.finditer(rb"PK(?:\x01\x02|\x03\x04|\x05\x06|\x06\x06)", data)]
    for _ in range(rng.choice((1, 1, 2))):
        if not marks:
            return _flip(data, rng)
        at = rng.choice(marks) + rng.randrange(4, 46)
        size = rng.choice((1, 2, 4))
        top = 1 << 8 * size
        number = rng.choice((0, 1, 8, top - 1, top // 2, rng.randrange(top)))
        data = data[:at] + number.to_bytes(size, "little") + data[at + size :]
    return data


def change_inner_pickle(payload: bytes, rng: random.Random) -> bytes:
    """A payload whose pickle is changed and whose checksums are right."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(payload)) as old, zipfile.ZipFile(out, "w") as new:
        for item in old.infolist():
            data = old.read(item)
            if item.filename.endswith("data.pkl"):
                data = change_opcodes(data, rng)
            elif rng.random() < 0.1:
                data = change_bytes(data, rng)
            new.writestr(item.filename, data)
    return out.getvalue()


# -- mutations of a folder ---------------------------------------------------------------------


def _metadata_file(folder: Path, rng: random.Random) -> Path:
    return rng.choice(sorted(folder.glob("*.metadata")) + sorted(folder.glob(".metadata")))


def _data_file(folder: Path, rng: random.Random) -> Path:
    files = [path for path in sorted(folder.glob("*.distcp")) if path.stat().st_size]
    return rng.choice(files)


def _in_metadata(change: Callable[[bytes, random.Random], bytes]) -> Mutate:
    def mutate(folder: Path, rng: random.Random) -> str:
        path = _metadata_file(folder, rng)
        path.write_bytes(change(path.read_bytes(), rng))
        return path.name

    return mutate


def _in_data(change: Callable[[bytes, random.Random], bytes]) -> Mutate:
    def mutate(folder: Path, rng: random.Random) -> str:
        path = _data_file(folder, rng)
        path.write_bytes(change(path.read_bytes(), rng))
        return path.name

    return mutate


def _splice_metadata(folder: Path, rng: random.Random) -> str:
    other = (ROOT / rng.choice(SAMPLES[:3]) / ".metadata").read_bytes()
    path = _metadata_file(folder, rng)
    path.write_bytes(change_bytes(path.read_bytes(), rng, other))
    return path.name


def _inner_pickle(folder: Path, rng: random.Random) -> str:
    """Changes the pickle of one payload, and lets the metadata know its new length."""
    metadata_file = _metadata_file(folder, rng)
    metadata = pickle.loads(metadata_file.read_bytes())
    index = rng.choice(list(metadata.storage_data))
    info = metadata.storage_data[index]
    path = folder / info.relative_path
    data = path.read_bytes()
    new = change_inner_pickle(data[info.offset : info.offset + info.length], rng)
    # To the file's end, so that no other payload has to move.
    path.write_bytes(data + new)
    info.offset, info.length = len(data), len(new)
    metadata_file.write_bytes(pickle.dumps(metadata))
    return info.relative_path


def _files(folder: Path, rng: random.Random) -> str:
    """Files that are gone, cut, exchanged, of another kind."""
    path = rng.choice([*sorted(folder.iterdir())])
    kind = rng.randrange(7)
    if kind == 0:
        path.unlink()
    elif kind == 1:
        path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size + 1)])
    elif kind == 2:
        other = rng.choice(sorted(folder.iterdir()))
        one, two = path.read_bytes(), other.read_bytes()
        path.write_bytes(two)
        other.write_bytes(one)
    elif kind == 3:
        path.unlink()
        rng.choice((path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to(path)))()
    elif kind == 4:
        path.rename(
            folder / rng.choice((".metadata.tmp", "__7_0.distcp", "x\x1b[2J", "0.metadata"))
        )
    elif kind == 5:
        path.write_bytes(
            rng.choice((bytes(5000), b"<html>", b"{}", b"\x1f\x8b", rng.randbytes(99)))
        )
    else:
        shutil.copyfile(path, folder / rng.choice(("__99999_0.distcp", "__1.metadata", "y.tmp")))
    return path.name


KINDS: dict[str, tuple[int, Mutate]] = {
    "metadata bytes": (22, _splice_metadata),
    "metadata opcodes": (26, _in_metadata(change_opcodes)),
    "metadata values": (20, _in_metadata(change_values)),
    "payload bytes": (10, _in_data(change_bytes)),
    "payload zip": (8, _in_data(change_zip)),
    "payload pickle": (8, _inner_pickle),
    "files": (6, _files),
}


def mutated(folder: Path, number: int, seed: int) -> tuple[str, str, str]:
    """Makes mutation `number` in `folder`; its kind, sample and file."""
    rng = random.Random(f"{seed}:{number}")  # noqa: S311  (not for secrets)
    kinds = list(KINDS)
    weights = [KINDS[kind][0] for kind in kinds]
    while True:
        kind = rng.choices(kinds, weights)[0]
        sample = rng.choice(SAMPLES)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(ROOT / sample, folder)
        try:
            return kind, sample, KINDS[kind][1](folder, rng)
        except Exception:  # noqa: S112
            continue  # No such mutation of this sample (a value that cannot be pickled, say).


# -- judging one -------------------------------------------------------------------------------


def judge(folder: Path) -> str:
    """The verdict on a folder.

    Raises:
        AssertionError: What was printed is not as it must be.
        Exception: Whatever should not have been raised.
    """
    from inspector.checkpoint.dcp import read_dcp
    from inspector.checkpoint.find.locate import locate
    from inspector.checks.judge import check_storage
    from inspector.checks.payload.payloads import check_payloads
    from inspector.checks.run import check_folder, judge_run
    from inspector.errors import MetadataError, NotACheckpointError
    from inspector.layout.writer.written_by import infer
    from inspector.report import check as reports
    from inspector.report.json import show_json
    from inspector.report.text import show_text

    def deep(checkpoint: Any, storage: Any) -> Any:
        return check_payloads(checkpoint, storage, values=True)

    target = locate(str(folder))
    if isinstance(target, list):
        run = judge_run(target, check_folder(target.storage, found=target, deep=deep))
        _look_at("".join(reports.folder_text(str(folder), run)))
        json.loads("".join(reports.folder_json(str(folder), run)))
        return run.judged[0].report.verdict if run.judged else "unreadable"
    report = check_storage(target, deep=deep)
    document = json.loads("".join(reports.check_json(report)))
    assert document["verdict"] in ("sound", "damaged", "suspicious", "unreadable")
    assert (report.exit_code == 0) == (report.verdict == "sound")
    _look_at("\n".join(reports.check_text(report, 80)))
    _look_at("\n".join(reports.check_github(report)))
    if report.verdict == "unreadable":
        assert report.checked.tensors == 0
        return report.verdict
    try:
        checkpoint = read_dcp(target)
    except (MetadataError, NotACheckpointError):
        return report.verdict
    written_by = infer(checkpoint)
    _look_at("\n".join(show_text(checkpoint, written_by, chunks=True)))
    json.loads("".join(show_json(checkpoint, written_by, chunks=True)))
    return report.verdict


def _look_at(text: str) -> None:
    found = CONTROL.search(text)
    assert found is None, f"a control character is printed: {found.group()!r}"
    text.encode()


def peak_bytes() -> int:
    """The most memory that this process has held.

    Linux's ru_maxrss counts what was there before exec, so a large parent would show in it.
    """
    import resource

    try:
        text = Path("/proc/self/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+) kB", text)[0]) * 1024
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def work() -> None:
    """What a worker runs: it judges each folder that a line of stdin names, and answers a line.

    It imports neither torch nor anything else of the side that makes the mutations, so that its
    memory is what judging takes.
    """
    import resource
    import traceback

    unit = 1 if sys.platform == "darwin" else 1024
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for line in sys.stdin:
        begin, problem, verdict = time.perf_counter(), "", "none"
        try:
            verdict = judge(Path(line.rstrip("\n")))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            problem = "".join(traceback.format_exception(error))[-4000:]
        answer = {
            "verdict": verdict,
            "s": round(time.perf_counter() - begin, 4),
            "own_bytes": peak_bytes(),
            # It counts what the child was before it became Python: a copy of this process.
            "child_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit,
            "problem": problem,
        }
        print(json.dumps(answer), flush=True)


# -- many --------------------------------------------------------------------------------------


class Worker:
    """A judging process, started anew if it died or was given up."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str] = queue.Queue()

    def ask(self, folder: Path) -> dict[str, Any]:
        """What it says of a folder, or that it says nothing."""
        process = self._process or self._start()
        assert process.stdin is not None
        lost = {"verdict": "none", "s": LIMIT_S}
        try:
            process.stdin.write(f"{folder}\n")
            process.stdin.flush()
            line = self._answers.get(timeout=LIMIT_S)
        except queue.Empty:
            self.stop()
            return {**lost, "problem": f"it said nothing for {LIMIT_S:.0f} s"}
        except BrokenPipeError:
            line = ""
        if not line:
            code = process.wait()
            self.stop()
            return {**lost, "problem": f"the process ended with {code}"}
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
            [sys.executable, str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self._scratch,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                answers.put(line)
            answers.put("")

        threading.Thread(target=read, daemon=True).start()
        return process


def _share(first: int, step: int, count: int, seed: int, done: queue.Queue[Any]) -> None:
    """Makes every `step`th mutation from `first` on, and has it judged."""
    with tempfile.TemporaryDirectory(prefix="hsdp-fuzz-") as scratch:
        folder, marker = Path(scratch, "ckpt"), Path(scratch, MARKER)
        worker = Worker(Path(scratch))
        try:
            for number in range(first, count, step):
                kind, sample, file = mutated(folder, number, seed)
                item = {"number": number, "kind": kind, "sample": sample, "file": file}
                item |= worker.ask(folder)
                if marker.exists():
                    marker.unlink()
                    item["problem"] += "the pickle was run"
                done.put(item)
        finally:
            worker.stop()
            done.put(None)


def results(count: int, seed: int, workers: int) -> Iterator[dict[str, Any]]:
    """Every mutation's result, as it comes; a hang or a dead worker is one too."""
    done: queue.Queue[dict[str, Any] | None] = queue.Queue()
    for first in range(workers):
        share = (first, workers, count, seed, done)
        threading.Thread(target=_share, args=share, daemon=True).start()
    running = workers
    while running:
        item = done.get()
        if item is None:
            running -= 1
        else:
            yield item


def summary_of(items: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of a run."""
    by_kind: dict[str, Counter[str]] = {}
    for item in items:
        by_kind.setdefault(item["kind"], Counter())[item["verdict"]] += 1
    slowest = sorted(items, key=lambda item: -item["s"])[:5]
    times = sorted(item["s"] for item in items)
    return {
        "mutations": len(items),
        "verdicts": dict(Counter(item["verdict"] for item in items)),
        "verdicts_by_kind": {kind: dict(found) for kind, found in sorted(by_kind.items())},
        "median_s": times[len(times) // 2],
        "slowest": [
            {name: item[name] for name in ("number", "kind", "sample", "verdict", "s")}
            for item in slowest
        ],
        "largest_memory_mb": {
            "judging_process": round(max(i.get("own_bytes", 0) for i in items) / 1e6, 1),
            "unpickling_process": round(max(i.get("child_bytes", 0) for i in items) / 1e6, 1),
        },
        "failures": [item for item in items if item["problem"]],
    }


def run(count: int, seed: int, workers: int) -> dict[str, Any]:
    """Tries `count` mutations; the figures."""
    items = []
    for item in results(count, seed, workers):
        items.append(item)
        if item["problem"]:
            sys.stderr.write(f"{item}\n")
        elif sys.stderr.isatty() and len(items) % 50 == 0:
            sys.stderr.write(f"\r{len(items)} of {count}")
    return summary_of(items)


if __name__ == "__main__":
    work()
