"""`Trail`: from a finding to where it is, to the next one, and back to where one came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from inspector.tui.tensors.view import TensorsView

if TYPE_CHECKING:
    from inspector.checks.findings import Finding
    from inspector.tui.files.view import FilesView
    from inspector.tui.findings.view import FindingsView
    from inspector.tui.screens.lookout import OpenScreen

__all__ = ["Trail"]


class Trail:
    """Which finding the cursor was led to, and from which view."""

    def __init__(self, screen: OpenScreen) -> None:
        self._screen = screen
        self._has_led = False
        self._stepped = False
        #: The view that was left for where a finding is; empty if none was.
        self._left = ""

    def begin(self) -> None:
        """Another reading of the checkpoint is shown: no finding was gone to."""
        self._stepped = False

    def forget(self) -> None:
        """The user chose a view: the way back is theirs."""
        self._left = ""

    @property
    def _findings(self) -> FindingsView:
        return cast("FindingsView", self._screen.query_one("#findings"))

    def lead_to_damage(self) -> None:
        """Put the cursor on the first entry that is damaged, unless it was moved already."""
        screen, view = self._screen, self._screen.query_one(TensorsView)
        report = screen.standing.report
        if self._has_led or report is None:
            return
        self._has_led = True
        if screen.view is view and view.is_untouched:
            number = view.lead_to(report.findings)
            if number is not None:
                self._findings.table.select_row(number)
                self._stepped = True

    def follow(self, finding: Finding) -> None:
        """Show where a finding is: its numbers, its tensor, its file, or else the finding."""
        is_of_numbers = finding.fqn is not None and finding.code.startswith("values-")
        self.go("values" if is_of_numbers else self._place(finding))

    def step(self, steps: int) -> None:
        """Go to the next finding, or to the one before."""
        # The first step goes to the finding under the cursor, not past it.
        finding = self._findings.step(steps if self._stepped else 0)
        if finding is not None:
            self.go(self._place(finding))
            return
        is_done = self._screen.standing.report is not None
        self._screen.notify("There is no finding." if is_done else "The checks are still running.")

    def _place(self, finding: Finding) -> str:
        """Put the cursor on a finding where it is; in which view that is."""
        self._stepped = True
        if self._screen.query_one(TensorsView).go_to(finding):
            return "tensors"
        files = cast("FilesView", self._screen.query_one("#files"))
        return "files" if files.go_to(finding) else "findings"

    def go(self, view: str) -> None:
        """Show a view; `back` leads to the one that is open now."""
        here = self._left or self._screen.view.id or ""
        self._screen.action_show_view(view)
        self._left = "" if here == view else here

    def back(self) -> bool:
        """Go to the view that a finding was followed from; False if none was."""
        left, self._left = self._left, ""
        if left:
            self._screen.action_show_view(left)
        return bool(left)
