"""What the inference says for itself: plain ASCII sentences that a person can check."""

from __future__ import annotations

from inspector.checkpoint.model import Checkpoint
from inspector.layout.mesh import Mesh
from inspector.layout.placements import to_strings
from inspector.layout.writer.survey import Assignment
from inspector.layout.writer.walk import Rule, Trial, Walk

__all__ = ["judgement", "nothing_cut", "writer"]

_FAMILY = {
    "fsdp": "FSDP",
    "hsdp": "HSDP",
    "hsdp_reversed": "HSDP with the shard axis first",
    "fsdp_tp": "FSDP x TP",
    "hsdp_tp": "HSDP x TP",
}

_MAX_SHOWN = 4


def writer(checkpoint: Checkpoint, walk: Walk | None, assignment: Assignment | None) -> str:
    """What kind of tensors was saved, as far as the chunks tell.

    DTensor records one empty chunk for the ranks past a tensor's end, ShardedTensor none;
    ShardedTensor knows no replicas; FSDP1's LOCAL_STATE_DICT names its tensors `_flat_param`.
    """
    fqns = checkpoint.columns.fqns
    # Looked for in all names at once first: there may be a hundred thousand.
    if "_flat_param" in "\n".join(fqns) and any(fqn.endswith("_flat_param") for fqn in fqns):
        return "FSDP1 flat parameters"
    if walk is None or not walk.touched:
        return "plain"
    if assignment is not None and any(f.empties_missing for fs in assignment.fits for f in fs):
        return "ShardedTensor"
    if any(c.cut.has_empty for c in walk.classes):
        return "DTensor"
    if assignment is not None and len(assignment.mesh.sizes) > 1:
        return "DTensor"
    if (checkpoint.provenance.torch_band or "").startswith("1."):
        return "ShardedTensor"
    return "DTensor or ShardedTensor"


def nothing_cut(walk: Walk) -> list[str]:
    """For a checkpoint where no tensor is cut."""
    result = []
    if walk.checkpoint.num_tensors:
        result.append(
            f"Every tensor is one chunk: replicated over {walk.world_size} ranks (DDP, NO_SHARD) "
            "or a full state dict. Every mesh of that size fits, so none is named."
        )
    else:
        result.append("There is no tensor to tell a mesh from.")
    return result + _damaged(walk)


def judgement(
    walk: Walk, best: Trial, others: list[Trial], rivals: list[Trial], *, believed: bool
) -> list[str]:
    """The sentences for the best trial."""
    result = [_main(walk, best, others, believed)]
    outcome = best.outcome
    if outcome is None:
        return result
    if rivals:
        names = ", ".join(str(t.assignment.mesh) for t in rivals)
        result.append(f"Too few items to tell it from {names}: these explain every item as well.")
    if believed and not best.proven():
        result.append(
            f"{outcome.num_items - outcome.num_placed} items lie in another rank's file than "
            "the replay says: safetensors files do not keep the order of the state dict, by which "
            "DCP's writer shares out the work."
            if walk.checkpoint.format == "safetensors"
            else f"{outcome.num_items - outcome.num_placed} items lie in another rank's file than "
            "the replay says: the files may be of different saves, or the writer was not DCP's "
            "default planner."
        )
    if outcome.num_owned:
        result.append(
            f"{outcome.num_owned} whole tensors or bytes entries were not compared: they lie as "
            "if they existed on one rank alone, as per-rank RNG or data loader states do."
        )
    if outcome.sampled or walk.partial:
        whole = walk.num_items if not walk.partial else walk.checkpoint.num_chunks
        result.append(
            f"Sampled: {outcome.num_items} of about {whole} items were compared, the first in "
            "DCP's order."
        )
    if believed:
        result += _caveats(walk, best)
    return result + _damaged(walk)


def _main(walk: Walk, best: Trial, others: list[Trial], believed: bool) -> str:
    mesh, outcome = best.assignment.mesh, best.outcome
    count = f"{outcome.num_placed} of {outcome.num_items}" if outcome else "none"
    follow = f"; no other mesh of {walk.world_size} ranks makes these chunks"
    if others:
        follow = f"; next best {_score(others[0], walk)}"
    if not believed:
        return (
            f"No mesh of {walk.world_size} ranks explains the chunks: the closest, {mesh}, puts "
            f"{count} items where they are"
        )
    return (
        f"{_name(mesh)} {_shape(walk, best)}: {_rule(best)} puts {count} items where they are"
        f"{follow}"
    )


def _name(mesh: Mesh) -> str:
    return f"{_FAMILY.get(mesh.family, mesh.family)} {'x'.join(map(str, mesh.sizes))}"


def _shape(walk: Walk, trial: Trial) -> str:
    """The placements in use, the most used first: `[Replicate(), Shard(0)]`."""
    sizes = trial.assignment.mesh.sizes
    strings = [to_strings(pattern, sizes) for pattern, _, _ in trial.assignment.votes(walk)]
    shown = [f"[{', '.join(s)}]" for s in dict.fromkeys(strings)]
    return ", ".join(shown[:_MAX_SHOWN]) + (" ..." if len(shown) > _MAX_SHOWN else "")


def _rule(trial: Trial) -> str:
    rule = trial.outcome.rule if trial.outcome else Rule.BALANCED
    if rule is Rule.ALL:
        return "reading off every rank's own metadata"
    if rule is Rule.LOWEST:
        return "DCP's rule that the lowest rank writes (torch 2.2 and before, or by option)"
    if rule is Rule.BALANCED_BYTES_ON_0:
        return "replaying DCP's writer (torch 2.3: bytes entries on rank 0)"
    return "replaying DCP's writer"


def _score(trial: Trial, walk: Walk) -> str:
    outcome, mesh = trial.outcome, trial.assignment.mesh
    if outcome is None:
        return f"{mesh}, at most {trial.assignment.num_possible} of {walk.num_items}"
    return f"{mesh}, {outcome.num_placed} of {outcome.num_items}"


def _caveats(walk: Walk, best: Trial) -> list[str]:
    result = []
    mesh, rule = best.assignment.mesh, best.outcome.rule if best.outcome else None
    if writer(walk.checkpoint, walk, best.assignment) == "FSDP1 flat parameters":
        result.append(
            "The tensors are FSDP1 flat parameters (LOCAL_STATE_DICT): they load only into the "
            "same wrapping on as many ranks."
        )
    elif any(f.empties_missing for fs in best.assignment.fits for f in fs):
        result.append(
            "ShardedTensor writer (FSDP1): ranks that hold nothing of a tensor recorded no empty "
            "chunk, as DTensor does."
        )
    if mesh.family == "fsdp" and rule is not Rule.ALL:
        result.append(
            "Each chunk has one possible writer. Replicas outside the group that saved cannot be "
            "excluded: a shard group that saves alone writes the same files."
        )
    if rule is Rule.LOWEST and "replicate" in mesh.axes:
        result.append(
            f"The number of replicas comes from the data files of all {walk.world_size} ranks; "
            "the lowest rank wrote each chunk."
        )
    return result


def _damaged(walk: Walk) -> list[str]:
    bad = [c for c in walk.classes if c.cut.starts is None]
    num = sum(len(c.tensors) for c in bad)
    if not num:
        return []
    what = "tensor has" if num == 1 else "tensors have"
    return [f"Not counted: {num} {what} chunks that form no grid ({bad[0].cut.problem})."]
