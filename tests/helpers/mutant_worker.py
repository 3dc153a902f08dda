"""Jobs of two ranks whose own code is changed, one after the other, in one process that forks.

What a rank costs is the import of torch, which all ranks of all jobs share here: each is a fork of
one process, and runs `worker.main` as torchrun runs it. A rank that ends badly takes the others
with it, as torchrun does.

    python -m tests.helpers.mutant_worker JOBS.json    # [[mutant, spec.json], ...]
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from inspector.verify.ranks import roundtrip, worker
from inspector.verify.spec import JobSpec
from tests.helpers.mutants import MUTANTS

_TIMEOUT_S = 180.0


def _fork(child: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        child()
    finally:
        os._exit(70)


def _serve_store(pipe: int) -> None:
    """The store that the ranks of one job meet at, in a process of its own: it has threads."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    os.write(pipe, f"{store.port}\n".encode())
    while True:
        time.sleep(60)


def _rank(rank: int, port: str, mutant: str, file: str) -> None:
    spec = JobSpec.read(file)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(spec.world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        # As torchrun sets it: the store is not rank 0's.
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    log = os.open(Path(file).with_suffix(f".{rank}.log"), os.O_CREAT | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["worker", file]
    if mutant:
        MUTANTS[mutant].plant(spec)
    worker.main()


def _run(mutant: str, file: str) -> None:
    here, there = os.pipe()
    server = _fork(lambda: _serve_store(there))
    port = os.read(here, 64).decode().strip()
    size = JobSpec.read(file).world_size
    ranks = {_fork(lambda r=r: _rank(r, port, mutant, file)) for r in range(size)}
    deadline = time.monotonic() + _TIMEOUT_S
    while ranks:
        pid, status = os.waitpid(-1, os.WNOHANG)
        ranks.discard(pid)
        if (pid and status) or time.monotonic() > deadline:
            for other in ranks:
                os.kill(other, signal.SIGKILL)
        if not pid:
            time.sleep(0.01)
    os.kill(server, signal.SIGKILL)
    os.waitpid(server, 0)
    os.close(here)
    os.close(there)


def main() -> None:
    for mutant, file in json.loads(Path(sys.argv[1]).read_text()):
        _run(mutant, file)


if __name__ == "__main__":
    assert roundtrip  # Imported here once, for all.
    main()
