"""`ValuingScreen`: what the main screen does about numbers: the ways into them and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from textual.widgets import Input

from inspector.tui.kit.view import View
from inspector.tui.screens.planning import PlanningScreen
from inspector.tui.tensors.view import TensorsView

if TYPE_CHECKING:
    from inspector.checks.findings import Finding
    from inspector.tui.kit.bars import TaskLine
    from inspector.tui.values.statistics import StatisticsView
    from inspector.tui.values.view import ValuesView

__all__ = ["ValuingScreen"]


class ValuingScreen(PlanningScreen):
    """A screen with a view of one tensor's numbers, and one of all tensors' statistics."""

    #: The view in which the tensor was chosen.
    _values_from = "tensors"

    @property
    def is_valuing(self) -> bool:
        """Whether one tensor's numbers are what is looked at."""
        return self.is_mounted and self.view.id == "values"

    def can_value(self, what: str) -> bool:
        """Whether a key for the numbers means anything now."""
        return self.is_valuing and not isinstance(self.focused, Input) and self._values.can(what)

    @property
    def _values(self) -> ValuesView:
        return cast("ValuesView", self.query_one("#values"))

    @property
    def _statistics(self) -> StatisticsView:
        return cast("StatisticsView", self.query_one("#stats"))

    def aim_values(self) -> None:
        """Before the numbers are shown: those of what is under the cursor."""
        here = self.view
        aim = here.aim()
        if aim is None and not self._values.fqn:
            # From a view that has no tensor under its cursor: the one in the list of tensors.
            here = self.query_one(TensorsView)
            aim = here.aim()
        if aim is None or here.id == "values":
            return
        self._values_from = here.id or "tensors"
        self._values.open(*aim)

    def action_values(self, what: str) -> None:
        if what in ("next", "previous"):
            self._step(1 if what == "next" else -1)
        else:
            self._values.act(what)

    def _step(self, steps: int) -> None:
        """The next tensor of the list in which this one was chosen."""
        source = self.query_one(f"#{self._values_from}", View)
        if self._values_from not in ("tensors", "stats"):
            source = self.query_one(TensorsView)
            source.select_name(self._values.fqn or "")
        source.table.move_cursor(source.table.cursor + steps)
        aim = source.aim()
        if aim is not None and aim[0] != self._values.fqn:
            self._values.open(*aim)

    def action_statistics(self) -> None:
        """Show the statistics, and start to read every tensor; while that runs, stop it."""
        if self.loaded is None or not self.is_complete:
            return
        self.action_show_view("stats")
        self._statistics.toggle_run()

    def on_values_view_left(self, event: ValuesView.Left) -> None:
        event.stop()
        self.action_show_view(self._values_from)

    def on_statistics_view_chosen(self, event: StatisticsView.Chosen) -> None:
        event.stop()
        self.action_show_view("values")

    def show_values_of(self, finding: Finding) -> bool:
        """Show the element that a finding about values names; False for any other finding."""
        if finding.fqn is None or not finding.code.startswith("values-"):
            return False
        self._values_from = "findings"
        self._values.open(finding.fqn, finding.offsets)
        self.action_show_view("values")
        return True

    def show_view_task(self, line: TaskLine) -> None:
        """Show what a view reads in the background, or nothing."""
        if not any(view.show_task(line) for view in self.query(View)):
            line.hide()
