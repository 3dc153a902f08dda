"""The samples by name: who writes each, and what mesh it was saved under."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch.distributed.fsdp import StateDictType

from maker import frameworks, layouts, meshes
from maker.models import SimpleModel, SimpleModelUneven
from maker.writers import (
    Saved,
    adamw,
    ddp,
    dtypes,
    fsdp1,
    hostile_names,
    lowest_rank,
    per_rank_metadata,
    run_folder,
    shard_group_only,
    tensor_parallel,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a sample was saved under, and whether its files alone can tell.

    Attributes:
        mesh: As the product writes meshes, `fsdp:4` or `hsdp:2x4`; None where no such mesh
            describes it.
        mesh_order: The axes of the whole mesh, slowest first, joined by commas.
        world_size: How many ranks took part in the save.
        inferable: Whether `mesh` can be told from the files alone.
        looks_like: The mesh that the files speak for, which is `mesh` where that is inferable.
        why: The reason.
    """

    mesh: str | None
    mesh_order: str | None
    world_size: int
    inferable: bool
    looks_like: str | None
    why: str

    def as_json(self) -> dict[str, Any]:
        """The fields by name."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class Case:
    """A sample.

    Attributes:
        name: Its name and folder.
        num_ranks: The ranks of its job.
        write: Writes it.
        origin: What it was saved under.
        framework: Whose layout it is, as the product names it.
        needs: Packages that write it, besides torch; they are no dependencies of the project.
    """

    name: str
    num_ranks: int
    write: Callable[[str], Iterator[Saved]]
    origin: Origin
    framework: str = "torch.distributed.checkpoint"
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [name for name in self.needs if not _is_installed(name)]


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


REPLAY = "which rank wrote which chunk fits DCP's deduplication under this mesh alone"
NO_REPLICAS = "every rank wrote a chunk of its own"


def fsdp_origin(size: int, why: str = NO_REPLICAS) -> Origin:
    """Saved by `size` ranks, each with its own shard."""
    mesh = f"fsdp:{size}"
    return Origin(
        mesh=mesh,
        mesh_order="shard",
        world_size=size,
        inferable=True,
        looks_like=mesh,
        why=why,
    )


def hsdp_origin(replicas: int, shards: int, why: str = REPLAY) -> Origin:
    """Saved by `replicas` x `shards` ranks."""
    mesh = f"hsdp:{replicas}x{shards}"
    return Origin(
        mesh=mesh,
        mesh_order="replicate,shard",
        world_size=replicas * shards,
        inferable=True,
        looks_like=mesh,
        why=why,
    )


def unnamed_origin(mesh_order: str | None, size: int, why: str) -> Origin:
    """Saved by `size` ranks under what neither `fsdp:` nor `hsdp:` describes."""
    return Origin(
        mesh=None,
        mesh_order=mesh_order,
        world_size=size,
        inferable=False,
        looks_like=None,
        why=why,
    )


def simple_cases() -> Iterator[Case]:
    """PyTorch's two test models under FSDP1, hybrid and plain."""
    for infix, model in (("", SimpleModel), ("_uneven", SimpleModelUneven)):
        for r, s in ((2, 2), (2, 4)):
            write = partial(fsdp1, model=model, axes={"replicate": r, "shard": s})
            yield Case(f"hsdp{infix}_{r}x{s}", r * s, write, hsdp_origin(r, s))
        for s in (4, 8):
            write = partial(fsdp1, model=model, axes={"shard": s})
            yield Case(f"fsdp{infix}_{s}", s, write, fsdp_origin(s))


def fsdp1_cases() -> Iterator[Case]:
    """What FSDP1 writes when it has no device mesh."""
    sharded = partial(fsdp1, model=SimpleModelUneven, axes={})
    yield Case("fsdp1_sharded_tensor_4", 4, sharded, fsdp_origin(4))
    flat = partial(sharded, state_type=StateDictType.LOCAL_STATE_DICT)
    yield Case("fsdp1_flat_4", 4, flat, fsdp_origin(4))


def adamw_cases() -> Iterator[Case]:
    """A training state with optimizer, plain and hybrid."""
    plain = partial(adamw, axes={"shard": 4}, affine=False)
    yield Case("fsdp2_adamw_4", 4, plain, fsdp_origin(4))
    for r, s, affine in ((2, 2, True), (2, 4, False)):
        write = partial(adamw, axes={"replicate": r, "shard": s}, affine=affine)
        yield Case(f"fsdp2_hsdp_{r}x{s}_adamw", r * s, write, hsdp_origin(r, s))


def tensor_parallel_cases() -> Iterator[Case]:
    """Meshes with a tensor-parallel axis, which `fsdp:` and `hsdp:` have no name for."""
    why = "a tensor-parallel axis has no place in a mesh of replicas and shards"
    write = partial(tensor_parallel, axes={"dp": 2, "tp": 2})
    yield Case("fsdp2_tp_2x2", 4, write, unnamed_origin("dp,tp", 4, why))
    write = partial(tensor_parallel, axes={"replicate": 2, "shard": 2, "tp": 2})
    yield Case("hsdp_tp_2x2x2", 8, write, unnamed_origin("replicate,shard,tp", 8, why))


def mesh_cases() -> Iterator[Case]:
    """Tensor, expert, pipeline and context parallel; `looks_like` is what the boxes speak for."""

    def of(axes: dict[str, int], looks_like: str | None, why: str) -> Origin:
        size = math.prod(axes.values())
        origin = unnamed_origin(",".join(axes), size, why)
        return dataclasses.replace(origin, looks_like=looks_like)

    def case(name: str, write: Callable[..., Iterator[Saved]], origin: Origin, **axes: Any) -> Case:
        num_ranks = math.prod(next(iter(axes.values())).values())
        return Case(name, num_ranks, partial(write, **axes), origin)

    columns = "columns and rows are cut in turn and norms left whole, as tensor parallelism does"
    for name, looks_like, axes in (
        ("tp_8", "tp:8", {"tp": 8}),
        ("ddp_tp_4x2", "ddp_tp:4x2", {"dp_replicate": 4, "tp": 2}),
        ("hsdp_tp_uneven_2x2x2", "hsdp_tp:2x2x2", {"dp_replicate": 2, "dp_shard": 2, "tp": 2}),
    ):
        origin = of(axes, looks_like, columns)
        yield case(name, meshes.tensor_parallel_block, origin, axes=axes)
    order = "the experts are cut in another order than all other tensors"
    for name, looks_like, axes in (
        ("fsdp_ep_2x4", "fsdp_ep:2x4", {"dp_shard_mod_ep": 2, "ep": 4}),
        ("hsdp_ep_2x2x2", "hsdp_ep:2x2x2", {"dp_replicate": 2, "dp_shard_mod_ep": 2, "ep": 2}),
    ):
        yield case(name, meshes.expert_parallel, of(axes, looks_like, order), experts=axes)
    axes = {"dp_shard": 4, "cp": 2}
    why = "ranks of context parallelism hold copies, as replicas do"
    origin = of(axes, "hsdp_reversed:4x2", why)
    yield case("fsdp_cp_4x2", meshes.context_parallel, origin, axes=axes)
    why = "groups of ranks share no tensor"
    for name, axes in (
        ("pp_fsdp_2x2", {"pp": 2, "dp_shard": 2}),
        ("pp_hsdp_2x2x2", {"pp": 2, "dp_replicate": 2, "dp_shard": 2}),
    ):
        yield case(name, meshes.pipeline, of(axes, None, why), axes=axes)
    axes = {"pp": 2, "dp_shard": 2}
    origin = of(axes, "fsdp:2", "each stage was saved by its own two ranks, and names no others")
    yield case("pp_fsdp_2x2_apart", meshes.pipeline_apart, origin, axes=axes)


def other_cases() -> Iterator[Case]:
    """Everything that is one of its kind."""
    why = "every tensor is one chunk: any mesh of replicas fits"
    yield Case("ddp_4", 4, ddp, unnamed_origin("replicate", 4, why))
    group = dataclasses.replace(
        hsdp_origin(2, 2, "the other replica saved nothing: the files are those of fsdp:2"),
        world_size=2,
        inferable=False,
        looks_like="fsdp:2",
    )
    yield Case("hsdp_shard_group_only_2x2", 4, shard_group_only, group)
    why = "the chunks are those of fsdp:2; the empty files of ranks 2 and 3 tell of the replica"
    yield Case("lowest_rank_2x2", 4, lowest_rank, hsdp_origin(2, 2, why))
    yield Case("dtypes_4", 4, dtypes, fsdp_origin(4))
    alone = unnamed_origin(None, 1, "one rank saved plain tensors")
    yield Case("names_hostile_1", 1, hostile_names, alone)
    yield Case("per_rank_metadata_2", 2, per_rank_metadata, fsdp_origin(2))
    yield Case("run", 2, run_folder, fsdp_origin(2), "torchtitan")
    yield Case("zstd_2", 2, layouts.zstd, fsdp_origin(2), needs=("zstandard",))
    yield Case("file_per_item_2", 2, layouts.file_per_item, fsdp_origin(2))


def safetensors_cases() -> Iterator[Case]:
    """Hugging Face's layout, by DCP and by others."""
    hf, needs = "DCP's HuggingFaceStorageWriter", ("safetensors",)
    why = "no file names a rank"
    whole = unnamed_origin(None, 1, why)
    sharded = partial(layouts.hugging_face_sharded, axes={"shard": 4})
    yield Case("hf_dcp_sharded_4", 4, sharded, fsdp_origin(4), hf, needs)
    hybrid = partial(layouts.hugging_face_sharded, axes={"replicate": 2, "shard": 2})
    why = "the order of the state dict, by which replicas share the work, is not stored"
    origin = dataclasses.replace(hsdp_origin(2, 2, why), inferable=False, looks_like=None)
    yield Case("hf_dcp_sharded_hsdp_2x2", 4, hybrid, origin, hf, needs)
    two = unnamed_origin("shard", 2, "put together: file names tell of ranks in `sharded` alone")
    yield Case("hf_dcp_consolidated_2", 2, layouts.hugging_face_consolidated, two, hf, needs)
    yield Case("hf_dcp_whole_1", 1, layouts.hugging_face_whole, whole, hf, needs)
    yield Case("safetensors_1", 1, layouts.safetensors_dtypes, whole, "safetensors", needs)
    needs = ("transformers", "safetensors")
    yield Case("transformers_1", 1, frameworks.transformers, whole, "Transformers", needs)


def framework_cases() -> Iterator[Case]:
    """What frameworks write."""
    two = fsdp_origin(2)
    make = frameworks.accelerate
    yield Case("accelerate_fsdp", 2, make, two, "Accelerate", ("accelerate",))
    needs = ("transformers", "accelerate")
    yield Case("trainer_2", 2, frameworks.trainer, two, "Transformers (Accelerate)", needs)
    yield Case("lightning_2", 2, frameworks.lightning, two, "Lightning", ("lightning",))
    why = "rows and columns are halved in turn and norms left whole, as tensor parallelism does"
    mcore = dataclasses.replace(unnamed_origin(None, 2, why), looks_like="tp:2")
    needs = ("megatron-core",)
    yield Case("megatron_2", 2, frameworks.megatron, mcore, "Megatron-Core", needs)
    yield Case("nemo_2", 2, frameworks.nemo, mcore, "NeMo (Megatron-Core)", needs)
    needs = ("torchtitan", "safetensors")
    yield Case("torchtitan_2", 2, frameworks.torchtitan, two, "torchtitan", needs)
    yield Case("olmo_core_2", 2, frameworks.olmo, two, "OLMo-core", ("ai2-olmo-core",))
    yield Case("composer_2", 2, frameworks.composer, two, "Composer")


CASES: dict[str, Case] = {
    case.name: case
    for cases in (
        simple_cases,
        fsdp1_cases,
        adamw_cases,
        tensor_parallel_cases,
        mesh_cases,
        other_cases,
        safetensors_cases,
        framework_cases,
    )
    for case in cases()
}
