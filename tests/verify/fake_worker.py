"""What torchrun runs in the tests of the launcher: a rank without torch that does as it is told.

`FAKE_RANK_R` (or `FAKE_RANK`) says what rank R does: `ok`, `raise`, `exit:3`, `sigkill`, `hang`,
`ignore_sigterm`, `print`, `differ`, `no_bye`, `noisy`, `early` (ends before it says hello),
`early_once` (only if it is the first to do so in this job).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

from inspector.verify.events import EventWriter
from inspector.verify.ranks import vitals
from inspector.verify.spec import JobSpec

NAMES = ("layers.0.weight", "layers.1.weight", "step")
#: What a rank tells where all is well.
READS = {
    "ok": True,
    "tried": True,
    "torch": "2.13.0",
    "error": None,
    "second_reading": "",
    "num_payloads": 3,
    "num_forgotten": 0,
    "forgotten": [],
}
CANARIES = dict.fromkeys(("compare", "recheck", "reload", "replicas", "checksums"), 1)


def stuck_here(_seconds: float = 600) -> None:
    """A call whose name a stack can show."""
    time.sleep(_seconds)


def main() -> None:
    rank = int(os.environ["RANK"])
    deed = os.environ.get(f"FAKE_RANK_{rank}") or os.environ.get("FAKE_RANK", "ok")
    if deed == "early_once" and not Path(sys.argv[1]).with_name("logs-first").exists():
        deed = "early"
    if deed == "early":
        raise RuntimeError("EADDRINUSE: address already in use")
    if "no_pdeathsig" not in os.environ.get("FAKE_OPTIONS", ""):
        vitals.die_with_parent()
    spec = JobSpec.read(sys.argv[1])
    vitals.register_stacks(spec.events_dir, rank)
    if deed == "ignore_sigterm":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    writer = EventWriter(spec.events_dir, rank, spec.run)
    writer.send("hello", pid=os.getpid(), host=socket.gethostname(), device=spec.device)
    Path(spec.scratch_dir, f"rank-{rank}").mkdir()
    Path(spec.scratch_dir, f"rank-{rank}", "data").write_bytes(b"x" * 1000)
    for phase in ("load", "compare", "save", "reload", "recheck"):
        writer.send("phase", phase=phase)
        writer.send(
            "progress", phase=phase, bytes_done=50, bytes_total=100, tensors_done=1, tensors_total=3
        )
        if phase == "compare":
            misbehave(deed, rank)
        if phase in ("compare", "recheck"):
            for name in NAMES:
                verdict = "DIFFER" if deed == "differ" and name == "step" else "EXACT"
                writer.send(
                    "tensor",
                    phase=phase,
                    fqn=name,
                    verdict=verdict,
                    num_elements=8,
                    num_different=int(verdict == "DIFFER"),
                    first_index=[3],
                    expected="0x00",
                    found="0x01",
                    file="__0_0.distcp",
                    detail="",
                )
        writer.send(
            "progress",
            phase=phase,
            bytes_done=100,
            bytes_total=100,
            tensors_done=3,
            tensors_total=3,
        )
    if rank == 0:
        writer.send("torch_reads", **READS)
    if deed != "no_bye":
        writer.send("bye", payloads_unsummed=3 if rank == 0 else 0, canaries=CANARIES)
    sys.stdout.flush()
    os._exit(0)


def misbehave(deed: str, rank: int) -> None:
    if deed == "raise":
        raise ValueError(f"rank {rank} does not like this")
    if deed.startswith("exit:"):
        os._exit(int(deed[5:]))
    if deed == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    if deed in ("hang", "ignore_sigterm"):
        stuck_here()
    if deed == "print":
        sys.stdout.write(f"rank {rank} says \x1b[31mred\n")
        sys.stderr.write("a warning\n")
    if deed == "noisy":
        for i in range(20_000):
            sys.stdout.write(f"line {i}\n")


if __name__ == "__main__":
    main()
