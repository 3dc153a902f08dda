"""THE pickle gate: pickle bytes become inert stand-ins, and nothing that they name is run.

A pickle may name any callable and have it called. Here a name is looked up in one table: the
classes that torch writes become stand-ins that only hold what they were given, a few harmless
callables (`torch.Size`, a path, an enum member) become pure functions of ours, and every other
name becomes an `Opaque` class that stores its arguments. Nothing is ever imported.

Only the standard library is used, beside the stand-ins (`stand_ins.py`), because this runs in a
child process (`child/program.py`) that starts in milliseconds and has its memory and time limited:
a pickle can still ask for a terabyte, nest a million tuples or hash for a year.
"""

from __future__ import annotations

import pickle
import re
from typing import Any, NamedTuple

from inspector.checkpoint.pickle.stand_ins import (
    BytesMeta,
    Chunk,
    DType,
    EnumClass,
    Index,
    Meta,
    NumpyDType,
    Opaque,
    Plan,
    Properties,
    SaveMeta,
    StandIn,
    Stored,
    TensorMeta,
    as_bytes,
    as_default_mapping,
    as_device,
    as_layout,
    as_mapping,
    as_path,
    as_scalar,
    as_size,
    collection_of,
)

__all__ = [
    "CALLABLES",
    "DANGEROUS_MODULES",
    "DTYPES",
    "PAYLOAD_NAMES",
    "Gate",
    "GateError",
    "Pickled",
    "judge_global",
    "load",
    "may_import",
]


class _Called(type):
    """Notes that the pickle asked for a call (REDUCE), as against making an object (NEWOBJ).

    NEWOBJ calls the class's `__new__` directly and does not pass here.
    """

    log: set[str]
    name: str

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        cls.log.add(cls.name)
        return super().__call__(*args, **kwargs)


_RECORDS: dict[str, type[StandIn]] = {
    "Metadata": Meta,
    "MCoreMetadata": Meta,
    "MetadataIndex": Index,
    "TensorStorageMetadata": TensorMeta,
    "BytesStorageMetadata": BytesMeta,
    "ChunkStorageMetadata": Chunk,
    "TensorProperties": Properties,
    "StorageMeta": SaveMeta,
    "_StorageInfo": Stored,
    **dict.fromkeys(
        "SavePlan MCoreSavePlan WriteItem TensorWriteData BytesIOWriteData".split(), Plan
    ),
}

# Where torch has had these classes, from 1.13 to 2.15; elsewhere in torch no version has them.
_TORCH_HOMES = re.compile(
    r"torch\.distributed\.(_shard\.)?checkpoint\.(metadata|filesystem|planner|storage|hf_storage)\Z"
    r"|torch\.distributed\._shard\.sharded_tensor\.metadata\Z"
)

_ENUMS = frozenset({"_MEM_FORMAT_ENCODING", "MEM_FORMAT_ENCODING", "WriteItemType"})

# Packages that write DCP metadata. Their classes are mapped by class name, whatever the module:
# torch moved its own twice, OLMo-core and Megatron-Core have copies.
_WRITERS = frozenset(
    "torch megatron olmo_core nemo composer lightning lightning_fabric torchtitan transformers "
    "accelerate verl llmfoundry torchtune torchsnapshot prime olmo".split()
)

DTYPES = re.compile(
    r"(bool|half|float|double|short|int|long|chalf|cfloat|cdouble|bfloat16|b?complex32"
    r"|complex(64|128)|u?int[1-9]\d?|float(16|32|64)|float8_\w+|float4_\w+|q?u?int(8|32|4x2|2x4)|bits\w+)\Z"
)

CALLABLES: dict[tuple[str, str], Any] = {
    ("torch", "Size"): as_size,
    ("numpy", "dtype"): NumpyDType,
    ("numpy.core.multiarray", "scalar"): as_scalar,
    ("numpy._core.multiarray", "scalar"): as_scalar,
    ("torch", "device"): as_device,
    ("torch.serialization", "_get_layout"): as_layout,
    ("_codecs", "encode"): as_bytes,
    ("collections", "OrderedDict"): as_mapping,
    ("collections", "defaultdict"): as_default_mapping,
    **{
        (module, name): maker
        for module in ("builtins", "__builtin__")
        for name, maker in {
            "set": collection_of(set),
            "frozenset": collection_of(frozenset),
            "list": collection_of(list),
            "tuple": collection_of(tuple),
            "dict": as_mapping,
            "bytes": as_bytes,
            "object": object,
        }.items()
    },
    **{
        (module, name): as_path
        for module in ("pathlib", "pathlib._local")
        for name in (
            "Path",
            "PosixPath",
            "WindowsPath",
            "PurePath",
            "PurePosixPath",
            "PureWindowsPath",
        )
    },
}

# Modules whose every name is a way to run code, reach a file or the network.
DANGEROUS_MODULES = frozenset(
    "os posix nt posixpath ntpath sys subprocess _posixsubprocess builtins __builtin__ importlib "
    "imp runpy pty socket shutil ctypes _ctypes code codeop pdb bdb timeit trace profile cProfile "
    "pickle _pickle marshal shelve dill cloudpickle joblib webbrowser platform operator _operator "
    "functools _functools types inspect multiprocessing threading _thread asyncio concurrent "
    "signal tempfile glob fnmatch io _io fileinput pathlib requests urllib http ftplib smtplib "
    "telnetlib xmlrpc ssl sqlite3 zipfile tarfile gzip bz2 lzma venv ensurepip pip setuptools "
    "distutils pkgutil zipimport pydoc doctest unittest idlelib tkinter antigravity logging "
    "commands nturl2path resource gc weakref copyreg copy_reg atexit".split()
)


class Pickled(NamedTuple):
    """What came out of the gate.

    Attributes:
        root: The unpickled object, made of stand-ins and plain values.
        names: Every known global the pickle named: class or function name to module.
        unknown: Classes that are not known, as `module.Name`; kept as `Opaque`.
        unsafe: Callables that are not allowed, as `module.name`; not called.
    """

    root: Any
    names: dict[str, str]
    unknown: tuple[str, ...]
    unsafe: tuple[str, ...]


class Gate(pickle.Unpickler):
    """An unpickler whose every global comes from the tables above."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, encoding="utf-8", errors="surrogateescape")
        self.names: dict[str, str] = {}
        self.opaque: dict[tuple[str, str], type[Opaque]] = {}
        self.called: set[str] = set()
        self.dangerous: set[str] = set()
        self.misplaced: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of `module.name`. Imports nothing, whatever is asked for."""
        last = name.rpartition(".")[2]
        root = module.partition(".")[0]
        if (module, name) in CALLABLES:
            if root != "numpy":  # which tells nothing of who wrote it
                self.names[name] = module
            return CALLABLES[module, name]
        if module == "torch" and DTYPES.match(name):
            return DType(name)
        if root in _WRITERS:
            if (last in _RECORDS or last in _ENUMS) and (
                name != last or (root == "torch" and not _TORCH_HOMES.match(module))
            ):
                self.misplaced.add(f"{module}.{name}")
            if last in _RECORDS:
                self.names[last] = module
                return _RECORDS[last]
            if last in _ENUMS:
                self.names[last] = module
                return EnumClass(last)
        if (module, name) in (("builtins", "getattr"), ("__builtin__", "getattr")):
            return self._getattr
        if module in ("copyreg", "copy_reg") and name == "_reconstructor":
            return self._reconstruct
        return self._stand_in(module, name)

    def persistent_load(self, pid: Any) -> Any:
        """Metadata has no persistent ids; a payload's storage is only described."""
        raise pickle.UnpicklingError("a persistent id, as torch.save writes")

    def _stand_in(self, module: str, name: str) -> type[Opaque]:
        if (module, name) not in self.opaque:
            full = f"{module}.{name}"
            kind: Any = _Called("Opaque", (Opaque,), {"name": full, "log": self.called})
            self.opaque[module, name] = kind
        return self.opaque[module, name]

    def _getattr(self, owner: Any, name: Any = "?", *_default: Any) -> Any:
        """Python 3.11 pickles an enum's member as `getattr(Enum, "NAME")`; nothing else may."""
        if type(owner) is EnumClass:
            return owner(name)
        self.dangerous.add("builtins.getattr")
        return None

    def _reconstruct(self, kind: Any, _base: Any = None, _state: Any = None) -> Any:
        """`copyreg._reconstructor`, how protocols 0 and 1 make an object."""
        if isinstance(kind, type) and issubclass(kind, (StandIn, Opaque)):
            new: Any = kind.__new__
            return new(kind)
        raise pickle.UnpicklingError("an object of a class that is not one")

    def result(self, root: Any) -> Pickled:
        """Sort the names that are not known into unsafe and merely unknown."""
        unsafe, unknown = set(self.dangerous), set(self.misplaced)
        for (module, name), kind in self.opaque.items():
            verdict = judge_global(module, name, called=kind.name in self.called)
            if verdict == "unsafe":
                unsafe.add(kind.name)
            elif verdict == "unknown":
                unknown.add(kind.name)
            elif module.partition(".")[0] == "torch":
                # Harmless, but the torch that reads it has to have it.
                self.names.setdefault(name, module)
        return Pickled(root, self.names, tuple(sorted(unknown)), tuple(sorted(unsafe)))


class GateError(Exception):
    """The pickle could not be read to its end; `__cause__` is what stopped it.

    `unsafe` are the disallowed callables it had named until then.
    """

    def __init__(self, unsafe: tuple[str, ...]) -> None:
        super().__init__("the pickle could not be read")
        self.unsafe = unsafe


def load(file: Any, gate: Gate | None = None) -> Pickled:
    """Unpickle one object from `file` through the gate; the file is left after its end.

    Args:
        file: Where the pickle starts: it has `read` and `readline`.
        gate: A gate on that file that does more than the plain one.

    Raises:
        GateError: Because of whatever a damaged or hostile pickle can have raised:
            `UnpicklingError`, `EOFError`, `MemoryError`, `RecursionError`, `TypeError` ...
    """
    gate = gate or Gate(file)
    try:
        root = gate.load()
    except Exception as error:
        raise GateError(gate.result(None).unsafe) from error
    return gate.result(root)


# What torch.save and ordinary Python values name in a payload. None of it runs anything of the
# pickle's choosing: torch's own rebuilders and the classes of its weights-only allow list
# (torch/_weights_only_unpickler.py), numpy's, and plain containers and values.
PAYLOAD_NAMES = re.compile(
    r"""torch\.((\w*Storage)|Tensor|Size|device|Generator|strided|(per_\w+|contiguous|preserve)\w*)\Z
    |torch\.storage\.\w*Storage\Z
    |torch\._utils\._rebuild_(tensor(_v2|_v3)?|qtensor|parameter(_with_state)?|wrapper_subclass)\Z
    |torch\._utils\._rebuild_((sparse|sparse_csr|nested|mlc|hpu)_tensor|meta_tensor_no_storage)\Z
    |torch\._utils\._rebuild_(device_tensor_from_(numpy|cpu_tensor)|xla_tensor)\Z
    |torch\._tensor\._rebuild_from_type_v2\Z
    |torch\.nn\.parameter\.(Parameter|Buffer)\Z
    |torch\.serialization\._get_layout\Z
    |numpy\.(core|_core)\.multiarray\.(_reconstruct|scalar)\Z
    |numpy\.(core|_core)\.numeric\._frombuffer\Z
    |numpy\.(ndarray|dtype|bool_?|(u?int|float|complex)\d+|dtypes\.\w+DType)\Z
    |numpy\.random\._pickle\.__(randomstate|generator|bit_generator)_ctor\Z
    |numpy\.random\.bit_generator\.(SeedSequence|__pyx_unpickle_\w+)\Z
    |numpy\.random\._(mt19937\.MT19937|pcg64\.PCG64(DXSM)?|philox\.Philox|sfc64\.SFC64)\Z
    |collections\.(OrderedDict|Counter|deque|defaultdict)\Z
    |datetime\.(datetime|date|time|timedelta|timezone)\Z
    |(decimal\.Decimal|fractions\.Fraction|uuid\.UUID|types\.SimpleNamespace)\Z
    |(_io|io)\.(BytesIO|StringIO)\Z
    |(random\.Random|argparse\.Namespace|copyreg\._reconstructor|copy_reg\._reconstructor)\Z
    |(builtins|__builtin__)\.(bytearray|int|float|complex|str|bool|range|xrange|slice)\Z
    """,
    re.VERBOSE,
)

# torch packages whose classes are mere values. Elsewhere in torch a class may start processes
# as soon as it is called (torch._inductor.compile_worker.subproc_pool.SubprocPool).
_TORCH_VALUES = re.compile(
    r"torch\.(nn|optim|distributed\.(fsdp|tensor|_tensor|_shard|_composable|checkpoint|device_mesh"
    r"|remote_device))(\.|\Z)"
)


def judge_global(module: str, name: str, *, called: bool) -> str:
    """What to think of a name in a pickle: `known`, `unknown` or `unsafe`.

    It is unsafe if its module is one of those that run things, or if the pickle has it called
    and it is no class (by its capital) of a package that writes checkpoints.

    Args:
        module: As the pickle gives it.
        name: Likewise; it may have dots.
        called: Whether the pickle calls it, as against only making an object of it.
    """
    full = f"{module}.{name}"
    if (module, name) in CALLABLES or PAYLOAD_NAMES.match(full):
        return "known"
    if module == "torch" and DTYPES.match(name):
        return "known"
    parts = name.split(".")
    # A dotted name walks through attributes: "torch.utils", "collect_env.subprocess.Popen".
    if module.partition(".")[0] in DANGEROUS_MODULES or any(
        part in DANGEROUS_MODULES for part in parts[:-1]
    ):
        return "unsafe"
    package = module.partition(".")[0]
    is_torch_value = bool(_TORCH_VALUES.match(module))
    if called:
        are_classes = all(part.lstrip("_")[:1].isupper() for part in parts)
        trusted = is_torch_value if package == "torch" else package in _WRITERS
        if not (trusted and are_classes):
            return "unsafe"
    return "known" if is_torch_value else "unknown"


def may_import(module: str, name: str) -> bool:
    """Whether torch's own unpickling of metadata may be given the thing of this name.

    Stricter than what is known: only the records of metadata in their homes, element types, and
    values and functions that run nothing of the pickle's choosing. Some classes of torch that are
    merely known here start a process when they are called.
    """
    if (module, name) in CALLABLES or PAYLOAD_NAMES.match(f"{module}.{name}"):
        return True
    root = module.partition(".")[0]
    if root == "torch":
        is_home = bool(_TORCH_HOMES.match(module))
        return (is_home and name in (*_RECORDS, *_ENUMS)) or (
            module == "torch" and bool(DTYPES.match(name))
        )
    return root in _WRITERS and name in (*_RECORDS, *_ENUMS)
