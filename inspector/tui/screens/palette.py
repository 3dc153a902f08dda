"""`CommandsProvider`: the palette finds commands by their titles and by words of their help."""

from __future__ import annotations

from textual.command import Hit, Hits
from textual.system_commands import SystemCommandsProvider

__all__ = ["CommandsProvider"]

#: Less than any title that matches scores, and more than what is not shown at all.
_OF_HELP = 0.01


class CommandsProvider(SystemCommandsProvider):
    """Textual's own, which also looks at what is said of a command."""

    async def search(self, query: str) -> Hits:
        """Commands whose title matches; then those in whose sentence every word stands."""
        words = query.casefold().split()
        matcher = self.matcher(query)
        for title, about, run, *_ in self.app.get_system_commands(self.screen):
            if (score := matcher.match(title)) > 0:
                yield Hit(score, matcher.highlight(title), run, help=about)
            elif words and all(word in f"{title} {about}".casefold() for word in words):
                yield Hit(_OF_HELP, title, run, help=about)
