"""The command lines that verify a checkpoint where the ranks are: not on this machine.

The rule this module keeps: nothing is written here. The job's spec has to lie where every node
sees it, so the first line writes it there, and the others run it.
"""

from __future__ import annotations

import os
import shlex

from inspector.checkpoint.storage import is_url
from inspector.layout.mesh import Mesh
from inspector.verify.commands import WORKER, cluster_commands
from inspector.verify.spec import JobSpec

__all__ = ["SHARED_DIR", "elsewhere"]

#: What the lines call the folder that all nodes see; to be replaced by its path.
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
        local = ["--standalone", f"--nproc-per-node={mesh.world_size}", "-m", WORKER, spec_path]
        lines.append(("on one node", shlex.join([_PYTHON, "-m", "torch.distributed.run", *local])))
    return (*lines, *commands)
