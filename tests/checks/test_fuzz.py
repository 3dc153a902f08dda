"""A hundred and fifty of the mutations that `tests.helpers.fuzz` makes thousands of."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from tests.helpers import fuzz


@pytest.mark.slow
def test_every_mutation_ends_in_a_verdict() -> None:
    count = 150  # of about 0.2 s each
    figures = fuzz.run(count, seed=11, workers=2)
    assert figures["failures"] == []
    assert figures["mutations"] == count
    assert sum(figures["verdicts"].values()) == count
    assert set(figures["verdicts"]) <= {"sound", "damaged", "suspicious", "unreadable"}
    assert set(figures["verdicts_by_kind"]) == set(fuzz.KINDS)
    assert len(figures["verdicts"]) >= 3
    assert figures["largest_memory_mb"]["judging_process"] < 200


@pytest.mark.slow
def test_torch_loads_what_is_called_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged data file in which nothing is found must hold what it held before."""
    import torch
    import torch.distributed.checkpoint as dcp

    def loaded(folder: Path) -> dict[str, torch.Tensor]:
        metadata = pickle.loads((folder / ".metadata").read_bytes())
        state = {fqn: torch.zeros(m.size) for fqn, m in metadata.state_dict_metadata.items()}
        dcp.load(state, checkpoint_id=folder, no_dist=True)
        return state

    kinds = {kind: fuzz.KINDS[kind] for kind in ("payload bytes", "payload zip")}
    monkeypatch.setattr(fuzz, "KINDS", kinds)
    monkeypatch.setattr(fuzz, "SAMPLES", ("sample_ckpts/hsdp_2x2", "sample_ckpts/fsdp_4"))
    num_sound = 0
    for number in range(80):
        _, sample, _ = fuzz.mutated(tmp_path / "ckpt", number, seed=5)
        if fuzz.judge(tmp_path / "ckpt") != "sound":
            continue
        num_sound += 1
        expected = loaded(fuzz.ROOT / sample)
        found = loaded(tmp_path / "ckpt")
        assert all(torch.equal(found[fqn], value) for fqn, value in expected.items()), number
    assert num_sound > 8


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
