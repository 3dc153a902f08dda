"""A storage that does not answer is told from what is stored: no entry failed."""

from __future__ import annotations

import pickle

from torch.distributed.checkpoint.api import CheckpointException

from inspector.errors import StorageError, UnreachableError
from inspector.verify.failures import unreachable

LOST = UnreachableError("cannot read s3://b/c: it does not answer", "look at the network")


def _raised(cause: Exception) -> Exception:
    """As torch wraps what a reader raised."""
    try:
        try:
            raise cause
        except Exception as error:
            raise RuntimeError("PytorchStreamReader failed reading zip archive") from error
    except RuntimeError as error:
        return error


def test_it_is_found_wherever_it_was_raised() -> None:
    assert unreachable(LOST) is LOST
    assert unreachable(_raised(LOST)) is LOST
    assert unreachable(CheckpointException("load", {3: (_raised(LOST), None)})) is LOST


def test_what_is_stored_and_cannot_be_read_is_something_else() -> None:
    assert unreachable(_raised(StorageError("there is no such file"))) is None
    assert unreachable(CheckpointException("load", {0: (KeyError("w"), None)})) is None


def test_it_goes_from_rank_to_rank() -> None:
    again = pickle.loads(pickle.dumps(LOST))
    assert (type(again), again.message, again.hint) == (UnreachableError, LOST.message, LOST.hint)
