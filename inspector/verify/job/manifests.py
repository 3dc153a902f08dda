"""A printed job for Kubernetes: Kubeflow's PyTorchJob (v1) and TrainJob (v2), as JSON.

IMAGE and CLAIM stand for what only its user knows: an image with torch, and a volume in which the
job and the checkpoint lie under the very paths that they have here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from inspector.checkpoint.storage.base import is_url
from inspector.verify.job.shape import Shape
from inspector.verify.spec import RankSpec

__all__ = ["CLAIM", "IMAGE", "pytorch_job", "train_job"]

IMAGE = "IMAGE"
CLAIM = "CLAIM"

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
