"""Look inside a PyTorch distributed checkpoint, judge it, and prove that it loads."""

from inspector._version import __version__

__all__ = ["__version__"]
