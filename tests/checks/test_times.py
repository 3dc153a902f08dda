"""Times of data files: what a dead overwrite leaves, and what copying does."""

from __future__ import annotations

import pytest

from inspector.checkpoint.find.save_times import split_by_time
from inspector.checkpoint.model import DataFile

GB = 1 << 30
T = 1_700_000_000.0


def files(*times: float | None, num_bytes: int = 1000) -> list[DataFile]:
    return [
        DataFile(f"__{i}_0.distcp", i, num_bytes, num_bytes, 1, None if t is None else T + t)
        for i, t in enumerate(times)
    ]


def odd(*times: float | None, metadata: float = 0.0, num_bytes: int = 1000) -> list[int] | None:
    split = split_by_time(files(*times, num_bytes=num_bytes), T + metadata)
    return None if split is None else [f.rank or 0 for f in split.odd]


@pytest.mark.parametrize(
    ("times", "out_of_step"),
    [
        ((1.2, 1.21, -0.01, 1.2), [2]),  # measured: rank 2 died in an overwrite
        ((-0.3, -0.2, 1800, -0.1), [2]),  # one rank's file of another save
        ((600, 601, 602, 600), [0, 1, 2, 3]),  # all died before .metadata was written
        ((-7200, -1, -2, -3), [0]),  # one file of long before
        ((5000,), [0]),
    ],
)
def test_a_mixture_is_told(times: tuple[float, ...], out_of_step: list[int]) -> None:
    assert odd(*times) == out_of_step


@pytest.mark.parametrize(
    ("times", "num_bytes"),
    [
        ((-4, -3, -2, -1), 1000),  # an undisturbed save
        ((0, 0, 0, 0), 1000),  # all equal
        ((0.001, 0.002, 0.003, 0.004), 1000),  # cp -r of small files
        ((10, 20, 30, 40, 50, 60), 10 * GB),  # cp -r, .metadata first
        ((-20, -10, 10, 20), 10 * GB),  # cp -r, .metadata in the middle
        ((-10, 10), 10 * GB),
        ((10,), 2 * GB // 10),  # one file, copied after .metadata
        ((60, 60.1, 60.2, 60.3), 10 * GB),  # many at a time
        ((-300, -3, -2, -1), 20 * GB),  # one rank done long before the others
        ((-30, -3, -2, -1), 1000),
        ((None, None), 1000),
        ((), 1000),
        ((-90000, -89999, -89998), 1000),  # .metadata rewritten a day later
        ((0.2, 0.4, -0.1), 1000),  # clocks of hosts that differ a little
    ],
)
def test_copies_and_whole_saves_are_not(times: tuple[float, ...], num_bytes: int) -> None:
    assert odd(*times, num_bytes=num_bytes) is None


def test_empty_files_and_no_metadata_time() -> None:
    assert odd(900, -1, num_bytes=0) is None
    assert split_by_time(files(900, -1), None) is None
