"""Every command that takes a URL, watched while its server is faulty: how it ends, and when.

The table of docs/remote.md is made of it (`benchmarks/server_faults.py`), and tests hold it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import psutil

from inspector.checkpoint.storage.remote.calls import most_lost_s
from inspector.checkpoint.storage.remote.storage import LISTED_S
from tests.conftest import ROOT, SAMPLES
from tests.remote.clouds import AZURE_ACCOUNT, AZURE_KEY
from tests.remote.faulty_server import FAULTS
from tests.remote.s3_server import KEYS

SAMPLE = SAMPLES / "hsdp_2x2"
#: What is promised, of a machine with nothing else to do.
MAX_S = 60.0
MAX_BYTES = 300 << 20
#: What the storage's own limits let slow answers take of that.
LOST_S = most_lost_s(LISTED_S)
#: What torch takes of memory by itself, in each of verify's processes, is not ours to bound.
OF_TORCH = frozenset({"verify"})

#: What each command is told. URL is the faulty address, INTACT the same checkpoint on this machine.
COMMANDS: dict[str, tuple[str, ...]] = {
    "show": ("show", "URL"),
    "check": ("check", "URL"),
    "check --deep": ("check", "--deep", "--values", "URL"),
    "check --manifest": ("check", "--manifest", "SEAL", "URL"),
    "check --against": ("check", "--against", "URL", "INTACT"),
    "stats": ("stats", "URL"),
    "diff": ("diff", "--no-tui", "INTACT", "URL"),
    "diff --values": ("diff", "--no-tui", "--values", "URL", "URL"),
    "seal": ("seal", "URL", "--output", "NEW.json"),
    "plan": ("plan", "URL", "--mesh", "fsdp:2"),
    "export": ("export", "URL", "NEW.safetensors"),
    "repair": ("repair", "URL", "NEW"),
    "watch --once": ("watch", "--once", "--settle", "0", "--deep", "URL"),
    "verify": ("verify", "URL", "--mesh", "fsdp:1", "--then", "none", "--device", "cpu"),
    "the screen": ("-m", "tests.remote.screen_on", "URL"),
}
#: Those that read more than the metadata.
_READS = frozenset(
    ("check --deep", "check --manifest", "stats", "diff --values", "seal", "export")
    + ("watch --once", "verify", "the screen")
)
_OF_LISTINGS = frozenset({"endless-listing-page", "same-token", "no-end", "deep-listing-page"})
_OF_HEADS = frozenset({"head-fails", "no-range"})
#: Faults that a storage has no place for.
_NOT = {"http": _OF_LISTINGS, "s3": _OF_HEADS, "gs": _OF_HEADS, "az": _OF_HEADS}
CASES = [(scheme, fault) for scheme in _NOT for fault in FAULTS if fault not in _NOT[scheme]]
#: Faults that what lists, asks for sizes and reads the metadata meets already.
_AT_ONCE = {
    "http": {"head-fails", "redirect-loop", "redirect-away", "storm", "drip-headers"}
    | {"large-number", "endless-error", "etag"},
    "s3": {*_OF_LISTINGS, "storm", "etag", "large-number"},
    "gs": {*_OF_LISTINGS, "storm", "etag", "large-number"},
    "az": {*_OF_LISTINGS, "storm", "etag", "large-number"},
}


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: Its exit code.
        wall_s: Seconds.
        tree_bytes: Largest sum of the resident memory of it and what it started.
    """

    code: int
    wall_s: float
    tree_bytes: int
    out: str
    err: str


def right_codes(name: str, scheme: str, fault: str) -> Collection[int]:
    """The exit codes that are right for a command under a fault."""
    if name == "repair":
        return {2}  # It takes no address.
    if fault == "none" or (name not in _READS and fault not in _AT_ONCE[scheme]):
        return {0}
    if fault == "endless-error":
        return {1, 2}  # A refusal: that a file may not be read is told of the checkpoint, too.
    return {2}


def wrong(name: str, scheme: str, fault: str, ended: Ended) -> list[str]:
    """What is not as it must be; of time only what the storage's limits promise."""
    found = []
    if ended.code not in right_codes(name, scheme, fault):
        found.append(f"exit {ended.code}: {ended.err[-1500:] or ended.out[-1500:]}")
    if "Traceback" in ended.err or "internal error" in ended.err:
        found.append(f"an internal error: {ended.err[-1500:]}")
    if ended.code == 2 and "damaged" in ended.out:
        found.append(f"it is called damaged: {ended.out[-500:]}")
    if any(
        secret in ended.out + ended.err for secret in (KEYS["AWS_SECRET_ACCESS_KEY"], AZURE_KEY)
    ):
        found.append("a secret is printed")
    if ended.tree_bytes > MAX_BYTES and name not in OF_TORCH:
        found.append(f"{ended.tree_bytes >> 20} MiB")
    return found


def environment(scratch: Path, address: str) -> dict[str, str]:
    """What a process is told of the server; no credentials but those of the tests."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    none = str(scratch / "none")
    return {
        **env,
        **KEYS,
        "AWS_SESSION_TOKEN": "never-a-real-token",
        "AWS_ENDPOINT_URL": address,
        "AWS_CONFIG_FILE": none,
        "AWS_SHARED_CREDENTIALS_FILE": none,
        "STORAGE_EMULATOR_HOST": address,
        "NO_GCE_CHECK": "true",
        "CLOUDSDK_CONFIG": none,
        "AZURE_STORAGE_CONNECTION_STRING": (
            f"DefaultEndpointsProtocol=http;AccountName={AZURE_ACCOUNT};AccountKey={AZURE_KEY};"
            f"BlobEndpoint={address}/{AZURE_ACCOUNT};"
        ),
        "OMP_NUM_THREADS": "1",
        "XDG_STATE_HOME": str(scratch / "state"),
        "XDG_CACHE_HOME": str(scratch / "cache"),
    }


def url_of(scheme: str, address: str) -> str:
    """The checkpoint's address at a server of faults."""
    return f"{address}/ckpt" if scheme == "http" else f"{scheme}://ckpt"


def run(name: str, scheme: str, address: str, scratch: Path, *, give_up_s: float) -> Ended:
    """A command, watched until it ends.

    Args:
        name: Of `COMMANDS`.
        scheme: `http`, `s3`, `gs` or `az`.
        address: The server's.
        scratch: A new folder, for what it writes and keeps.
        give_up_s: After so long it is killed; its exit code is then negative.

    Raises:
        AssertionError: It takes memory without bounds, and was killed.
    """
    scratch.mkdir(parents=True)
    places = {
        "URL": url_of(scheme, address),
        "INTACT": str(SAMPLE),
        "SEAL": str(scratch.parent / "seal.json"),
    }
    told = [places.get(word, word) for word in COMMANDS[name]]
    told = [str(scratch / word) if word.startswith("NEW") else word for word in told]
    argv = (
        [sys.executable, *told] if told[0] == "-m" else [sys.executable, "-m", "inspector", *told]
    )
    with (scratch / "out").open("w+") as out, (scratch / "err").open("w+") as err:
        began, peak = time.monotonic(), 0
        env = environment(scratch, address)
        process = subprocess.Popen(argv, cwd=ROOT, env=env, stdout=out, stderr=err, text=True)
        try:
            while process.poll() is None and time.monotonic() - began < give_up_s:
                now = _tree_bytes(process.pid)
                peak = max(peak, now)
                assert now < 8 * MAX_BYTES, f"{name}: {now >> 20} MiB"
                time.sleep(0.03)
            wall_s = time.monotonic() - began
        finally:
            process.kill()
            code = process.wait()
        out.seek(0)
        err.seek(0)
        return Ended(code, wall_s, peak, out.read(), err.read())


def seal_intact(scratch: Path) -> None:
    """Write the seal that `check --manifest` is given: beside the folders of `run`."""
    argv = [sys.executable, "-m", "inspector", "seal", str(SAMPLE)]
    argv += ["--output", str(scratch / "seal.json")]
    subprocess.run(argv, cwd=ROOT, check=True, capture_output=True)


def _tree_bytes(pid: int) -> int:
    total = 0
    try:
        top = psutil.Process(pid)
        for process in (top, *top.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.Error:
                continue  # It has ended.
    except psutil.Error:
        pass
    return total
