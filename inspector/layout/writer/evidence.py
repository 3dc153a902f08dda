"""What the inference says for itself: plain ASCII sentences that a person can check."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from inspector.checkpoint.child.names import any_has
from inspector.checkpoint.model import Checkpoint
from inspector.layout.placements import ORDINALS, to_strings
from inspector.layout.writer.axes import AxisRoles
from inspector.layout.writer.survey import Assignment, ranks_in
from inspector.layout.writer.walk import Rule, Trial, Walk

if TYPE_CHECKING:
    from inspector.layout.writer.stages import Stage, StageGroups

__all__ = [
    "caveats",
    "judgement",
    "not_replicated",
    "nothing_cut",
    "stages",
    "unseen_replicas",
    "writer",
]

_FAMILY = {"fsdp": "FSDP", "hsdp": "HSDP", "hsdp_reversed": "HSDP with the shard axis first"}

_MAX_SHOWN = 4
_MAX_STAGES = 8


def writer(checkpoint: Checkpoint, walk: Walk | None, assignment: Assignment | None) -> str:
    """What kind of tensors was saved, as far as the chunks tell.

    DTensor records one empty chunk for the ranks past a tensor's end, ShardedTensor none;
    ShardedTensor knows no replicas; FSDP1's LOCAL_STATE_DICT names its tensors `_flat_param`.
    """
    fqns = checkpoint.columns.fqns
    # Looked for in all names at once first: there may be a hundred thousand.
    if any_has(fqns, "_flat_param") and any(fqn.endswith("_flat_param") for fqn in fqns):
        return "FSDP1 flat parameters"
    if walk is None or not walk.touched:
        return "plain"
    if assignment is not None and any(f.empties_missing for fs in assignment.fits for f in fs):
        return "ShardedTensor"
    if any(c.cut.has_empty for c in walk.classes):
        return "DTensor"
    if assignment is not None and len(assignment.mesh.sizes) > 1:
        return "DTensor"
    release = checkpoint.provenance.first_torch
    if release is not None and release < (2, 0):
        return "ShardedTensor"
    return "DTensor or ShardedTensor"


def nothing_cut(walk: Walk) -> list[str]:
    """For a checkpoint where no tensor is cut."""
    result = []
    own = _on_some_ranks(walk)
    if own:
        result.append(
            f"Every tensor is one chunk; by the metadata of each of {walk.world_size} ranks {own} "
            f"of {walk.checkpoint.num_tensors} tensors are on some of them alone, as pipeline "
            "stages' are. No mesh is named."
        )
    elif walk.checkpoint.num_tensors:
        result.append(
            f"Every tensor is one chunk: replicated over {walk.world_size} ranks (DDP, NO_SHARD) "
            "or a full state dict. Every mesh of that size fits, so none is named."
        )
    else:
        result.append("There is no tensor to tell a mesh from.")
    return result + _damaged(walk)


def _on_some_ranks(walk: Walk) -> int:
    """Whole tensors that not every rank wrote, where every rank writes what it holds."""
    checkpoint = walk.checkpoint
    if not checkpoint.per_rank_metadata:
        return 0
    columns = checkpoint.columns
    ranks = checkpoint.chunk_ranks(columns.file)
    tensors = np.repeat(np.arange(columns.num_tensors), columns.num_chunks_of)
    pairs = np.unique(np.stack([tensors, ranks], axis=1), axis=0)[:, 0]
    return int((np.bincount(pairs, minlength=columns.num_tensors) < walk.world_size).sum())


def not_replicated(walk: Walk, explained: float) -> list[str]:
    """For whole tensors that do not lie where DCP's writer puts what every rank holds."""
    said = (
        "Every tensor is one chunk, but replaying DCP's writer for tensors that all "
        f"{walk.world_size} ranks hold puts {explained:.0%} of the items where they are: some "
        "ranks held tensors of their own, or the writer was not DCP's default planner."
    )
    return [said, *_damaged(walk)]


def unseen_replicas(walk: Walk) -> list[str]:
    """For pieces that all lie with one replica of a mesh that would explain them."""
    pieces = {rank for number in walk.touched for rank in ranks_in(walk.ranks[number]).tolist()}
    shown = ", ".join(map(str, sorted(pieces)[:8])) + (" ..." if len(pieces) > 8 else "")
    said = (
        f"Of {walk.world_size} ranks only {shown} wrote pieces of tensors that are cut: these "
        "alone held them, or others held copies that the writer left out; nothing tells which."
    )
    return [said]


def stages(walk: Walk, partition: StageGroups) -> list[str]:
    """For ranks in groups that share no tensor."""
    num = len(partition.stages)
    result = [
        f"{walk.world_size} ranks in {num} groups that share no tensor: "
        + "; ".join(_stage(s) for s in partition.stages[:_MAX_STAGES])
        + (" ..." if num > _MAX_STAGES else "")
    ]
    if partition.by_names:
        result.append(
            "Each rank's file holds modules of its own, by their numbers; replicated tensors "
            "would be shared out among all ranks."
        )
    else:
        result.append(
            f"Replaying DCP's writer over all groups at once puts {partition.num_placed} of "
            f"{partition.num_items} items where they are."
        )
    result.append("They look like pipeline stages: evidence, not proof.")
    seen = {s.layout.looks_like for s in partition.stages if s.layout and s.layout.looks_like}
    if seen:
        result.append(f"Inside each it looks like {', '.join(sorted(seen))}: evidence, not proof.")
    return result + _damaged(walk)


def _stage(stage: Stage) -> str:
    ranks = stage.ranks
    named = f"rank {ranks[0]}"
    if len(ranks) > 1:
        run = ranks == tuple(range(ranks[0], ranks[-1] + 1))
        named = f"ranks {ranks[0]} to {ranks[-1]}" if run else f"ranks {', '.join(map(str, ranks))}"
    what = f"{stage.num_tensors} tensors" + (f" ({stage.layers})" if stage.layers else "")
    if stage.mesh is not None:
        return f"{named}: {what}, {stage.mesh}"
    return f"{named}: {what}" + (", whole" if len(ranks) > 1 else "")


def judgement(
    walk: Walk,
    best: Trial,
    others: list[Trial],
    rivals: list[Trial],
    layout: AxisRoles | None,
    *,
    proven: bool,
) -> list[str]:
    """The sentences for the best trial."""
    believed = layout is not None
    result = [_main(walk, best, others, layout)]
    outcome = best.outcome
    if outcome is None:
        return result
    if layout is not None:
        result += _layout(layout, proven)
    if rivals:
        names = ", ".join(str(t.assignment.mesh) for t in rivals)
        result.append(f"Too few items to tell it from {names}: these explain every item as well.")
    by_order = walk.checkpoint.format != "safetensors"
    if not best.proven() and (believed or not by_order):
        why = (
            "the files may be of different saves, or the writer was not DCP's default planner."
            if by_order
            else "safetensors files do not keep the order of the state dict, by which DCP's "
            "writer shares out the work."
        )
        result.append(
            f"{outcome.num_items - outcome.num_placed} items lie in another rank's file than the "
            f"replay says: {why}"
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
    if layout is not None:
        result += caveats(walk, best, layout)
    return result + _damaged(walk)


def _layout(layout: AxisRoles, proven: bool) -> list[str]:
    """What is proven of the axes, and what they look like."""
    sure = "Certain are sizes, boxes and owners" if proven else "If so"
    result = [f"{sure}: {layout.shape_words()}."]
    reasons = "; ".join(
        (f"the {ORDINALS[n]} axis: " if len(layout.axes) > 1 else "") + axis.evidence
        for n, axis in enumerate(layout.axes)
    )
    like = (
        f"Looks like {layout.looks_like}" if layout.looks_like else "What the axes are for is open"
    )
    result.append(f"{like} (evidence, not proof): {reasons}.")
    return result


def _main(walk: Walk, best: Trial, others: list[Trial], layout: AxisRoles | None) -> str:
    outcome = best.outcome
    count = f"{outcome.num_placed} of {outcome.num_items}" if outcome else "none"
    follow = f"; no other mesh of {walk.world_size} ranks makes these chunks"
    if others:
        follow = f"; next best {_score(others[0], walk)}"
    if layout is None:
        return (
            f"No mesh of {walk.world_size} ranks explains nine tenths of the items: the best that "
            f"was tried, replicas and shards in all orders, puts {count} items where they are"
        )
    return (
        f"{_name(layout)} {_shape(walk, best)}: {_rule(walk, best)} puts {count} items where they "
        f"are{follow}"
    )


def _name(layout: AxisRoles) -> str:
    mesh = layout.mesh
    sizes = "x".join(map(str, mesh.sizes))
    if layout.is_plain:
        return f"{_FAMILY[mesh.family]} {sizes}"
    return f"{mesh.world_size} ranks as {sizes}" if len(mesh.sizes) > 1 else f"{sizes} ranks"


def _shape(walk: Walk, trial: Trial) -> str:
    """The placements in use, the most used first: `[Replicate(), Shard(0)]`."""
    sizes = trial.assignment.mesh.sizes
    strings = [to_strings(pattern, sizes) for pattern, _, _ in trial.assignment.votes(walk)]
    shown = [f"[{', '.join(s)}]" for s in dict.fromkeys(strings)]
    return ", ".join(shown[:_MAX_SHOWN]) + (" ..." if len(shown) > _MAX_SHOWN else "")


def _rule(walk: Walk, trial: Trial) -> str:
    rule = trial.outcome.rule if trial.outcome else Rule.BALANCED
    if walk.checkpoint.provenance.num_plans is not None:
        return "Megatron-Core's rule that the main replica writes"
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


#: Of a mesh on which copies are cut by the same axes in two orders (`written_by._unseen_orders`).
UNSEEN_ORDERS = (
    "Some tensors are cut by the same axes in another order than others, and not every replica "
    "was seen in both: replicas whose ranks stand in another order leave the same files."
)


def caveats(walk: Walk, best: Trial, layout: AxisRoles) -> list[str]:
    """What the files cannot tell of a mesh that is named."""
    result = list(layout.doubts)
    if layout.speaks_against and layout.looks_like and layout.mesh.family in _FAMILY:
        result.append(f"Against the plain reading: {layout.speaks_against}.")
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
    if "replicate" not in mesh.axes and rule is not Rule.ALL:
        result.append(
            "Each chunk has one possible writer. Replicas outside the group that saved cannot be "
            "excluded: a shard group that saves alone writes the same files."
        )
    if rule is not Rule.ALL:
        result.append(
            f"Ranks 0 to {walk.world_size - 1} are the group that saved, of perhaps more ranks: "
            "what another group (another tensor-parallel rank's, say) saved into this folder "
            "before is overwritten without a trace."
        )
        if any(not cut.dims for cut in layout.cuts):
            result.append(
                "Tensors in one piece lie as if every rank held them; nothing tells one that a "
                "single rank had, and that lies there by chance."
            )
    num_plans = walk.checkpoint.provenance.num_plans
    if num_plans is not None:
        wrote = len({f.rank for f in walk.checkpoint.files if f.rank is not None})
        result.append(
            f"The metadata keeps the plans of {num_plans} ranks, and {wrote} of them wrote a file; "
            "Megatron-Core's planner is not DCP's, so who held a copy is not proven."
        )
    if rule is Rule.LOWEST and "replicate" in mesh.axes and num_plans is None:
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
