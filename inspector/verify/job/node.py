"""One node's part of a printed job: checks what it needs, runs torchrun, and has the last word.

    python node.py --nnodes=2 --nproc-per-node=8 --rdzv-endpoint=HEAD:29500

It takes torchrun's own options and starts torchrun with them, where torch's own reports name a
line of C++ when a port is taken or a node does not come. All that the nodes share is the folder of
the events: each appends to a file of its own there, once a second, so that the others see that it
lives, and is read by `replay` as the ranks' files are. Every wait has an end, and the last line
says in words how the job ended.

It runs with the interpreter of the ranks: the standard library, torch and numpy is all there is.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from inspector.checkpoint.text import printable
from inspector.errors import InspectError
from inspector.verify.job import network, post_mortem
from inspector.verify.job.commands import environment, findings_line, local_argv, torchrun_argv
from inspector.verify.job.guard import PR_SET_PDEATHSIG, kill_all, prctl, remove_scratch
from inspector.verify.job.peers import SILENT_BEATS, NodeStop, OwnRanks, Peers
from inspector.verify.job.run_folder import meeting_folder
from inspector.verify.recording import read_events, snapshot_of
from inspector.verify.result import exit_code
from inspector.verify.shares.merge import judged
from inspector.verify.spec import JobSpec, RankSpec, ReadSpec, read_spec

__all__ = ["main"]

_POLL_S = 0.25
_BEAT_S = 1.0
#: After so many beats without one of its own a node counts as silent, once the ranks here have lost
#: a connection: then somebody is gone.
_SILENT_BEATS_AFTER = 8
_GRACE_S = 10.0
#: For the last words of ranks elsewhere to be seen here.
_LAST_WORDS_S = 30.0
#: torchrun waits longer for the nodes than this module, which says who did not come.
_RDZV_MARGIN_S = 300
_TAIL_LINES = 15


class _Node:
    """This node, from its checks to its last line."""

    def __init__(self, spec: RankSpec, spec_path: Path, args: argparse.Namespace) -> None:
        self._spec = spec
        self._spec_path = spec_path
        self._args = args
        self._events = Path(spec.events_dir)
        self._host = socket.gethostname() or "?"
        self._peers = Peers(self._events, self._host, spec.run)
        self._logs = self._events / "logs" / self._peers.name
        self._mark = f"{spec.run}-{self._peers.name}"
        self._began = time.monotonic()
        self._signal = 0
        self._open = contextlib.ExitStack()
        self._torchrun: subprocess.Popen[bytes] | None = None

    # --- from the first check to the last line

    def run(self) -> int:
        """Run this node's ranks; the exit code of the whole job's verdict."""
        self._listen()
        try:
            self._register()
        except OSError as error:
            _print(f"FAILED: {printable(str(self._events))} cannot be written to: {error}")
            return 2
        except NodeStop as stop:
            _print(f"FAILED: {stop}")
            return 2
        try:
            self._start()
            self._watch()
            self._judge()
        except NodeStop as stop:
            if not stop.is_told:
                self._peers.tell("failed", kind=stop.kind, message=str(stop), stack="", root=True)
        finally:
            self._end()
        return self._conclude()

    def _listen(self) -> None:
        """Hear the signals that end it; what is ignored (`nohup`) stays so."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def _register(self) -> None:
        """Make this node's file in the folder that all nodes see.

        Raises:
            OSError: It cannot be written to.
            NodeStop: The job has run already.
        """
        size = self._args.nnodes * self._args.nproc_per_node
        if size != self._spec.world_size:
            raise NodeStop(
                f"{self._args.nnodes} nodes of {self._args.nproc_per_node} ranks are {size}; "
                f"the job, {self._spec.label}, is of {self._spec.world_size}"
            )
        if any(self._events.glob("rank-*.jsonl")):
            raise NodeStop(
                f"{printable(str(self._events))} holds the events of a job that has run; "
                "print it anew (--print-command), into another folder"
            )
        self._logs.mkdir(parents=True, exist_ok=True)
        self._peers.join()

    def _start(self) -> None:
        """Check what can be known now, and start torchrun.

        Raises:
            NodeStop: It cannot work.
        """
        interface, meeting = "lo", ""
        if self._args.nnodes == 1:
            meeting = self._open.enter_context(meeting_folder())
            spec = dataclasses.replace(self._spec, python=sys.executable)
            argv = local_argv(spec, self._spec_path, self._logs, meeting=meeting)
        else:
            place = self._meet()
            interface = place.interface
            argv = self._argv(place)
        self._peers.beat()
        _print(f"{printable(self._host)} runs {' '.join(argv[1:])}")
        imports = self._spec_path.parent / "import"
        env = environment(
            self._spec,
            imports,
            self._mark,
            meeting=meeting,
            num_ranks=self._args.nproc_per_node,
            interface=interface,
        )
        call_prctl = prctl()
        with open(self._logs / "torchrun.out", "ab") as out, open(self._stderr, "ab") as err:
            try:
                self._torchrun = subprocess.Popen(  # noqa: S603 - the argv that was just shown
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    cwd=imports,
                    env=env,
                    start_new_session=True,
                    preexec_fn=lambda: call_prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
                )
            except OSError as error:
                raise NodeStop(f"torchrun could not be started: {error}") from error

    def _argv(self, place: network.Place) -> list[str]:
        """Torchrun's command line where there are other nodes."""
        wait_s = int(self._args.join_timeout) + _RDZV_MARGIN_S
        meet = [
            f"--nnodes={self._args.nnodes}",
            f"--nproc-per-node={self._args.nproc_per_node}",
            "--rdzv-backend=c10d",
            f"--rdzv-id={self._spec.run}",
            f"--rdzv-endpoint={place.endpoint}",
            f"--rdzv-conf=is_host={int(place.is_head)},join_timeout={wait_s},read_timeout={wait_s}",
            f"--local-addr={place.address}",
            "--max-restarts=0",
        ]
        spec = self._spec
        return torchrun_argv(sys.executable, meet, self._logs, spec.worker, self._spec_path)

    @property
    def _stderr(self) -> Path:
        return self._logs / "torchrun.err"

    def _meet(self) -> network.Place:
        """Where the nodes meet, as it is seen from here.

        Raises:
            NodeStop: Not there.
        """
        endpoint = self._args.rdzv_endpoint
        host, _, port = endpoint.rpartition(":")
        if not host or not port.isdigit():
            raise NodeStop(
                f"--rdzv-endpoint {printable(endpoint)!a} is no HOST:PORT; the host is the first "
                "node (export HEAD_NODE=...)"
            )
        try:
            place = network.place(host.strip("[]"), int(port), self._args.node_rank)
        except network.NetworkError as error:
            raise NodeStop(f"on {printable(self._host)}: {error}") from error
        self._peers.is_head = place.is_head
        for note in place.notes:
            _print(note)
        return place

    # --- while it runs

    def _watch(self) -> None:
        """Until torchrun has ended.

        Raises:
            NodeStop: It has to be ended, by a signal or for another node's sake.
        """
        assert self._torchrun is not None  # noqa: S101 - _start made it
        ranks = OwnRanks(self._spec, self._host)
        self._open.callback(ranks.close)
        while self._torchrun.poll() is None:
            try:
                self._look()
            except NodeStop as stop:
                if stop.kind == "timeout":
                    # Another node found that nothing moves; where the ranks here stand, this one.
                    self._tell_of(ranks.stuck())
                raise
            if stuck := ranks.look(time.monotonic()):
                self._tell_of(stuck)
                raise NodeStop(stuck[0]["message"], "timeout", is_told=True)
            late = time.monotonic() - self._began > self._args.join_timeout
            here = self._peers.hosts
            if late and 1 + len(here) < self._args.nnodes:
                raise NodeStop(self._who_is_missing(here))
            time.sleep(_POLL_S)

    def _tell_of(self, stuck: list[dict[str, Any]]) -> None:
        for fields in stuck:
            self._peers.tell("failed", **fields)

    def _who_is_missing(self, here: list[str]) -> str:
        came = sorted(printable(host, 60) for host in (self._host, *here))
        named = ", ".join(came[:8]) + (" ..." if len(came) > 8 else "")
        said = (
            f"{len(came)} of {self._args.nnodes} nodes came within "
            f"{self._args.join_timeout:.0f} s: {named}"
        )
        listed = network.hosts_of(os.environ.get("SLURM_JOB_NODELIST", ""))
        wanted = set(listed) - {host.partition(".")[0] for host in (self._host, *here)}
        if wanted:
            said += f"; nothing was heard of {', '.join(sorted(wanted)[:8])}"
        return said

    def _look(self, silent_beats: int = SILENT_BEATS) -> None:
        """Beat, and hear the other nodes.

        Raises:
            NodeStop: One of them has failed or is silent, or this one was told to stop.
        """
        if self._signal:
            name = signal.Signals(self._signal).name
            raise NodeStop(f"node {printable(self._host)} was stopped by {name}", "killed")
        self._peers.look(silent_beats)

    def _on_signal(self, number: int, frame: object) -> None:
        self._signal = number

    # --- its end

    def _judge(self) -> None:
        """Say why torchrun failed, where no rank could, and wait for what others have to say.

        Raises:
            NodeStop: Another node, or torchrun itself, is why.
        """
        assert self._torchrun is not None  # noqa: S101 - _start made it
        code = self._torchrun.returncode
        snapshot = snapshot_of(self._events)
        if code == 0:
            return
        found = post_mortem.diagnose(
            snapshot,
            exit_code=code,
            start_error="",
            stderr=post_mortem.tail_of(self._stderr),
            # torchrun names the folders by local rank; that it is why, not which, matters here.
            rank_stderr=post_mortem.rank_stderr(self._logs),
            was_oom=False,
        )
        if self._args.nnodes > 1:
            # Of the ranks of other nodes torchrun here knows nothing.
            found = [fields for fields in found if (fields["rank"], fields["kind"]) != _NO_WORD]
        for fields in found:
            said = fields["message"]
            if fields["rank"] is None:
                said = f"on {printable(self._host)}, {said}"
            self._peers.tell("failed", **{**fields, "message": said})
        if found or any(not failure.is_echo for failure in snapshot.failures):
            return
        # All that the ranks here know is that others are gone: who that is shows now.
        deadline = time.monotonic() + _LAST_WORDS_S
        while time.monotonic() < deadline:
            self._look(_SILENT_BEATS_AFTER)
            if self._peers.are_over:
                return
            time.sleep(_POLL_S)

    def _end(self) -> None:
        """End torchrun and its ranks, if they still run, and remove the scratch folder."""
        torchrun = self._torchrun
        if torchrun is not None and torchrun.poll() is None:
            with contextlib.suppress(OSError):
                torchrun.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                torchrun.wait(_GRACE_S)
        if torchrun is not None:
            kill_all(self._mark, [torchrun.pid] if torchrun.poll() is None else [])
            with contextlib.suppress(subprocess.TimeoutExpired):
                torchrun.wait(_GRACE_S)
        self._open.close()
        # Whether it ended well or not: no rank anywhere needs it any more.
        remove_scratch(self._spec.scratch_dir)
        self._peers.tell("heartbeat", is_over=True)

    def _conclude(self) -> int:
        """Print the verdict of the whole job as the last line; its exit code."""
        is_well = self._torchrun is not None and self._torchrun.returncode == 0
        deadline = time.monotonic() + (_LAST_WORDS_S if is_well else 0.0)
        while True:
            result = _result(self._events)
            if "end was heard" not in str(result.get("why")) or time.monotonic() > deadline:
                break
            time.sleep(_POLL_S)
        if not is_well:
            for line in post_mortem.tail_of(self._stderr).splitlines()[-_TAIL_LINES:]:
                _print(f"| {printable(line, 200)}")
        if isinstance(self._spec, ReadSpec):
            return _judged(self._spec, self._events)
        _print(_sentence(result, self._spec))
        return exit_code(result)


_NO_WORD = (None, "exception")


def _result(events: Path) -> dict[str, Any]:
    """The verdict on what the folder holds now."""
    result: dict[str, Any] = {}
    try:
        for event in read_events(str(events)):
            if event is not None and event["event"] == "result":
                result = event
    except InspectError as error:
        return {"why": str(error)}
    return result


def _judged(spec: ReadSpec, events: Path) -> int:
    """Print what the ranks have found together, as the last line; the exit code."""
    try:
        said, code = judged(spec, events)
    except InspectError as error:
        _print(f"FAILED: {printable(error.message, 600)}")
        return 2
    _print(f"{said}; {printable(findings_line(spec), 600)}")
    return code


def _sentence(result: dict[str, Any], spec: JobSpec) -> str:
    verdict = str(result.get("verdict") or "failed")
    tensors = result.get("tensors") or {}
    counts = f"{tensors.get('exact') or 0:,} of {tensors.get('total') or 0:,} entries exact"
    why = printable(str(result.get("why") or ""), 600)
    if not result:
        why = "no rank was ever up"
    under = f"under {spec.mesh} ({spec.world_size} ranks, {spec.device}, {spec.backend})"
    more = f"hsdp-inspect replay {printable(spec.events_dir, 300)}"
    return f"{verdict.upper()}: {why}{'; ' if why else ''}{counts} {under}; {more}"


def _print(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"hsdp-inspect: {line}\n")
        sys.stderr.flush()


def _arguments(argv: Sequence[str] | None, spec_path: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="node.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--nnodes", type=int, default=1, help="how many nodes there are")
    parser.add_argument("--nproc-per-node", type=int, default=1, help="ranks on each")
    parser.add_argument("--rdzv-endpoint", default="", metavar="HOST:PORT", help="the first node")
    parser.add_argument("--standalone", action="store_true", help="all ranks are on this node")
    parser.add_argument("--node-rank", type=int, default=None, help="0 is the first node")
    parser.add_argument("--join-timeout", type=float, default=None, metavar="S")
    parser.add_argument("spec", nargs="?", default=spec_path, help="the job")
    args = parser.parse_args(argv)
    if args.node_rank is None and os.environ.get("SLURM_NODEID", "").isdigit():
        args.node_rank = int(os.environ["SLURM_NODEID"])
    return args


def main(spec_path: str = "", argv: Sequence[str] | None = None) -> NoReturn:
    """Run this node's part of a printed job, and exit with the code of its verdict.

    Args:
        spec_path: The job, where the command line names none.
        argv: The command line (default: this process's).
    """
    args = _arguments(argv, spec_path)
    try:
        spec = read_spec(args.spec)
    except (OSError, InspectError) as error:
        _print(f"FAILED: {printable(str(args.spec))} cannot be read: {error}")
        sys.exit(2)
    if args.join_timeout is None:
        args.join_timeout = spec.timeout_s
    sys.exit(_Node(spec, Path(os.path.abspath(args.spec)), args).run())
