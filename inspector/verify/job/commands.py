"""A job's command lines: the one that is run here, and those to run on several nodes."""

from __future__ import annotations

import dataclasses
import os
import shlex
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from inspector.checkpoint.storage.base import is_url
from inspector.checkpoint.text import printable
from inspector.errors import StorageError
from inspector.layout.mesh import Mesh
from inspector.verify.import_path import clean_environment
from inspector.verify.job.guard import MARK
from inspector.verify.spec import MEETING, JobSpec

__all__ = [
    "SHARED_DIR",
    "WORKER",
    "cluster_commands",
    "elsewhere",
    "environment",
    "imports_of",
    "local_argv",
    "one_node_line",
    "print_lines",
    "shell",
]

#: The module that every rank runs, with the spec's path as its argument.
WORKER = "inspector.verify.ranks.worker"

_GPUS_PER_NODE = 8
_PORT = 29500


def local_argv(
    spec: JobSpec,
    spec_path: str | Path,
    logs_dir: str | Path,
    module: str = WORKER,
    meeting: str = "",
) -> list[str]:
    """The command that runs the job on this machine.

    Its processes meet by a file, so that none listens on the network: torch's own store does on
    every interface, and takes pickles from whoever connects. `--local-addr` keeps a host name that
    does not resolve from holding the ranks up.

    Args:
        spec: The job.
        spec_path: Where it is written.
        logs_dir: For what the ranks print.
        module: What each of them runs.
        meeting: The folder of that file; empty to meet over a free port after all.
    """
    meet = ["--standalone"]
    if meeting:
        meet = [
            "--nnodes=1",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={os.path.join(meeting, 'agents')}",
            "--rdzv-conf=store_type=file",
            f"--rdzv-id={uuid.uuid4().hex}",
        ]
    return [
        spec.python,
        "-m",
        "torch.distributed.run",
        *meet,
        "--local-addr=127.0.0.1",
        f"--nproc-per-node={spec.world_size}",
        "--redirects=3",
        f"--log-dir={logs_dir}",
        "-m",
        module,
        str(spec_path),
    ]


def shell(argv: list[str]) -> str:
    """A command line as a shell takes it."""
    return shlex.join(argv)


def environment(
    spec: JobSpec,
    imports: str | Path,
    mark: str,
    base: Mapping[str, str] | None = None,
    meeting: str = "",
) -> dict[str, str]:
    """The environment of a job on this machine.

    Args:
        spec: The job.
        imports: Folder that holds the `inspector` package and nothing else.
        mark: What the job's processes are known by.
        base: Environment to start from (default: this process's).
        meeting: As for `local_argv`.
    """
    env = clean_environment(base, spec.path)
    path = env.get("PYTHONPATH")
    env["PYTHONPATH"] = f"{imports}{os.pathsep}{path}" if path else str(imports)
    env[MARK] = mark
    # Each line that a rank prints is seen when it is printed.
    env["PYTHONUNBUFFERED"] = "1"
    threads = max(1, (os.cpu_count() or 1) // spec.world_size)
    env.setdefault("OMP_NUM_THREADS", str(threads))
    env.pop(MEETING, None)
    if meeting:
        env[MEETING] = os.path.join(meeting, "ranks")
        # torch 2.5 and later: the agent opens no store of its own for the ranks.
        env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    # torch 2.12 and later; before that it waits 30 s for a rank that ignores SIGTERM.
    env.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "5")
    if spec.backend == "gloo" and Path("/sys/class/net/lo").exists():
        env.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if spec.device == "cpu":
        # No rank makes a context on a GPU that somebody else computes on.
        env["CUDA_VISIBLE_DEVICES"] = ""
    return env


def imports_of(events_dir: str | Path) -> str:
    """The folder in which the processes of a printed job start; it holds our package alone."""
    return str(Path(events_dir, "import"))


def one_node_line(spec: JobSpec, spec_path: str | Path) -> str:
    """What to run where all ranks are on one machine."""
    local = ["--standalone", f"--nproc-per-node={spec.world_size}", "-m", WORKER, str(spec_path)]
    torchrun = shell([spec.python, "-m", "torch.distributed.run", *local])
    return f"cd {shlex.quote(imports_of(spec.events_dir))} && {torchrun}"


def cluster_commands(spec: JobSpec, spec_path: str | Path) -> list[tuple[str, str]]:
    """What to run where there are several nodes: pairs of where and the line."""
    size = spec.world_size
    per_node = max(n for n in range(1, _GPUS_PER_NODE + 1) if size % n == 0)
    nodes = size // per_node
    meet = "--standalone"
    head = ""
    if nodes > 1:
        name = "hsdp-inspect-" + spec.mesh.replace(":", "-")
        meet = f"--nnodes={nodes} --rdzv-backend=c10d --rdzv-id={name}"
        meet += f' --rdzv-endpoint="$HEAD_NODE:{_PORT}"'
        head = 'export HEAD_NODE=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1); '
    torchrun = (
        f"{shlex.quote(spec.python)} -m torch.distributed.run {meet} "
        f"--nproc-per-node={per_node} -m {WORKER} {shlex.quote(str(spec_path))}"
    )
    # The folder of this import is of our own, and both torchrun and the ranks look there first: not
    # in the folder that somebody happens to stand in.
    go = f"cd {shlex.quote(imports_of(spec.events_dir))} && "
    lines = []
    if nodes > 1:
        where = f"on each of {nodes} nodes, HEAD_NODE being the first of them"
        lines.append((where, go + torchrun))
    lines.append(
        (
            "inside a SLURM allocation",
            f"{go}{head}srun --nodes={nodes} --ntasks-per-node=1 {torchrun}",
        )
    )
    lines.append(
        (
            "to watch it, from anywhere that sees the folder",
            f"hsdp-inspect replay --follow {shlex.quote(spec.events_dir)}",
        )
    )
    return lines


def print_lines(spec: JobSpec, events_dir: str, scratch: str, device: str) -> Iterator[str]:
    """What `--print-command` prints: a shell script of comments and command lines.

    The spec that the commands name is written, so that they can be run as they stand.

    Args:
        spec: The job as it is resolved for this machine.
        events_dir: Folder that every node sees; empty for a new run folder.
        scratch: Scratch folder that every node sees; empty for one in the events folder.
        device: As it was asked for; `auto` takes the nodes to have GPUs.

    Raises:
        StorageError: The spec cannot be written.
    """
    # lazy: `plan` names commands, and makes no folder for them
    from inspector.verify.job.run_folder import RunFolder, link_package

    name = f"{Path(spec.path).name}-{spec.mesh}"
    folder = Path(events_dir).absolute() if events_dir else None
    if folder is None:
        folder = RunFolder.create(name, inspected=spec.path).path
    on_gpus = device != "cpu"
    spec = dataclasses.replace(
        spec,
        events_dir=str(folder),
        scratch_dir=scratch or str(folder / "scratch"),
        device="cuda" if on_gpus else "cpu",
        backend="nccl" if on_gpus else "gloo",
        run=uuid.uuid4().hex,
    )
    spec_path = folder / "spec.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        link_package(imports_of(folder))
        spec_path.write_text(spec.to_json() + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {printable(str(spec_path))}: {error.strerror}") from error
    yield f"# {spec.world_size} ranks, {spec.device}, {spec.backend}; the job is {spec_path}"
    if not events_dir:
        yield "# several nodes need a folder that all of them see: --events DIR"
    yield "# on this machine alone"
    yield one_node_line(spec, spec_path)
    for where, line in cluster_commands(spec, spec_path):
        yield f"# {where}"
        yield line


#: What the lines call the folder that all nodes see; to be replaced by its path from the root.
SHARED_DIR = "SHARED_DIR"
_PYTHON = "python"


def elsewhere(path: str, mesh: Mesh, shared_dir: str = SHARED_DIR) -> tuple[tuple[str, str], ...]:
    """What to run: pairs of where, and the line.

    Nodes are taken to have eight GPUs, or fewer where that does not divide the ranks.

    Args:
        path: The checkpoint; the nodes must see it under the same path.
        mesh: The mesh to load it under.
        shared_dir: A folder that every node sees.
    """
    seen = path if is_url(path) else os.path.abspath(path)
    spec = JobSpec(path=seen, mesh=str(mesh), python=_PYTHON, events_dir=shared_dir)
    spec_path = f"{shared_dir}/spec.json"
    verify = ["hsdp-inspect", "verify", seen, "--mesh", str(mesh), "--events", shared_dir]
    lines = [
        (
            f"once, to write the job into {shared_dir}, a folder that every node sees",
            shlex.join([*verify, "--print-command"]),
        )
    ]
    commands = cluster_commands(spec, spec_path)
    if not any("each of" in where for where, _ in commands):
        lines.append(("on one node", one_node_line(spec, spec_path)))
    return (*lines, *commands)
