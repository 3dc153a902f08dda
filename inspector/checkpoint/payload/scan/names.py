"""What a name in a payload's pickle may do: nothing, want a package, or run code.

`dcp.load` unpickles bytes entries with `weights_only=False`, so that whatever they call is called;
tensors with `weights_only=True`, which refuses a class until its package has registered it. A name
that is only held, or of which only an object is made, runs nothing of the pickle's choosing; one
that is called does. Which calls are ordinary values is listed here by full name: torch's own from
the pickles that torch 1.13 to 2.15 write, its enums by walking torch 2.13.
"""

from __future__ import annotations

import builtins
import functools
import re
import sys
from enum import IntEnum
from typing import Literal

from inspector.checkpoint.dtypes import ITEMSIZE, canonical
from inspector.checkpoint.payload.scan.calls import STORAGES
from inspector.checkpoint.pickle.gate import CALLABLES, DANGEROUS_MODULES, DTYPES, PAYLOAD_NAMES

__all__ = ["CALLS_ITS_ARGUMENTS", "MAKES_A_CALLABLE", "Judged", "Use", "is_listed", "judge_name"]

Judged = Literal["known", "foreign", "unsafe"]


class Use(IntEnum):
    """What a pickle does with a name, the worst last."""

    HELD = 0
    MADE = 1
    CALLED_PLAIN = 2  # with one short literal, as the member of an enum is written
    CALLED = 3


#: Known callables that call what they are given; so that counts as called, too.
CALLS_ITS_ARGUMENTS = frozenset(
    "torch._tensor._rebuild_from_type_v2 numpy.random._pickle.__randomstate_ctor "
    "numpy.random._pickle.__generator_ctor numpy.random._pickle.__bit_generator_ctor "
    "numpy.ma.core._mareconstruct builtins.iter __builtin__.iter itertools.chain itertools.cycle "
    "itertools.islice".split()
)

#: Known callables that give something that can be called, and call nothing themselves.
MAKES_A_CALLABLE = frozenset(
    "functools.partial operator.attrgetter operator.itemgetter _operator.attrgetter "
    "_operator.itemgetter".split()
)

# Values of Python itself, beside `PAYLOAD_NAMES`. Protocol 2 writes int as `__builtin__.long`.
_BUILTIN = re.compile(
    r"""(builtins|__builtin__|exceptions)\.(
        [A-Z]\w*(Error|Exception|Warning|Exit|Interrupt|Iteration|ExceptionGroup)
        |(Base)?ExceptionGroup|long|unicode|memoryview|iter|Ellipsis|NotImplemented|object|set|frozenset|list|tuple|dict
        |bytes|basestring|property|staticmethod|classmethod|super
    )\Z
    |types\.(NoneType|EllipsisType|NotImplementedType|GenericAlias|UnionType|MappingProxyType)\Z
    |re\.(_compile|RegexFlag|Pattern)\Z
    |logging\.(getLogger|Logger|RootLogger)\Z
    |(functools\.partial|_?operator\.(attrgetter|itemgetter))\Z
    |(time\.struct_time|array\.(array|_array_reconstructor)|decimal\.[A-Z]\w*)\Z
    |itertools\.(count|repeat|chain|cycle|islice)\Z
    |numpy\.ma\.(core\.)?(MaskedArray|_mareconstruct)\Z
    |inspect\.(Parameter|Signature|_empty)\Z
    |torch\.(return_types\.\w+|_C\.Generator)\Z
    |copyreg\.__newobj__\Z
    |(ipaddress\.IP\w+|zoneinfo\.ZoneInfo(\._unpickle)?)\Z
    """,
    re.VERBOSE,
)

# Names that are harmless to hold, and not to call.
_HELD = re.compile(
    r"(builtins|__builtin__)\.(type|len|sum|min|max|abs|sorted|round|print|id|hash)\Z"
    r"|_?operator\.(add|sub|mul|truediv|floordiv|mod|pow|lt|le|eq|ne|gt|ge|neg|and_|or_|not_)\Z"
)

# Enums in modules that hold code besides: an argument of Megatron-LM is a signal.
_ENUMS = re.compile(
    r"(signal\.(Signals|Handlers|Sigmasks)|http\.(HTTPStatus|HTTPMethod)"
    r"|socket\.(AddressFamily|SocketKind)|inspect\._ParameterKind)\Z"
)

# torch's value classes; elsewhere in torch a class may start processes as soon as it is called
# (torch._inductor.compile_worker.subproc_pool.SubprocPool).
_TORCH_VALUES = re.compile(
    r"torch\.(nn|optim|distributed\.(fsdp|tensor|_tensor|_shard|_composable|checkpoint|device_mesh"
    r"|_mesh_layout|remote_device|distributed_c10d)|_C\._distributed\w*|amp|torch_version)(\.|\Z)"
)

_TORCH_ENUMS = frozenset(
    f"torch.{name}"
    for name in """
    amp.grad_scaler.OptState
    ao.quantization.observer.MappingType
    ao.quantization.observer.TorchAODType
    ao.quantization.observer.ZeroPointDomain
    ao.quantization.quant_type.QuantType
    cuda.amp.grad_scaler.OptState
    distributed._shard.sharded_tensor.metadata.MEM_FORMAT_ENCODING
    distributed.algorithms._checkpoint.checkpoint_wrapper.CheckpointImpl
    distributed.checkpoint.filesystem.SerializationFormat
    distributed.checkpoint.metadata._MEM_FORMAT_ENCODING
    distributed.checkpoint.planner.LoadItemType
    distributed.checkpoint.planner.WriteItemType
    distributed.checkpoint.state_dict_saver.AsyncCheckpointerType
    distributed.fsdp._common_utils.HandleTrainingState
    distributed.fsdp._common_utils.TrainingState
    distributed.fsdp._flat_param.HandleShardingStrategy
    distributed.fsdp._fully_shard._fsdp_common.TrainingState
    distributed.fsdp._fully_shard._fsdp_param.ShardedState
    distributed.fsdp.api.BackwardPrefetch
    distributed.fsdp.api.ShardingStrategy
    distributed.fsdp.api.StateDictType
    distributed.fsdp.fully_sharded_data_parallel.BackwardPrefetch
    distributed.fsdp.fully_sharded_data_parallel.OptimStateKeyType
    distributed.fsdp.fully_sharded_data_parallel.ShardingStrategy
    distributed.fsdp.fully_sharded_data_parallel.StateDictType
    distributed.pipelining._utils.InferenceMode
    distributed.pipelining.schedules._ComputationType
    distributed.tensor.placement_types._StridedShardOffsetMode
    nn.attention.flex_attention._ModificationType
    profiler.profiler.ProfilerAction
    serialization.LoadEndianness
    utils.checkpoint.CheckpointPolicy
    """.split()
)

# How the names of classes end that do something as soon as they are called.
_DOES = re.compile(
    r"(popen|process|spawn|commands?|exec|executor|shell|threads?|pool|server|clients?|importer"
    r"|loader|compiler|evaluator|script|interpreter|terminal|console|sockets?|connection|writer"
    r"|runner|launcher|installer|downloader|dll|library|daemon|worker|session|subprocess)\Z",
    re.IGNORECASE,
)
_MAIN = frozenset({"__main__", "__mp_main__"})


@functools.lru_cache(1024)
def judge_name(module: str, name: str, use: Use, *, weights_only: bool) -> Judged:
    """What to think of a name in a payload's pickle.

    Args:
        module: As the pickle gives it.
        name: Likewise; it may have dots.
        use: The worst that the pickle does with it.
        weights_only: True for a tensor, which torch loads with `weights_only=True`.

    Returns:
        `known`: an ordinary value. `foreign`: it loads only if its package is imported, and runs
        nothing else. `unsafe`: code that the pickle has run, or a name of a module for that.
    """
    judged = _judged(module, name, use, weights_only=weights_only)
    if judged == "known" and weights_only and not _is_of_tensors(module, name):
        # torch refuses a tensor's pickle for a name alone, be it never used.
        return "foreign"
    return judged


def _is_of_tensors(module: str, name: str) -> bool:
    """Whether torch takes a name in a tensor's pickle, as long as nobody registers more."""
    full = f"{_RENAMED.get(module, module)}.{name}"
    if module == "torch" and (name in ITEMSIZE or name in STORAGES):
        return True
    return full in _OF_TENSORS or _TENSOR_CLASSES.match(full) is not None


# Modules of Python 2, which torch translates.
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}

# `_get_allowed_globals` in torch/_weights_only_unpickler.py of torch 2.13 (with the rebuilders of
# earlier versions), and what torch.distributed.tensor registers; beside dtypes and storages.
_OF_TENSORS = frozenset(
    """
    _codecs.encode builtins.bytearray builtins.complex builtins.set collections.Counter
    collections.OrderedDict torch.Size torch.Tensor torch._tensor._rebuild_from_type_v2
    torch._utils._rebuild_device_tensor_from_cpu_tensor
    torch._utils._rebuild_device_tensor_from_numpy torch._utils._rebuild_meta_tensor_no_storage
    torch._utils._rebuild_nested_tensor torch._utils._rebuild_parameter
    torch._utils._rebuild_parameter_with_state torch._utils._rebuild_qtensor
    torch._utils._rebuild_sparse_tensor torch._utils._rebuild_sparse_csr_tensor
    torch._utils._rebuild_tensor torch._utils._rebuild_tensor_v2 torch._utils._rebuild_tensor_v3
    torch._utils._rebuild_wrapper_subclass torch._utils._rebuild_hpu_tensor
    torch._utils._rebuild_xla_tensor torch._utils._rebuild_mlc_tensor torch.device
    torch.nn.parameter.Parameter torch.per_channel_affine
    torch.per_channel_affine_float_qparams torch.per_channel_symmetric torch.per_tensor_affine
    torch.per_tensor_symmetric torch.serialization._get_layout torch.storage.TypedStorage
    torch.storage.UntypedStorage torch.storage._TypedStorage torch.storage._UntypedStorage
    torch.distributed._mesh_layout._FlatLayout torch.distributed._mesh_layout._MeshLayout
    torch.distributed.device_mesh.DeviceMesh torch.distributed.tensor.DTensor
    torch.distributed.tensor._dtensor_spec.DTensorSpec
    torch.distributed.tensor._dtensor_spec.ShardOrderEntry
    torch.distributed.tensor._dtensor_spec.TensorMeta
    torch.distributed.tensor.placement_types.Partial
    torch.distributed.tensor.placement_types.Replicate
    torch.distributed.tensor.placement_types.Shard
    torch.distributed.tensor.placement_types._StridedShard
    """.split()
)
_TENSOR_CLASSES = re.compile(
    r"torch\.((cuda|sparse|cuda\.sparse)\.)?(BFloat16|Bool|Byte|Char|Double|Float|Half|Int|Long"
    r"|Short)Tensor\Z"
    r"|torch\.cuda\.(BFloat16|Bool|Byte|Char|ComplexDouble|ComplexFloat|Double|Float|Half|Int|Long"
    r"|Short)Storage\Z"
)

# What else torch writes into bytes entries: the sharded tensors of FSDP 1.
_OF_ENTRIES = frozenset(
    f"torch.distributed.{name}"
    for name in """
    _shard.metadata.ShardMetadata _shard.sharded_tensor.api.ShardedTensor
    _shard.sharded_tensor.api.ShardedTensor.ProcessGroupState
    _shard.sharded_tensor.metadata.ShardedTensorMetadata
    _shard.sharded_tensor.metadata.TensorProperties _shard.sharded_tensor.shard.Shard
    _shard.sharding_spec.chunk_sharding_spec.ChunkShardingSpec remote_device._remote_device
    """.split()
)

# Values of torch itself that a pickle may look up by name, beside dtypes, storages and classes.
_TORCH_CONSTANTS = re.compile(
    r"torch\.(strided|jagged|_mkldnn|sparse_(coo|csr|csc|bsr|bsc)|contiguous_format"
    r"|preserve_format|channels_last(_3d)?|Generator)\Z"
)
_NUMPY_NUMBERS = re.compile(
    r"numpy\.(bool_?|u?int(8|16|32|64)|float(16|32|64|128)|complex(64|128|256))\Z"
)
_LOOSE = re.compile(
    r"(numpy\.(u?int|float|complex)\d|numpy\.dtypes\.|torch\.return_types\.|decimal\.)"
)


def is_listed(module: str, name: str) -> bool:
    """Whether a known name is known letter by letter: that there is such a thing is certain."""
    full = f"{module}.{name}"
    if (
        _is_of_tensors(module, name)
        or (module, name) in CALLABLES
        or full in _TORCH_ENUMS | _OF_ENTRIES
    ):
        return True
    if module == "torch":
        return canonical(name) is not None or _TORCH_CONSTANTS.match(full) is not None
    if module in ("builtins", "__builtin__", "exceptions"):
        return hasattr(builtins, name) or name in ("long", "unicode", "xrange", "basestring")
    if _NUMPY_NUMBERS.match(full) or full == "decimal.Decimal":
        return True
    is_known = PAYLOAD_NAMES.match(full) or _BUILTIN.match(full) or _HELD.match(full)
    return bool(is_known) and not _LOOSE.match(full)


def _judged(module: str, name: str, use: Use, *, weights_only: bool) -> Judged:
    full = f"{module}.{name}"
    if (module, name) in CALLABLES or PAYLOAD_NAMES.match(full) or _BUILTIN.match(full):
        return "known"
    if module == "torch" and DTYPES.match(name):
        return "known"
    if (use <= Use.MADE and _HELD.match(full)) or (use != Use.CALLED and _ENUMS.match(full)):
        return "known"
    parts = name.split(".")
    root = module.partition(".")[0]
    # A dotted name walks through attributes: "torch.utils", "collect_env.subprocess.Popen".
    if root in DANGEROUS_MODULES or any(part in DANGEROUS_MODULES for part in parts[:-1]):
        return "unsafe"
    if root == "torch":
        return _torch_name(module, full, use)
    if use <= Use.MADE:
        return "known" if root in sys.stdlib_module_names else "foreign"
    if root in sys.stdlib_module_names and root not in _MAIN:
        return "unsafe"
    last = parts[-1]
    if root not in _MAIN and _DOES.search(last):
        return "unsafe"
    if weights_only:
        # torch refuses it unless its package, or the caller, has registered that very name.
        return "foreign"
    is_class = all(part.lstrip("_")[:1].isupper() for part in parts)
    plain = use == Use.CALLED_PLAIN or last.endswith(("Error", "Exception", "Warning"))
    return "foreign" if is_class and plain else "unsafe"


def _torch_name(module: str, full: str, use: Use) -> Judged:
    if use == Use.HELD or (use == Use.CALLED_PLAIN and full in _TORCH_ENUMS):
        return "known"
    if use == Use.MADE:
        return "known" if _TORCH_VALUES.match(module) else "foreign"
    return "unsafe"
