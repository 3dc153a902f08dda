"""`ModelFit`: whether a checkpoint holds what a model expects."""

from __future__ import annotations

from dataclasses import dataclass

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import plural, printable
from inspector.checks.findings import Finding
from inspector.checks.plan.against import compare, summary
from inspector.checks.plan.expected import Expected

__all__ = ["ModelFit", "fit_of", "num_matching"]


@dataclass(frozen=True, slots=True)
class ModelFit:
    """A checkpoint beside what a model expects.

    Attributes:
        expected: What the model expects.
        num_matching: How many of its keys the checkpoint has, whatever they hold.
        problems: What a load into the model would miss, refuse, cast or ignore.
    """

    expected: Expected
    num_matching: int
    problems: tuple[Finding, ...]

    @property
    def is_complete(self) -> bool:
        """Whether a load would find every key, of the kind and shape that is expected.

        Of a list that gives no shapes, by name alone.
        """
        return not any(finding.severity == "error" for finding in self.problems)

    @property
    def words(self) -> str:
        """What was expected and how much of it is there, in a sentence."""
        expected = self.expected
        keys = plural(len(expected.wanted), "key")
        what = f"{printable(expected.path)} ({expected.source}, {keys})"
        if not self.num_matching:
            what += ", none of which is in the checkpoint"
            if not any(finding.other_fqn for finding in self.problems):
                what += ": is it of another model?"
        return f"{what}: {summary(self.problems)}"


def fit_of(checkpoint: Checkpoint, expected: Expected) -> ModelFit:
    """Hold a checkpoint against what a model expects."""
    problems = tuple(compare(checkpoint, expected))
    return ModelFit(expected, num_matching(checkpoint, expected), problems)


def num_matching(checkpoint: Checkpoint, expected: Expected) -> int:
    """How many of the expected keys a checkpoint has, whatever they hold."""
    names = {*checkpoint.columns.fqns, *(entry.fqn for entry in checkpoint.bytes_entries)}
    return sum(key.fqn in names for key in expected.wanted)
