"""`Lookout`: looks whether what lies under the main screen is still what it shows.

The rule this module keeps: what is on the screen is not replaced under a reader's eyes. It is
said that it changed; only where something is about to begin on it is it read anew.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextvars import Context
from typing import TYPE_CHECKING, Any, cast

from textual.screen import Screen

from inspector.checkpoint.text import printable
from inspector.errors import Cancelled, InspectError
from inspector.tui.background import Background

if TYPE_CHECKING:
    from inspector.tui.findings.checking import SecondLook
    from inspector.tui.findings.standing import Standing
    from inspector.tui.kit.view import View
    from inspector.tui.session import Loaded
    from inspector.tui.verification.view import VerificationView

__all__ = ["Lookout", "OpenScreen", "let_go_of"]

#: After it a screen that was left has stopped its tasks, which hold it.
_LEAVING_S = 1.0


class OpenScreen(Screen[None]):
    """A screen with a checkpoint open, as far as looking at it again goes."""

    loaded: Loaded | None

    @property
    def standing(self) -> Standing:
        """What is known by now of whether the checkpoint is sound."""
        raise NotImplementedError

    @property
    def is_complete(self) -> bool:
        """Whether all of its views are there."""
        raise NotImplementedError

    @property
    def view(self) -> View:
        """The open view."""
        raise NotImplementedError

    def action_show_view(self, view: str) -> None:
        """Open a view, by its id."""
        raise NotImplementedError

    @property
    def verification(self) -> VerificationView:
        """The view of verifications."""
        raise NotImplementedError

    def show(self, loaded: Loaded) -> None:
        """Show a checkpoint that was read anew."""
        raise NotImplementedError

    def stand(self, **known: Any) -> None:
        """Take what is known now of how the checkpoint stands."""
        raise NotImplementedError


class Lookout:
    """Looks again when it is told to, and tells the screen what there is."""

    def __init__(self, screen: OpenScreen) -> None:
        self._screen = screen
        self._looking: Background[Loaded] = Background(screen, self._looked, "looking again")

    def drop(self) -> None:
        """Another checkpoint is shown: what was being looked at is no news."""
        self._looking.drop()

    def look(self, *, reads: bool) -> None:
        """Look at the folder; with `reads`, read the checkpoint anew if it changed."""
        from inspector.tui.findings.checking import look_again

        loaded = self._screen.loaded
        if loaded is not None and self._screen.is_complete:
            self._looking.ask(loaded, lambda stop: look_again(loaded, stop, reads=reads))

    def _looked(self, loaded: Loaded, outcome: SecondLook | InspectError) -> None:
        screen = self._screen
        if loaded is not screen.loaded or isinstance(outcome, Cancelled):
            return
        standing = screen.standing
        if isinstance(outcome, InspectError):
            if not standing.is_lost:
                self.tell_lost(outcome)
            screen.verification.give_up()
            self.lose(outcome)
        elif outcome.loaded is not None:
            screen.show(outcome.loaded)
            screen.verification.replace(outcome.loaded)
            self._tell_changed(outcome.changes)
        elif standing.is_lost:
            self.read_anew()  # It is there again.
        elif outcome.changes != standing.changes:
            if outcome.changes:
                self._tell_changed(outcome.changes)
            screen.stand(changes=outcome.changes)

    def read_anew(self) -> None:
        """Read the checkpoint anew, with a screen of its own meanwhile."""
        from inspector.tui.screens.loading import LoadingScreen

        loaded = self._screen.loaded
        if loaded is not None:
            reading = LoadingScreen.of(loaded.checkpoint.path, whole_folder=False)
            self._screen.app.push_screen(reading, self._was_read)

    def _was_read(self, outcome: object) -> None:
        loaded = self._screen.loaded
        if loaded is None or isinstance(outcome, Cancelled) or outcome is None:
            return
        if isinstance(outcome, InspectError):
            self.tell_lost(outcome)
            self.lose(outcome)
            return
        from inspector.checkpoint.find.changes import is_same_save

        fresh = cast("Loaded", outcome)
        changed = "nothing" if is_same_save(fresh.checkpoint, loaded.checkpoint) else "it"
        self._screen.show(fresh)
        self._screen.notify(f"Read anew: {changed} changed since it was opened.")

    def lose(self, error: InspectError) -> None:
        """What is shown cannot be read any more: let the verdict say so."""
        from inspector.tui.findings.checking import lost

        if self._screen.loaded is not None:
            self._screen.stand(checked=lost(self._screen.loaded, error), is_lost=True)

    def tell_lost(self, error: InspectError) -> None:
        said, title = printable(error.message, 300), "It could not be read"
        self._screen.notify(said, title=title, severity="error", markup=False)

    def _tell_changed(self, changes: str) -> None:
        title = "It changed since it was opened"
        self._screen.notify(changes, title=title, severity="warning", markup=False)


def let_go_of(left: weakref.ref[OpenScreen], num_tries: int = 10) -> None:
    """Free the memory of a checkpoint whose screen is being left."""

    def collect() -> None:
        # It is full of cycles, which the collector does not see while they are frozen.
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        if left() is not None and num_tries > 1:
            let_go_of(left, num_tries - 1)

    # In a context of its own: that of a screen's handler would keep the screen.
    asyncio.get_running_loop().call_later(_LEAVING_S, collect, context=Context())
