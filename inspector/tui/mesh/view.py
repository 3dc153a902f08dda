"""`MeshView`: a view of a table beside the ranks of a mesh, whose axes a key chooses."""

from __future__ import annotations

from inspector.tui.commands import command
from inspector.tui.kit.view import TableView
from inspector.tui.mesh.rank_grid import RankGrid

__all__ = ["MeshView"]


class MeshView(TableView):
    """Gives its grid of ranks the keys while an axis is chosen there."""

    BINDINGS = [
        command(
            "a",
            "axis",
            "Fold axis",
            "Choose the next axis of the mesh; enter folds it into one cell, or opens it.",
            footer=True,
        )
    ]

    @property
    def grid(self) -> RankGrid:
        return self.query_one(RankGrid)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "axis":
            grid = self.query_one_optional(RankGrid)
            return grid is not None and grid.is_drawn and len(grid.mesh.axes) > 1
        return super().check_action(action, parameters)

    def action_axis(self) -> None:
        self.grid.next_axis()
        self.screen.set_focus(self.grid)

    def back(self) -> bool:
        if super().back():
            return True
        was_chosen = self.grid.leave_axes()
        if was_chosen:
            self.take_focus()
        return was_chosen
