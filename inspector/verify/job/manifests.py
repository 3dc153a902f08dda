"""How a printed job lies on nodes; and Kubeflow's PyTorchJob (v1) and TrainJob (v2) of it, as JSON.

IMAGE and CLAIM stand for what only its user knows: an image with torch, and a volume in which the
job and the checkpoint lie under the very paths that they have here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from inspector.checkpoint.storage.base import is_url
from inspector.errors import UsageError
from inspector.verify.spec import RankSpec

__all__ = ["CLAIM", "IMAGE", "Shape", "pytorch_job", "train_job"]

IMAGE = "IMAGE"
CLAIM = "CLAIM"

_GPUS_PER_NODE = 8
_PORT = 29500
_MAX_PORT = 65_535


@dataclass(frozen=True, slots=True)
class Shape:
    """How the ranks of a printed job lie on nodes.

    Attributes:
        nodes: How many nodes.
        per_node: Ranks on each.
        port: Where the first of them listens.
    """

    nodes: int
    per_node: int
    port: int = 29500

    @classmethod
    def of(cls, world_size: int, nodes: int = 0, per_node: int = 0, port: int = 0) -> Shape:
        """The shape for so many ranks; what is 0 is chosen.

        Raises:
            UsageError: They do not come out even, or the port is none.
        """
        if not per_node and not nodes:
            per_node = max(n for n in range(1, _GPUS_PER_NODE + 1) if world_size % n == 0)
        per_node = per_node or max(world_size // max(nodes, 1), 1)
        nodes = nodes or max(world_size // max(per_node, 1), 1)
        if per_node < 1 or nodes < 1 or nodes * per_node != world_size:
            raise UsageError(
                f"{nodes} nodes of {per_node} ranks do not make the {world_size} ranks of the mesh",
                "--nnodes times --nproc-per-node is the number of ranks",
            )
        if port and not 1 <= port <= _MAX_PORT:
            raise UsageError(f"--port {port}: a port is 1 to {_MAX_PORT}")
        return cls(nodes, per_node, port or _PORT)


#: The line of one pod, for the number of its node and the endpoint as its environment has them.
Line = Callable[[str, str], str]


def pytorch_job(spec: RankSpec, shape: Shape, line: Line) -> dict[str, Any]:
    """Kubeflow's Training Operator: one pod for each node, its first the master."""
    container = {
        "name": "pytorch",
        "image": IMAGE,
        "command": ["sh", "-c", line('"$RANK"', '"$MASTER_ADDR:$MASTER_PORT"')],
        "resources": _resources(spec, shape),
        "volumeMounts": _mounts(spec),
    }
    pod = {"spec": {"containers": [container], "volumes": _volumes()}}
    # A second run into the same events would be refused: it is printed anew instead.
    replica = {"restartPolicy": "Never", "template": pod}
    replicas = {"Master": {"replicas": 1, **replica}}
    if shape.nodes > 1:
        replicas["Worker"] = {"replicas": shape.nodes - 1, **replica}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": _name(spec)},
        "spec": {
            "nprocPerNode": str(shape.per_node),
            "runPolicy": {"backoffLimit": 0, "cleanPodPolicy": "None"},
            "pytorchReplicaSpecs": replicas,
        },
    }


def train_job(spec: RankSpec, shape: Shape, line: Line) -> dict[str, Any]:
    """Kubeflow's Trainer: a job of its torch runtime, whose nodes are numbered."""
    endpoint = '"$PET_MASTER_ADDR:$PET_MASTER_PORT"'
    overrides = {
        "targetJobs": [{"name": "node"}],
        "spec": {
            "volumes": _volumes(),
            "containers": [{"name": "node", "volumeMounts": _mounts(spec)}],
        },
    }
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": _name(spec)},
        "spec": {
            "runtimeRef": {"name": "torch-distributed"},
            "trainer": {
                "image": IMAGE,
                "numNodes": shape.nodes,
                "numProcPerNode": shape.per_node,
                "command": ["sh", "-c", line('"$PET_NODE_RANK"', endpoint)],
                "resourcesPerNode": _resources(spec, shape),
            },
            "podTemplateOverrides": [overrides],
        },
    }


def _name(spec: RankSpec) -> str:
    return f"hsdp-inspect-{spec.run[:8]}"


def _resources(spec: RankSpec, shape: Shape) -> dict[str, Any]:
    return {"limits": {"nvidia.com/gpu": shape.per_node}} if spec.device == "cuda" else {}


def _volumes() -> list[dict[str, Any]]:
    return [{"name": "shared", "persistentVolumeClaim": {"claimName": CLAIM}}]


def _mounts(spec: RankSpec) -> list[dict[str, Any]]:
    """Where the volume is to be seen: one folder above all that the job needs, if there is one."""
    places = [spec.events_dir]
    if spec.scratch_dir:
        places.append(os.path.dirname(spec.scratch_dir))
    if not is_url(spec.path):
        places.append(os.path.dirname(spec.path))
    common = os.path.commonpath(places)
    if common != os.sep:
        return [{"name": "shared", "mountPath": common}]
    return [
        {"name": "shared", "mountPath": place, "subPath": place.lstrip(os.sep)}
        for place in dict.fromkeys(places)
    ]
