"""A job's command lines: the one that is run here, and those to run on several nodes."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import socket
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from inspector.checkpoint.storage.base import is_url
from inspector.checkpoint.text import printable
from inspector.errors import StorageError, UsageError
from inspector.layout.mesh import Mesh
from inspector.verify.import_path import clean_environment
from inspector.verify.job import manifests
from inspector.verify.job.guard import MARK, SCRATCH_PREFIX
from inspector.verify.job.manifests import Shape
from inspector.verify.spec import MEETING, JobSpec, RankSpec, ReadSpec

__all__ = [
    "SHARED_DIR",
    "asked_words",
    "cluster_commands",
    "elsewhere",
    "environment",
    "findings_line",
    "imports_of",
    "local_argv",
    "node_line",
    "print_lines",
    "shell",
    "torchrun_argv",
    "without_launcher",
    "write_manifests",
]

#: What each node runs, beside the package.
NODE_SCRIPT = "node.py"
_SCRIPT = '''"""Run this node's part of the job that lies above: see `python node.py --help`."""

import sys

HERE = __file__.rpartition("/")[0] or "."
sys.path[:] = [HERE, *(part for part in sys.path if part not in ("", HERE))]

from inspector.verify.job.node import main  # noqa: E402

main(HERE + "/../spec.json")
'''

_PYTHON_IN_IMAGE = "python3"


def local_argv(
    spec: RankSpec, spec_path: str | Path, logs_dir: str | Path, module: str = "", meeting: str = ""
) -> list[str]:
    """The command that runs the job on this machine.

    Its processes meet by a file, so that none listens on the network: torch's own store does on
    every interface, and takes pickles from whoever connects. `--local-addr` keeps a host name that
    does not resolve from holding the ranks up.

    Args:
        spec: The job.
        spec_path: Where it is written.
        logs_dir: For what the ranks print.
        module: What each of them runs (default: the spec's worker).
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
    meet += ["--local-addr=127.0.0.1", f"--nproc-per-node={spec.world_size}"]
    return torchrun_argv(spec.python, meet, logs_dir, module or spec.worker, spec_path)


def torchrun_argv(
    python: str, meet: list[str], logs_dir: str | Path, module: str, spec_path: str | Path
) -> list[str]:
    """The command line of torchrun; `meet` says who is there, and where they meet."""
    logs = ["--redirects=3", f"--log-dir={logs_dir}"]
    return [python, "-m", "torch.distributed.run", *meet, *logs, "-m", module, str(spec_path)]


def shell(argv: list[str]) -> str:
    """A command line as a shell takes it."""
    return shlex.join(argv)


def environment(
    spec: RankSpec,
    imports: str | Path,
    mark: str,
    base: Mapping[str, str] | None = None,
    meeting: str = "",
    *,
    num_ranks: int = 0,
    interface: str = "lo",
) -> dict[str, str]:
    """The environment of a job's processes on one machine.

    Args:
        spec: The job.
        imports: Folder that holds the `inspector` package and nothing else.
        mark: What the job's processes are known by.
        base: Environment to start from (default: this process's).
        num_ranks: Ranks on this machine (default: all).
        interface: The network interface by which they reach each other; empty for gloo's choice.
        meeting: As for `local_argv`.
    """
    env = without_launcher(clean_environment(base, spec.path))
    path = env.get("PYTHONPATH")
    env["PYTHONPATH"] = f"{imports}{os.pathsep}{path}" if path else str(imports)
    env[MARK] = mark
    # Each line that a rank prints is seen when it is printed.
    env["PYTHONUNBUFFERED"] = "1"
    threads = max(1, (os.cpu_count() or 1) // (num_ranks or spec.world_size))
    env.setdefault("OMP_NUM_THREADS", str(threads))
    env.pop(MEETING, None)
    if meeting:
        env[MEETING] = os.path.join(meeting, "ranks")
        # torch 2.5 and later: the agent opens no store of its own for the ranks.
        env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    # torch 2.12 and later; before that it waits 30 s for a rank that ignores SIGTERM.
    env.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "5")
    # Also where the tensors go over nccl: objects still go over gloo.
    if interface in {name for _, name in socket.if_nameindex()}:
        env.setdefault("GLOO_SOCKET_IFNAME", interface)
    if spec.device == "cpu":
        # No rank makes a context on a GPU that somebody else computes on.
        env["CUDA_VISIBLE_DEVICES"] = ""
    elif spec.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(spec.gpus)
    return env


def without_launcher(env: Mapping[str, str]) -> dict[str, str]:
    """An environment without what another launcher set for its own ranks.

    torchrun takes each of its options from PET_..., which a pod of Kubeflow has set; and the ranks
    of a job that is started in another job's rank are not that job's.
    """
    return {
        name: value
        for name, value in env.items()
        if not name.startswith(_LAUNCHERS) and name not in _RANKS
    }


_LAUNCHERS = ("PET_", "TORCHELASTIC_")
_RANKS = frozenset(
    "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK GROUP_WORLD_SIZE ROLE_RANK "
    "ROLE_WORLD_SIZE ROLE_NAME MASTER_ADDR MASTER_PORT".split()
)


def imports_of(events_dir: str | Path) -> str:
    """The folder in which the processes of a printed job start; it holds our package alone."""
    return str(Path(events_dir, "import"))


def node_line(
    events_dir: str, shape: Shape, python: str, endpoint: str = "", more: str = ""
) -> str:
    """What each node runs: our own launcher, which starts torchrun.

    Args:
        events_dir: The folder of the job.
        shape: Where its ranks lie.
        python: The interpreter.
        endpoint: HOST:PORT of the first node as a shell takes it (default: $HEAD_NODE).
        more: Further options, as a shell takes them.
    """
    # Where it stands there is our package alone: nothing is imported from where the user stands.
    line = f"cd {shlex.quote(imports_of(events_dir))} && {shlex.quote(python)} {NODE_SCRIPT}"
    if shape.nodes == 1:
        return f"{line} --standalone --nproc-per-node={shape.per_node}{more}"
    endpoint = endpoint or f'"$HEAD_NODE:{shape.port}"'
    return (
        f"{line} --nnodes={shape.nodes} --nproc-per-node={shape.per_node}{more} "
        f"--rdzv-endpoint={endpoint}"
    )


def torchrun_line(spec: RankSpec, spec_path: str | Path, shape: Shape) -> str:
    """The same by torchrun alone, where something else has to start it."""
    imports = shlex.quote(imports_of(spec.events_dir))
    meet = "--standalone"
    if shape.nodes > 1:
        meet = f"--nnodes={shape.nodes} --rdzv-backend=c10d --rdzv-id={spec.run} "
        meet += f'--rdzv-endpoint="$HEAD_NODE:{shape.port}"'
    return (
        f"cd {imports} && PYTHONPATH={imports} {shlex.quote(spec.python)} "
        f"-m torch.distributed.run {meet} --nproc-per-node={shape.per_node} "
        f"-m {spec.worker} {shlex.quote(str(spec_path))}"
    )


def cluster_commands(spec: RankSpec, shape: Shape | None = None) -> list[tuple[str, str]]:
    """What to run where there are several nodes: pairs of where and the line."""
    shape = shape or Shape.of(spec.world_size)
    line = node_line(spec.events_dir, shape, spec.python)
    lines = []
    head = ""
    if shape.nodes > 1:
        lines.append((f"on each of {shape.nodes} nodes, HEAD_NODE being the first of them", line))
        head = 'export HEAD_NODE=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1); '
    go, _, run = line.partition(" && ")
    srun = f"{go} && {head}srun --nodes={shape.nodes} --ntasks-per-node=1 {run}"
    lines.append(("inside a SLURM allocation", srun))
    lines.append(
        (
            "to watch it, from anywhere that sees the folder",
            f"hsdp-inspect replay --follow {shlex.quote(spec.events_dir)}",
        )
    )
    return lines


def print_lines(
    spec: RankSpec,
    events_dir: str,
    scratch: str = "",
    device: str = "cpu",
    *,
    shape: Shape | None = None,
    is_measured: bool = True,
    python: str = "",
    backend: str = "",
) -> Iterator[str]:
    """What `--print-command` prints: a shell script of comments and command lines.

    All that the commands name is written, so that they can be run as they stand: the job, our
    package, which the nodes may not have, and manifests for Kubernetes.

    Args:
        spec: The job as it is resolved for this machine.
        events_dir: Folder that every node sees; empty for a new run folder.
        scratch: Folder that every node sees, for the scratch folder; empty for the events folder.
        device: As it was asked for; `auto` takes the nodes to have GPUs.
        shape: Where the ranks lie (default: eight on a node, or fewer).
        is_measured: What a rank may hold is measured where it runs; else it is the spec's.
        python: The interpreter in a container (default: the `python3` there).
        backend: Of the process group (default: nccl on GPUs, else gloo).

    Raises:
        StorageError: The job cannot be written.
        UsageError: The folder holds the events of another job.
    """
    # lazy: `plan` names commands, and makes no folder for them
    from inspector.verify.job.run_folder import RunFolder, copy_package

    name = f"{Path(spec.path).name}-{spec.label}"
    shape = shape or Shape.of(spec.world_size)
    folder = Path(events_dir).absolute() if events_dir else None
    if folder is None:
        folder = RunFolder.create(name, inspected=spec.path).path
    elif any(folder.glob("rank-*.jsonl")):
        raise UsageError(f"{events_dir} holds the events of another job", "give an empty folder")
    run = uuid.uuid4().hex
    if isinstance(spec, ReadSpec):
        spec = dataclasses.replace(spec, events_dir=str(folder), run=run)
    else:
        on_gpus = device != "cpu"
        spec = dataclasses.replace(
            spec,
            events_dir=str(folder),
            # A folder of its own, in which nothing of anybody's can lie.
            scratch_dir=str(Path(scratch or folder).absolute() / f"{SCRATCH_PREFIX}{run}"),
            device="cuda" if on_gpus else "cpu",
            backend=backend or ("nccl" if on_gpus else "gloo"),
            gpus=(),
            memory_bytes=0 if is_measured else spec.memory_bytes,
            run=run,
        )
    spec_path = folder / "spec.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        copy_package(imports_of(folder))
        Path(imports_of(folder), NODE_SCRIPT).write_text(_SCRIPT, encoding="utf-8")
        spec_path.write_text(spec.to_json() + "\n", encoding="utf-8")
        manifests = list(write_manifests(spec, shape, folder, python))
    except OSError as error:
        raise StorageError(f"cannot write {printable(str(spec_path))}: {error.strerror}") from error
    kind, *more = spec.summary
    yield f"# {kind}; the job is {spec_path}"
    for words in more:
        yield f"# {words}"
    if not events_dir:
        yield "# several nodes need a folder that all of them see: --events DIR"
    yield "# on this machine alone (each line starts torchrun, and says how it ended)"
    yield node_line(str(folder), Shape(1, spec.world_size), spec.python)
    *lines, watch = cluster_commands(spec, shape)
    for where, line in lines:
        yield f"# {where}"
        yield line
    yield "# by torchrun alone, where something else has to start it"
    yield torchrun_line(spec, spec_path, shape)
    yield "# on Kubernetes, once IMAGE and CLAIM in it are filled in"
    for kind, path in manifests:
        yield f"kubectl apply -f {shlex.quote(str(path))}  # {kind}"
    yield f"# {watch[0]}"
    yield watch[1]
    if isinstance(spec, ReadSpec):
        yield "# once the ranks have ended, for what they found (any machine that sees it all)"
        yield findings_line(spec)


def findings_line(spec: ReadSpec) -> str:
    """What tells what ranks have found together."""
    words = asked_words(spec.task, spec.path, values=spec.values, filter_text=spec.filter)
    return shlex.join([*words, "--shares", spec.events_dir])


def asked_words(task: str, path: str, *, values: bool, filter_text: str) -> list[str]:
    """The command that ranks read for."""
    words = ["hsdp-inspect", task, path]
    if task == "check":
        words.append("--values" if values else "--deep")
    return [*words, "--filter", filter_text] if filter_text else words


def write_manifests(
    spec: RankSpec, shape: Shape, folder: Path, python: str = ""
) -> Iterator[tuple[str, Path]]:
    """Write what Kubernetes takes for a job; what each is, and its file.

    Raises:
        OSError: They cannot be written.
    """

    def line(node_rank: str, endpoint: str) -> str:
        whole = node_line(
            spec.events_dir,
            shape,
            python or _PYTHON_IN_IMAGE,
            endpoint,
            f" --node-rank={node_rank}",
        )
        go, _, run = whole.partition(" && ")
        # The container's process 1 is our launcher then, and gets the signal when it is to end.
        return f"{go} && exec {run}"

    for kind, name, made in (
        ("Kubeflow's PyTorchJob, v1", "pytorchjob.json", manifests.pytorch_job),
        ("Kubeflow's TrainJob, v2", "trainjob.json", manifests.train_job),
    ):
        path = folder / name
        path.write_text(json.dumps(made(spec, shape, line), indent=1) + "\n", encoding="utf-8")
        yield kind, path


#: What the lines call the folder that all nodes see; to be replaced by its path from the root.
SHARED_DIR = "SHARED_DIR"
_PYTHON = "python"


def elsewhere(path: str, mesh: Mesh) -> tuple[tuple[str, str], ...]:
    """What to run: pairs of where, and the line.

    Nodes are taken to have eight GPUs, or fewer where that does not divide the ranks.

    Args:
        path: The checkpoint; the nodes must see it under the same path.
        mesh: The mesh to load it under.
    """
    seen = path if is_url(path) else os.path.abspath(path)
    spec = JobSpec(path=seen, mesh=str(mesh), python=_PYTHON, events_dir=SHARED_DIR)
    verify = ["hsdp-inspect", "verify", seen, "--mesh", str(mesh), "--events", SHARED_DIR]
    lines = [
        (
            f"once, to write the job into {SHARED_DIR}, a folder that every node sees",
            shlex.join([*verify, "--print-command"]),
        )
    ]
    shape = Shape.of(spec.world_size)
    if shape.nodes == 1:
        lines.append(("on one node", node_line(SHARED_DIR, shape, _PYTHON)))
    return (*lines, *cluster_commands(spec, shape))
