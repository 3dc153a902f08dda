"""What a name in a payload's pickle may do: nothing, want a package, or run code.

`dcp.load` unpickles bytes entries with `weights_only=False`, so that whatever they call is called;
tensors with `weights_only=True`, which refuses a class until its package has registered it. A name
that is only held, or of which only an object is made, runs nothing of the pickle's choosing; one
that is called does. Which calls are ordinary values is listed here by full name: torch's own from
the pickles that torch 1.13 to 2.15 write, its enums by walking torch 2.13.
"""

from __future__ import annotations

import functools
import re
import sys
from enum import IntEnum
from typing import Literal

from inspector.checkpoint.pickle.gate import CALLABLES, DANGEROUS_MODULES, DTYPES, PAYLOAD_NAMES

__all__ = ["CALLS_ITS_ARGUMENTS", "MAKES_A_CALLABLE", "Judged", "Use", "judge_name"]

Judged = Literal["known", "foreign", "unsafe"]


class Use(IntEnum):
    """What a pickle does with a name, the worst last."""

    HELD = 0
    MADE = 1
    CALLED_PLAIN = 2  # with one short literal, as the member of an enum is written
    CALLED = 3


#: Known callables that call what they are given; so that counts as called, too.
CALLS_ITS_ARGUMENTS = frozenset(
    {
        "torch._tensor._rebuild_from_type_v2",
        "numpy.random._pickle.__randomstate_ctor",
        "numpy.random._pickle.__generator_ctor",
        "numpy.random._pickle.__bit_generator_ctor",
        "numpy.ma.core._mareconstruct",
        "builtins.iter",
        "__builtin__.iter",
        "itertools.chain",
        "itertools.cycle",
        "itertools.islice",
    }
)

#: Known callables that give something that can be called, and call nothing themselves.
MAKES_A_CALLABLE = frozenset(
    {
        "functools.partial",
        "operator.attrgetter",
        "operator.itemgetter",
        "_operator.attrgetter",
        "_operator.itemgetter",
    }
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
    """Whether a name may stand in a tensor's pickle."""
    full = f"{module}.{name}"
    if (module, name) in CALLABLES or PAYLOAD_NAMES.match(full) or _BUILTIN.match(full):
        return True
    return (module == "torch" and bool(DTYPES.match(name))) or bool(_TORCH_VALUES.match(module))


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
