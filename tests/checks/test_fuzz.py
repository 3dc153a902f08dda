"""A hundred and fifty of the mutations that `benchmarks/fuzz.py` makes thousands of."""

from __future__ import annotations

import pytest

from benchmarks import fuzz


def test_every_mutation_ends_in_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 150
    figures = fuzz.run(count, seed=11, workers=2)
    assert figures["failures"] == []
    assert figures["mutations"] == count
    assert sum(figures["verdicts"].values()) == count
    assert set(figures["verdicts"]) <= {"sound", "damaged", "suspicious", "unreadable"}
    assert set(figures["verdicts_by_kind"]) == set(fuzz.KINDS)
    assert len(figures["verdicts"]) >= 3
    assert figures["largest_memory_mb"]["judging_process"] < 300


def test_the_same_seed_makes_the_same_mutation(tmp_path_factory: pytest.TempPathFactory) -> None:
    folders = [tmp_path_factory.mktemp(name) / "ckpt" for name in ("a", "b")]
    for number in (0, 3, 8):
        made = [fuzz.mutated(folder, number, seed=11) for folder in folders]
        assert made[0] == made[1]
        first, second = (
            {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}
            for folder in folders
        )
        assert first == second
