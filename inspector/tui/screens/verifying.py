"""`VerifyingScreen`: what the main screen does about verifications, which are the app's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

from textual.screen import Screen

from inspector.checkpoint.text import printable
from inspector.tui.kit.view import View
from inspector.tui.tensors.view import TensorsView

if TYPE_CHECKING:
    from inspector.layout.writer.written_by import WrittenBy
    from inspector.tui.app import InspectApp
    from inspector.tui.session import Loaded
    from inspector.tui.verification.run import Run, Verification
    from inspector.tui.verification.view import VerificationView
    from inspector.verify.preflight import Preflight

__all__ = ["VerifyingScreen"]


class VerifyingScreen(Screen[None]):
    """A screen with a checkpoint, a view of its verification, and the keys for it."""

    loaded: Loaded | None
    written_by: WrittenBy | None

    # What the screen gives.

    @property
    def view(self) -> View:
        """The open view."""
        raise NotImplementedError

    @property
    def is_complete(self) -> bool:
        """Whether all of its views are there."""
        raise NotImplementedError

    def action_show_view(self, view: str) -> None:
        """Open a view."""
        raise NotImplementedError

    def can_verify(self, action: str) -> bool:
        """Whether a key for a job that runs (or has run) means anything now."""
        run = self._run
        return run is not None and (action == "output" or not run.is_over)

    @property
    def _run(self) -> Verification | None:
        """The app's verification, if it is of this checkpoint."""
        run = cast("InspectApp", self.app).verification
        if run is None or self.loaded is None:
            return None
        from inspector.checkpoint.storage.base import is_url

        path = self.loaded.checkpoint.path
        return run if run.path == (path if is_url(path) else os.path.abspath(path)) else None

    def show_verification(self) -> None:
        """Show the app's verification, if it is of this checkpoint."""
        view = cast("VerificationView", self.query_one("#verify"))
        run = self._run
        if run is not view.run:
            view.show_run(run)
        if run is not None and run.is_over:
            self._mark_verified(run)

    def _mark_verified(self, run: Run) -> None:
        from inspector.tui.verification.control import findings_of

        self.query_one(TensorsView).show_verified(findings_of(run.moment.snapshot))

    def on_verification_view_ended(self, event: VerificationView.Ended) -> None:
        event.stop()
        self._mark_verified(event.run)
        self.refresh_bindings()

    @property
    def is_verifying(self) -> bool:
        """Whether a job runs, of this checkpoint or another."""
        run = cast("InspectApp", self.app).verification
        return run is not None and run.is_alive

    def action_verify(self) -> None:
        app = cast("InspectApp", self.app)
        if app.verification is not None and app.verification.is_alive:
            if self._run is None:
                path = printable(app.verification.path, 200)
                self.notify(f"A verification of {path} is running.", markup=False)
            else:
                self.action_show_view("verify")
                self.notify("A verification is running; x stops it.")
            return
        self.ask_to_verify()

    def ask_to_verify(self, mesh: str = "", filter_text: str = "") -> None:
        """Show what will run, to be changed or started; `mesh` stands in the form already."""
        if self.loaded is None or not self.is_complete:
            return
        from inspector.tui.verification.setup import VerifySetupScreen

        written = None if self.written_by is None else self.written_by.mesh
        checkpoint = self.loaded.checkpoint
        self.app.push_screen(
            VerifySetupScreen(checkpoint, written, mesh, filter_text), self._verify
        )

    def _verify(self, plan: Preflight | None) -> None:
        if plan is None:
            return
        from inspector.tui.verification.control import begin

        app = cast("InspectApp", self.app)
        app.verification = begin(app, plan)
        self.query_one(TensorsView).show_verified(())
        self.show_verification()
        self.action_show_view("verify")

    def action_pause(self) -> None:
        cast("VerificationView", self.view).toggle_pause()

    def action_output(self) -> None:
        cast("VerificationView", self.view).toggle_output()

    def action_cancel_job(self) -> None:
        from inspector.tui.verification.control import ask_to_cancel

        run = self._run
        if run is not None and run.is_alive:
            ask_to_cancel(cast("InspectApp", self.app), run)
        else:
            self.notify("No verification is running.")
