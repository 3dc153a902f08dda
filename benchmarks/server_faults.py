"""Every command that takes a URL, under every fault of a server on loopback: how it ends.

    python benchmarks/server_faults.py server_faults [--only WORD ...] [--at-once 4] [--log FILE]

The server (`tests/remote/faulty_server.py`) speaks HTTP, S3, Google's and Azure's tongues, and does
one thing wrong: it sends too much, too little, too slowly, something else, or never ends. Each
command runs in a process of its own; its exit code, its seconds and the resident memory of its tree
of processes are noted, and held against what is promised: the right exit code, within 60 s and 300
MiB. Waiting takes most of the time, so several run beside each other; one that took more than is
promised is run again by itself, and that counts. With --log, a run that was stopped goes on where
it was. Writes server_faults.json and server_faults.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from measuring import RESULTS, ROOT, dispatch, machine, write

sys.path.insert(0, str(ROOT))

from tests.remote.faulty_server import FAULTS, faulty_server
from tests.remote.under_faults import (
    CASES,
    COMMANDS,
    MAX_BYTES,
    MAX_S,
    OF_TORCH,
    SAMPLE,
    run,
    seal_intact,
    wrong,
)

Key = tuple[str, str, str]
_PACKAGES = {"http": "aiohttp", "s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}
#: Of the clouds but S3, what lists and what reads everything.
_FEW = ("show", "check --deep")
_TITLES = {"http": "http://", "s3": "s3://", "gs": "gs://", "az": "az://"}


def server_faults(told: list[str]) -> int:
    """Every command under every fault."""
    parser = argparse.ArgumentParser(description=server_faults.__doc__)
    parser.add_argument("--only", nargs="+", default=[], help="words of `scheme fault command`")
    parser.add_argument("--schemes", nargs="+", default=list(_TITLES), choices=list(_TITLES))
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--log", type=Path, help="a line for each run; read first if there")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(told)
    rows: dict[Key, dict[str, Any]] = {}
    if options.log is not None and options.log.exists():
        rows = {_key(row): row for row in map(json.loads, options.log.open())}
    with tempfile.TemporaryDirectory(prefix="hsdp-server-faults-") as made:
        bench = _Bench(Path(made), options.log, rows)
        for scheme, fault in CASES:
            names = [
                name
                for name in (COMMANDS if scheme in ("http", "s3") else _FEW)
                if all(word in f"{scheme} {fault} {name}" for word in options.only)
                and (scheme, fault, name) not in rows
            ]
            if scheme in options.schemes and names and find_spec(_PACKAGES[scheme]):
                bench.run(scheme, fault, names, options.at_once)
        for scheme, fault, name in [key for key, row in rows.items() if row["wrong"]]:
            bench.run(scheme, fault, [name], 1)
    document = {
        "what": "commands under the faults of a server on loopback",
        "sample": SAMPLE.name,
        "at_once": options.at_once,
        "runs": sorted(rows.values(), key=_place),
        "machine": machine("aiohttp", "s3fs", "gcsfs"),
    }
    write(options.out / "server_faults.json", document)
    (options.out / "server_faults.md").write_text(table(document))
    failed = [row for row in rows.values() if row["wrong"]]
    print(json.dumps(failed, indent=1))
    return 1 if failed else 0


class _Bench:
    """Runs commands under a fault, and keeps what came of each, the latest last."""

    def __init__(self, scratch: Path, log: Path | None, rows: dict[Key, dict[str, Any]]) -> None:
        self._scratch, self._log, self._rows = scratch, log, rows
        self._numbers = itertools.count()
        seal_intact(scratch)

    def run(self, scheme: str, fault: str, names: list[str], at_once: int) -> None:
        """Some commands, so many beside each other."""
        with faulty_server(SAMPLE, fault) as (address, _), ThreadPoolExecutor(at_once) as pool:
            for row in pool.map(lambda name: self._one(scheme, fault, name, address), names):
                self._rows[_key(row)] = row
                print(json.dumps(row), flush=True)
                if self._log is not None:
                    with self._log.open("a") as log:
                        log.write(json.dumps(row) + "\n")

    def _one(self, scheme: str, fault: str, name: str, address: str) -> dict[str, Any]:
        folder = self._scratch / str(next(self._numbers))
        ended = run(name, scheme, address, folder, give_up_s=4 * MAX_S)
        found = wrong(name, scheme, fault, ended)
        if ended.wall_s > MAX_S:
            found.append(f"{ended.wall_s:.0f} s")
        said = ended.err.strip().partition("\n")[0].replace(str(folder), "DIR")
        return {
            "scheme": scheme,
            "fault": fault,
            "command": name,
            "code": ended.code,
            "s": round(ended.wall_s, 1),
            "mib": ended.tree_bytes >> 20,
            "said": said.replace(address, "SERVER")[:200],
            "wrong": found,
        }


def table(found: dict[str, Any]) -> str:
    """Exit code and seconds of each command under each fault, a table for each storage."""
    lines: list[str] = []
    runs = found["runs"]
    for scheme, title in _TITLES.items():
        mine = [row for row in runs if row["scheme"] == scheme]
        names = list(dict.fromkeys(row["command"] for row in mine))
        if not mine:
            continue
        lines += ["", f"| `{title}`: the server ... | {' | '.join(names)} |"]
        lines.append("|---" * (len(names) + 1) + "|")
        for fault in dict.fromkeys(row["fault"] for row in mine):
            cells = {row["command"]: row for row in mine if row["fault"] == fault}
            said = [_cell(cells[name]) if name in cells else "" for name in names]
            lines.append(f"| {FAULTS[fault]} | {' | '.join(said)} |")
    ours = [row for row in runs if row["command"] not in OF_TORCH]
    of_torch = [row for row in runs if row["command"] in OF_TORCH]
    slowest, largest = max(runs, key=_seconds), max(ours, key=_mebibytes)
    words = (
        f"Exit code and seconds. {len(runs):,} runs, {found['at_once']} beside each other: "
        f"{sum(bool(row['wrong']) for row in runs)} ended otherwise than they must (another exit "
        f"code, more than {MAX_S:.0f} s, more than {MAX_BYTES >> 20} MiB). Slowest: "
        f"`{slowest['command']}`, {slowest['s']} s ({slowest['scheme']}, {slowest['fault']}); "
        f"largest: `{largest['command']}`, {largest['mib']} MiB with all its processes "
        f"({largest['scheme']}, {largest['fault']})."
    )
    if of_torch:
        least = min(row["mib"] for row in of_torch if row["fault"] == "none")
        most = max(row["mib"] for row in of_torch)
        words += (
            f" Of `verify` torch itself takes most: {least} MiB where nothing is wrong, "
            f"{most} MiB at the most."
        )
    return "\n".join([*lines[1:], "", words, ""])


def _cell(row: dict[str, Any]) -> str:
    text = f"{row['code']} ({row['s']:.0f} s)"
    return f"**{text}**" if row["wrong"] else text


def _key(row: dict[str, Any]) -> Key:
    return row["scheme"], row["fault"], row["command"]


def _place(row: dict[str, Any]) -> tuple[int, int]:
    return CASES.index((row["scheme"], row["fault"])), list(COMMANDS).index(row["command"])


def _seconds(row: dict[str, Any]) -> float:
    return float(row["s"])


def _mebibytes(row: dict[str, Any]) -> int:
    return int(row["mib"])


SUBJECTS = {"server_faults": server_faults}

if __name__ == "__main__":
    dispatch(__doc__ or "", SUBJECTS)
