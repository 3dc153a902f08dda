"""`PlanningScreen`: what the main screen does about load plans: their keys, and proving them."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from inspector.tui.screens.verifying import VerifyingScreen

if TYPE_CHECKING:
    from inspector.tui.plan.view import LoadPlanView

__all__ = ["PlanningScreen"]


class PlanningScreen(VerifyingScreen):
    """A screen with a view of load plans, and the keys for it."""

    @property
    def is_planning(self) -> bool:
        """Whether the load plan is what is looked at."""
        return self.is_mounted and self.view.id == "plan"

    @property
    def _plan_view(self) -> LoadPlanView:
        return cast("LoadPlanView", self.view)

    def action_plan_mesh(self) -> None:
        self._plan_view.edit_mesh()

    def action_plan_size(self, axis: str, steps: int) -> None:
        self._plan_view.step(axis, steps)

    def action_plan_kind(self) -> None:
        self._plan_view.step("kind", 1)

    def action_plan_worst(self) -> None:
        self._plan_view.go_to_worst()

    def action_plan_empty(self) -> None:
        self._plan_view.toggle_empty()

    def action_verify(self) -> None:
        """Under the mesh of the plan, if that is what is looked at."""
        if not self.is_planning or self.loaded is None or self.is_verifying:
            super().action_verify()
            return
        from inspector.verify.preflight import too_many_ranks

        view = self._plan_view
        why = too_many_ranks(view.mesh.world_size)
        if not why:
            self.ask_to_verify(str(view.mesh), view.filter_text)
            return
        from rich.text import Text

        from inspector.tui.screens.copy import CopyScreen

        intro = Text.assemble(
            (f"{view.mesh} does not run on this machine", "bold"),
            f": {why}. It runs where the ranks are, with these lines, one after the other:",
        )
        self.app.push_screen(CopyScreen(view.commands(), intro))
