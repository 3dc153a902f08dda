"""`Step`: a training step as the sum of its parts, and whether training can resume from it.

The rule this module keeps: a step is sound only if every part of it is, and resumable only if it
also holds the kinds of state that the steps beside it hold.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from inspector.checkpoint.find.search import RunListing
from inspector.checkpoint.find.step_folders import Found, StepFolder, is_export, split_step
from inspector.checkpoint.storage.base import Entry
from inspector.checkpoint.text import plural, printable
from inspector.checks.findings import Finding, Report, Verdict
from inspector.checks.folder.times import Span, check_sidecars
from inspector.checks.kinds import KINDS, kinds_beside, kinds_of_name

__all__ = [
    "Judged",
    "Step",
    "asked_for",
    "beside_sibling",
    "newest_by",
    "newest_resumable",
    "newest_sound",
    "steps_of",
]

# Without these no training goes on; of the others, what most steps have is expected.
_NEEDED = frozenset({"model", "optimizer"})


@dataclass(frozen=True, slots=True)
class Judged:
    """One checkpoint of a folder and its report.

    Attributes:
        found: Where it is.
        report: What is wrong with it.
        kinds: The kinds of state in it (`kinds.KINDS`); None if it could not be read.
        written_s: When its metadata (its last file, if it has none) was written, seconds since the
            epoch; None if that is not known.
    """

    found: Found
    report: Report
    kinds: frozenset[str] | None = None
    written_s: float | None = None

    @property
    def word(self) -> str:
        """The verdict, or `empty` where there was nothing to check."""
        return "empty" if self.report.is_empty else self.report.verdict

    @property
    def is_sound(self) -> bool:
        """True if it can be read and nothing is wrong with it."""
        return self.report.verdict == "sound" and all(
            left.what != "everything" for left in self.report.checked.not_checked
        )


@dataclass(frozen=True, slots=True)
class Step:
    """One step, or one checkpoint that is no part of a step.

    Attributes:
        path: The step's folder, relative to the folder that was searched.
        step: Its number, or None.
        parts: Its checkpoints, judged.
        findings: What is wrong with the step as a whole; the parts' own are in their reports.
        kinds: The kinds of state in it; None if a part could not be read.
        lacks: Kinds that the steps beside it have and it has not.
        is_cut: True if not all of its folders were looked at.
    """

    path: str
    step: int | None
    parts: tuple[Judged, ...]
    findings: tuple[Finding, ...] = ()
    kinds: frozenset[str] | None = None
    lacks: tuple[str, ...] = ()
    is_cut: bool = False

    @property
    def series(self) -> str:
        """The folder in which the steps of one run lie side by side."""
        return self.path.rpartition("/")[0]

    @property
    def is_numbered(self) -> bool:
        """True if its folder is named after a step, so that those beside it are of one run."""
        split = split_step(self.path)
        return split is not None and split[0] == self.path

    @property
    def verdict(self) -> Verdict:
        """Sound if every part is and none is missing."""
        verdicts = {part.report.verdict for part in self.parts if not self._is_nothing(part)}
        if "suspicious" in verdicts:
            return "suspicious"
        if verdicts == {"unreadable"}:
            return "unreadable"
        wrong = any(finding.severity == "error" for finding in self.findings)
        return "damaged" if wrong or verdicts - {"sound"} else "sound"

    @property
    def is_sound(self) -> bool:
        """True if every part is sound, none is missing and all of it was looked at."""
        parts = [part for part in self.parts if not self._is_nothing(part)]
        is_whole = not self.is_cut and all(part.is_sound for part in parts)
        return is_whole and self.verdict == "sound"

    def _is_nothing(self, part: Judged) -> bool:
        """An optimizer without state is an empty checkpoint, and its step no worse for it."""
        return len(self.parts) > 1 and part.report.is_empty

    @property
    def is_unfinished(self) -> bool:
        """True if a part of it was never finished."""
        return any(part.found.state == "unfinished" for part in self.parts)

    @property
    def is_begun(self) -> bool:
        """True if no part of it was finished: to a training it is not there yet."""
        return all(part.found.state == "unfinished" for part in self.parts)

    @property
    def resumable(self) -> bool:
        """True if it is sound and holds what the steps beside it hold."""
        return self.is_sound and not self.lacks and self.kinds is not None and "model" in self.kinds

    @property
    def why_not(self) -> str | None:
        """Why no training resumes from it, in a few words; None if one does."""
        if self.resumable:
            return None
        if self.is_cut:
            return "not all of its folders were looked at"
        wrong = [f"{self.name_of(p)}: {_state(p)}" for p in self.parts if not self.is_fine(p)]
        wrong += [f.message for f in self.findings if f.code == "part-missing" and not f.file]
        if wrong:
            return "; ".join(wrong[:3]) + ("; ..." if len(wrong) > 3 else "")
        if self.kinds is None:
            return "not all of it could be read"
        if "model" not in self.kinds:
            return "no model tensor" + _only(self.kinds)
        return _lacking(self.lacks, self.kinds)

    def is_fine(self, part: Judged) -> bool:
        """True if a part is no reason that the step is not sound."""
        return part.is_sound or self._is_nothing(part)

    def name_of(self, part: Judged) -> str:
        """A part's path below the step's folder; of the folder itself, its last name."""
        folder = StepFolder(self.path, self.step, tuple(own.found for own in self.parts))
        return folder.name_of(part.found) or printable(part.found.path.rpartition("/")[2] or ".")


def _state(part: Judged) -> str:
    return "unfinished" if part.found.state == "unfinished" else part.word


def _lacking(lacks: Sequence[str], have: frozenset[str]) -> str:
    """`no optimizer: weights only`; of weights alone the optimizer tells enough."""
    only = _only(have)
    if only and "optimizer" in lacks:
        lacks = ["optimizer"]
    return ", ".join(f"no {KINDS[kind]}" for kind in lacks) + only


def _only(have: frozenset[str]) -> str:
    """`: weights only`, if there is no more than that."""
    if have and have <= {"model", "ema"}:
        return ": weights only"
    if have == {"loader"}:
        return ": data loader only"
    if have == {"optimizer"}:
        return ": optimizer only"
    return ""


def steps_of(run: RunListing, judged: Iterable[Judged]) -> list[Step]:
    """The steps of a folder, as far as they were judged.

    Args:
        run: What was found in the folder.
        judged: Its checkpoints; a step is left out until each of its own is there.
    """
    by_path = {(item.found.path, item.found.is_file): item for item in judged}
    steps = []
    for folder in run.step_folders():
        parts = [by_path.get((part.path, part.is_file)) for part in folder.parts]
        whole = tuple(part for part in parts if part is not None)
        if len(whole) == len(parts):
            steps.append(_step(folder, whole, run))
    return _compared(steps)


def _step(folder: StepFolder, parts: tuple[Judged, ...], run: RunListing) -> Step:
    beside = _beside(folder, run.beside)
    kinds: frozenset[str] | None = None
    if all(part.kinds is not None for part in parts):
        kinds = frozenset().union(*(part.kinds or () for part in parts), kinds_beside(beside))
    step = Step(folder.path, folder.step, parts, kinds=kinds, is_cut=folder.path in run.cut_steps)
    if len(parts) < 2:
        return step
    findings = [
        _wrong_part(step, part, folder.path or run.name) for part in parts if not step.is_fine(part)
    ]
    times = [part.found.modified_s for part in parts if part.found.modified_s is not None]
    if times:
        # Of a folder's files only the newest time is known here; each part's is one.
        span = Span(min(times), max(times), sum(part.found.num_bytes for part in parts))
        findings += check_sidecars(span, beside)
    return replace(step, findings=tuple(findings))


def _beside(folder: StepFolder, beside: Mapping[str, tuple[Entry, ...]]) -> list[Entry]:
    """The files in a step's folder that are no checkpoint's, named relative to it."""
    inside = f"{folder.path}/" if folder.path else ""
    is_step = folder.step is not None or len(folder.parts) > 1
    found = []
    for path, entries in beside.items():
        if path == folder.path or (is_step and path.startswith(inside)):
            below = path[len(inside) :] if path != folder.path else ""
            found += [
                replace(entry, name=f"{below}/{entry.name}") if below else entry
                for entry in entries
            ]
    return found


def _wrong_part(step: Step, part: Judged, where: str) -> Finding:
    name = printable(step.name_of(part), 120)
    path = part.found.path
    where = printable(where, 120)
    sound = [printable(step.name_of(p), 60) for p in step.parts if step.is_fine(p)]
    rest = f"{', '.join(sound[:4])} {'is' if len(sound) == 1 else 'are'} sound" if sound else ""
    if part.found.state == "unfinished":
        message = f"{where}: its part {name} has not finished"
        code, hint = "part-missing", "resume from an earlier step"
        torch_does = "loads the sound parts by themselves, and raises on this one"
    else:
        message = f"{where}: its part {name} is {_state(part)}"
        code, hint = "part-damaged", "see the findings of that part, or resume from another step"
        torch_does = "loads each part by itself; what becomes of this one, its own findings say"
    return Finding(code, f"{message}; {rest}" if rest else message, torch_does, hint, file=path)


# -- a step beside its siblings ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Series:
    """Steps of one run.

    Attributes:
        steps: They.
        counts: How many of them hold each kind.
        num_known: Of how many the kinds are known.
    """

    steps: list[Step]
    counts: Counter[str]
    num_known: int

    @staticmethod
    def of(steps: list[Step]) -> _Series:
        counts = Counter(kind for step in steps for kind in step.kinds or ())
        return _Series(steps, counts, sum(step.kinds is not None for step in steps))

    def lacking(self, step: Step) -> list[str]:
        """The kinds that a step, which is one of them, should have as the others do."""
        kinds = step.kinds or frozenset()
        return [
            kind
            for kind in KINDS
            if kind not in kinds
            and self.counts[kind] > (0 if kind in _NEEDED else (self.num_known - 1) / 2)
        ]


def _compared(steps: list[Step]) -> list[Step]:
    """The steps with what each lacks."""
    groups: dict[str, list[Step]] = {}
    for step in steps:
        if step.is_numbered:
            groups.setdefault(step.series, []).append(step)
    all_series = {name: _Series.of(group) for name, group in groups.items()}
    newest = {id(max(group, key=lambda s: s.step or 0)) for group in groups.values()}
    has_model = any(step.kinds is None or "model" in step.kinds for step in steps)
    compared = []
    for step in steps:
        beside = None if step.is_numbered else _run_beside(step, all_series)
        if beside is not None:
            compared.append(_beside_run(step, beside, has_model))
            continue
        series = all_series[step.series] if step.is_numbered else _Series.of([step])
        missing = _missing_part(step, series.steps) if id(step) in newest else None
        if missing is not None:
            step = replace(step, findings=(*step.findings, missing))
        compared.append(_beside_siblings(step, series, has_model))
    return compared


def _run_beside(step: Step, all_series: Mapping[str, _Series]) -> _Series | None:
    """The run in whose folder lies what is no step of it: an export, a copy of the best step."""
    folders = {part.found.path.rpartition("/")[0] for part in step.parts}
    return next((all_series[folder] for folder in sorted(folders) if folder in all_series), None)


def _beside_run(step: Step, series: _Series, has_model: bool) -> Step:
    """An export, or a copy, beside a run's steps: it need not have what they have.

    So nothing is told of it; but where they have an optimizer, no training resumes without one.
    """
    if step.kinds is None or "model" not in step.kinds:
        return _beside_siblings(step, _Series.of([step]), has_model)
    lacks = [k for k in KINDS if k in _NEEDED - step.kinds and series.counts[k]]
    return replace(step, lacks=tuple(lacks))


def _beside_siblings(step: Step, series: _Series, has_model: bool) -> Step:
    if step.kinds is None:
        return step
    lacks = of_siblings = series.lacking(step)
    if "model" not in step.kinds and "model" not in lacks and has_model:
        lacks = ["model", *lacks]  # A replica's data loader, say, beside the run's own steps.
    step = replace(step, lacks=tuple(lacks))
    if of_siblings and step.is_sound:
        told = _not_resumable(step, of_siblings, series.steps)
        return replace(step, findings=(*step.findings, told))
    return step


def _not_resumable(step: Step, lacks: list[str], others: Sequence[Step]) -> Finding:
    where = printable(step.path or ".", 120)
    have = [o for o in others if o.kinds is not None and lacks[0] in o.kinds]
    nearest = min(have, key=lambda o: abs((o.step or 0) - (step.step or 0)))
    words = _lacking(lacks, step.kinds or frozenset())
    return Finding(
        "not-resumable",
        f"{where}: {words}; {printable(nearest.path, 120)} has it"
        + (f", as {plural(len(have) - 1, 'other step')}" if len(have) > 1 else ""),
        "loads what is there; a training that asks for the rest raises, or starts it anew with "
        "allow_partial_load",
        "fine for inference; resume from a step that has it",
        file=step.path or None,
    )


def _missing_part(step: Step, others: Sequence[Step]) -> Finding | None:
    """A folder that the steps beside it have, and this one has not, though it should.

    A part that an older step lacks was taken away to save space; that the newest lacks it, is a
    save that died. Exports for others are made for some steps alone.
    """
    others = [other for other in others if other is not step]
    mine = {_plain(step.name_of(part)) for part in step.parts}
    names = Counter(
        name
        for other in others
        if len(other.parts) > 1
        for name in {_plain(other.name_of(part)) for part in other.parts}
    )
    of_parts = [other for other in others if len(other.parts) > 1]
    if not of_parts or not mine & set(names):
        return None  # Of another make: a whole step in one folder, or an export.
    newest = max(of_parts, key=lambda other: other.step or 0)
    for part in newest.parts:
        name = _plain(newest.name_of(part))
        if name in mine or is_export(name):
            continue
        is_kind_lost = not (part.kinds or frozenset()) & _NEEDED <= (step.kinds or frozenset())
        is_usual = names[name] == len(of_parts) and len(of_parts) > 1
        if is_kind_lost or is_usual:
            shown = printable(newest.name_of(part), 120)
            return Finding(
                "part-missing",
                f"{printable(step.path or '.', 120)}: its part {shown} is not there, which "
                f"{printable(newest.path, 120)} has",
                "loads the parts that are there; what asks for this one raises",
                "the save did not come to its end, or the part was lost: resume from another step",
            )
    return None


def beside_sibling(step: Step, sibling: StepFolder) -> Step:
    """The newest step, whose folder alone was searched, beside the folder of the step before it.

    Args:
        step: The newest step.
        sibling: What lies in the other's folder; its parts are known by their names alone.
    """
    parts = tuple(
        Judged(part, Report(part.path), kinds_of_name(sibling.name_of(part)))
        for part in sibling.parts
    )
    missing = _missing_part(step, [Step(sibling.path, sibling.step, parts)])
    return step if missing is None else replace(step, findings=(*step.findings, missing))


def _plain(name: str) -> str:
    """A part's name; numbers of the step in it say nothing (`step_20.safetensors`)."""
    return re.sub(r"\d{2,}", "*", name)


# -- which one to take -------------------------------------------------------------------------


def _candidates(steps: Sequence[Step]) -> list[Step]:
    """Steps that may be the newest of a run: those with a model, if any has one."""
    if any(step.kinds is None or "model" in step.kinds for step in steps):
        return [step for step in steps if step.kinds is None or "model" in step.kinds]
    return list(steps)


def _newest(steps: Sequence[Step]) -> Step | None:
    with_step = [step for step in steps if step.step is not None]
    if with_step:
        return max(with_step, key=lambda s: (s.step or 0, _modified(s)))
    return max(steps, key=_modified, default=None)


def _modified(step: Step) -> float:
    return max((part.found.modified_s or 0.0 for part in step.parts), default=0.0)


def newest_sound(steps: Sequence[Step]) -> Step | None:
    """The sound step of the highest number (by time where none is known), or None.

    One of which nothing was checked (empty, or of another format) is not called sound; one
    without a model is passed over, if another has one.
    """
    return _newest([step for step in _candidates(steps) if step.is_sound])


def newest_by(steps: Sequence[Step]) -> str:
    """By what the newest sound step is the newest, where that is not its number alone."""
    sound = [step for step in _candidates(steps) if step.is_sound]
    best, unnumbered = _newest(sound), [step for step in sound if step.step is None]
    if best is None or len(sound) < 2 or not unnumbered:
        return ""
    if best.step is None:
        return "by the times of its files: none has a step number"
    has = "has" if len(unnumbered) == 1 else "have"
    return f"by step number; {plural(len(unnumbered), 'other')} {has} none"


def newest_resumable(steps: Sequence[Step]) -> Step | None:
    """The newest step that training can resume from, or None."""
    return _newest([step for step in _candidates(steps) if step.resumable])


def asked_for(steps: Sequence[Step]) -> Step | None:
    """The step that who names the whole folder asks for: the newest that a training would take.

    One of which no part was finished is not there yet. One without a number (the stages of a
    pipeline, each in a folder of its own; the `final` beside the steps of a run) is replaced by no
    other: where it is not sound, it is the one.
    """
    with_model = {step.series for step in _candidates(steps)}
    # One whose model is lost is asked for; a replica's data loader is not.
    steps = [step for step in steps if step.series in with_model]
    if len(steps) == 1:
        return steps[0]
    finished = [step for step in steps if not step.is_begun]
    numbered = [step for step in finished if step.step is not None]
    newest = _newest(numbered)
    wrong = (
        step
        for step in finished
        if step.step is None and step.verdict != "sound"
        if newest is None or step.series == newest.series
    )
    return next(wrong, None) or newest or newest_sound(steps)
