"""The one thing that pyproject.toml cannot say: the README as a package index shows it.

Links there lead nowhere unless they are absolute. With a `Repository` among the project's URLs they
are made so; without one, pictures are left out and links become their words.
"""

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
_LINK = re.compile(r"(!?)\[([^]]*)\]\((?![a-z]+:|#)([^)]+)\)")
_REPOSITORY = re.compile(r'^Repository *= *"([^"]+)"', re.M)


def index_page(readme: str, repository: str | None) -> str:
    """The README with links that work away from its repository.

    Args:
        readme: Markdown whose links to files are relative to the repository's root.
        repository: Its address, as GitHub has it; None if it has none.
    """

    def link(match: re.Match[str]) -> str:
        mark, words, path = match.groups()
        if repository is None:
            return "" if mark else words
        return f"{mark}[{words}]({repository}/{'raw' if mark else 'blob'}/main/{path})"

    return re.sub(r"\n{3,}", "\n\n", _LINK.sub(link, readme))


def repository_of(pyproject: str) -> str | None:
    """The address that pyproject.toml gives, if it gives one."""
    # Python 3.10 reads no TOML.
    found = _REPOSITORY.search(pyproject)
    return found[1].rstrip("/") if found else None


if __name__ == "__main__":
    setup(
        long_description=index_page(
            (ROOT / "README.md").read_text(encoding="utf-8"),
            repository_of((ROOT / "pyproject.toml").read_text(encoding="utf-8")),
        ),
        long_description_content_type="text/markdown",
    )
