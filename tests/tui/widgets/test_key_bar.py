from __future__ import annotations

from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.screen import Screen

from inspector.tui.kit.key_bar import KeyBar
from tests.tui.widgets.hosting import drawn, hosted


class Keys(Screen[None]):
    """A screen whose keys come and go."""

    BINDINGS = [
        Binding("s", "do('sort')", "Sort"),
        Binding("slash", "do('filter')", "Filter", key_display="/", tooltip="Narrow it"),
        Binding("x", "do('stop')", "Stop"),
        Binding("h", "do('hidden')", "Hidden", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        #: What becomes of the key that stops: there, greyed, or not there.
        self.state: bool | None = True
        self.done: list[str] = []

    def compose(self) -> ComposeResult:
        yield KeyBar()

    @property
    def bar(self) -> KeyBar:
        return self.query_one(KeyBar)

    @property
    def line(self) -> str:
        return drawn(self.bar)[0].rstrip()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return self.state if parameters == ("stop",) else True

    def action_do(self, what: str) -> None:
        self.done.append(what)


class Keyed(App[None]):
    """The app's own key is one of those that always show."""

    BINDINGS = [Binding("q", "leave", "Quit")]

    def __init__(self) -> None:
        super().__init__()
        self.keys = Keys()

    def get_default_screen(self) -> Screen[None]:
        return self.keys


async def test_it_shows_the_keys_that_mean_something() -> None:
    app = Keyed()
    async with hosted(app, (60, 5)) as pilot:
        assert app.keys.line == " s Sort  / Filter  x Stop  q Quit"
        app.keys.state = False
        app.keys.refresh_bindings()
        await pilot.pause()
        assert app.keys.line == " s Sort  / Filter  q Quit"


async def test_a_key_that_means_nothing_now_is_dim_and_does_nothing() -> None:
    app = Keyed()
    async with app.run_test(size=(60, 5)) as pilot:
        app.keys.state = None
        app.keys.refresh_bindings()
        await pilot.pause()
        styles = {segment.text.strip(): segment.style for segment in app.keys.bar.render_line(0)}
        stop, sort = styles["Stop"], styles["Sort"]
        assert stop is not None and sort is not None
        assert stop.dim and not sort.dim
        await pilot.click(KeyBar, offset=(app.keys.line.index("Stop"), 0))
        await pilot.pause()
        assert app.keys.done == []


async def test_a_click_presses_the_key_under_it() -> None:
    app = Keyed()
    async with hosted(app, (60, 5)) as pilot:
        for word in ("Sort", "Filter"):
            await pilot.click(KeyBar, offset=(app.keys.line.index(word), 0))
        await pilot.click(KeyBar, offset=(50, 0))
        await pilot.pause()
        assert app.keys.done == ["sort", "filter"]


async def test_the_key_under_the_mouse_tells_what_it_does() -> None:
    app = Keyed()
    async with hosted(app, (60, 5)) as pilot:
        await pilot.hover(KeyBar, offset=(app.keys.line.index("Filter"), 0))
        await pilot.pause()
        assert app.keys.bar.tooltip == "Narrow it"
        await pilot.hover(KeyBar, offset=(app.keys.line.index("Sort"), 0))
        await pilot.pause()
        assert app.keys.bar.tooltip is None
