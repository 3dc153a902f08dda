"""`PlanDesk`: the plans of one checkpoint, made in a thread; keeps what several of them share.

The rule this module keeps: one thread at a time, and no widget. What a plan takes is imported by
the first, not when the app starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from inspector.checkpoint.find.locate import matching
from inspector.checkpoint.model import Checkpoint
from inspector.checks.findings import Finding
from inspector.checks.plan.problems import Gap, find_gaps, plan_problems
from inspector.errors import InspectError
from inspector.layout.mesh import Mesh
from inspector.layout.reads.load_plan import LoadPlan, Planner
from inspector.layout.target.rules import TargetPlacements
from inspector.layout.target.stages import stages_by_files
from inspector.layout.writer.written_by import WrittenBy
from inspector.report.plan import as_written

__all__ = ["Order", "PlanDesk", "Planned"]


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """What is to be planned.

    Attributes:
        mesh: The mesh.
        filter_text: Words that the names to load must hold; empty for all.
        written_by: Who wrote the checkpoint, if that is known yet.
    """

    mesh: Mesh
    filter_text: str = ""
    written_by: WrittenBy | None = None

    def is_same(self, other: Order) -> bool:
        same = (self.mesh, self.filter_text) == (other.mesh, other.filter_text)
        return same and self.written_by is other.written_by


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """A plan, and what is told beside it.

    Attributes:
        order: What was asked for.
        plan: The plan.
        as_written: The plan under the mesh that wrote it; None if there is none, or it is this.
        problems: What would go wrong.
        num_entries: Tensors and bytes entries that the filter leaves.
        stages: By number of the entry as in `Checkpoint.order`, the pipeline stages that the files
            put it in; None where they put it in none, and None where they show no stages.
    """

    order: Order
    plan: LoadPlan
    as_written: LoadPlan | None
    problems: tuple[Finding, ...]
    num_entries: int
    stages: list[frozenset[int] | None] | None


class PlanDesk:
    """Makes plans of one checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._gaps: tuple[Gap, ...] | None = None
        self._planner: Planner | None = None
        self._filter_text = ""
        self._num_entries = 0
        self._written: tuple[Planner, Mesh, LoadPlan] | None = None
        self._stages: tuple[WrittenBy, list[frozenset[int] | None] | None] | None = None

    @cached_property
    def names(self) -> list[str]:
        """Raw names of the tensors, then of the bytes entries."""
        return list(self.checkpoint.fqns)

    def make(self, order: Order) -> Planned:
        """The plan that was asked for; for a thread.

        Raises:
            InspectError: There is none, and why.
        """
        planner = self._planner_of(order.filter_text)
        mesh = order.mesh
        plan = planner.plan(
            mesh, None if mesh.is_plain else TargetPlacements(mesh, order.written_by)
        )
        if self._gaps is None:
            self._gaps = find_gaps(self.checkpoint)
        problems = tuple(plan_problems(plan, self._gaps))
        # Worked out here, where it holds nobody up.
        plan.num_ranks_without  # noqa: B018
        plan.empty_tensors  # noqa: B018
        return Planned(
            order,
            plan,
            self._under(planner, order),
            problems,
            self._num_entries,
            self._stages_of(order),
        )

    def _planner_of(self, filter_text: str) -> Planner:
        """The planner of the entries that a filter leaves; kept until another is asked for."""
        if self._planner is None or filter_text != self._filter_text:
            checkpoint, names = self.checkpoint, self.names
            is_chosen = np.zeros(len(names), dtype=np.bool_)
            is_chosen[matching(names, filter_text)] = True
            if not is_chosen.any():
                raise InspectError(
                    "no name matches the filter" if names else "there is nothing to load",
                    "" if names else "its state dict is empty",
                )
            tensors, entries = checkpoint.tensor_order, checkpoint.bytes_order
            self._planner = Planner(
                checkpoint,
                tensors[is_chosen[tensors]].tolist(),
                entries[is_chosen[entries + checkpoint.num_tensors]].tolist(),
            )
            self._filter_text, self._num_entries = filter_text, int(is_chosen.sum())
        return self._planner

    def _stages_of(self, order: Order) -> list[frozenset[int] | None] | None:
        """The stage of each entry; those of who wrote it are found once."""
        written_by = order.written_by
        if written_by is None:
            return None
        if self._stages is None or self._stages[0] is not written_by:
            self._stages = written_by, stages_by_files(self.checkpoint, written_by)
        return self._stages[1]

    def _under(self, planner: Planner, order: Order) -> LoadPlan | None:
        """The plan under the mesh that wrote it; that of a planner is made once."""
        written_by = order.written_by
        if written_by is None or written_by.mesh is None or written_by.mesh == order.mesh:
            return None
        if self._written is None or self._written[:2] != (planner, written_by.mesh):
            found = as_written(planner, written_by, order.mesh)
            if found is None:
                return None
            self._written = (planner, written_by.mesh, found)
        return self._written[2]
