"""What several tests of this room start from."""

from __future__ import annotations

import pytest

from tests.conftest import ROOT


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks can import the workers of these tests, and take one thread each."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
