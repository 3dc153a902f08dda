"""How the ranks of a printed job lie on nodes."""

from __future__ import annotations

from dataclasses import dataclass

from inspector.errors import UsageError

__all__ = ["Shape"]

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
