"""The child process that writes a `.metadata` anew: `python rewriter.py`, a request on stdin.

It reads the old one into torch's own classes, changes what it is told and pickles the whole, so
that the new file is as torch writes it. Nothing but the classes below is ever imported for the
pickle: it comes from outside, and was let through the gate before. Run by path, alone; the package
is not imported.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import sys
from collections.abc import Mapping
from typing import Any

_CLASSES = {
    "torch": re.compile(
        r"Size|bool|half|float|double|short|int|long|bfloat16|complex(32|64|128)|u?int\d{1,2}"
        r"|float(16|32|64)|float8_\w+|float4_\w+|q?u?int(8|32|4x2|2x4)|bits\w+"
    ),
    "torch.serialization": re.compile("_get_layout"),
    "torch.distributed.checkpoint.metadata": re.compile(
        "Metadata|MetadataIndex|TensorStorageMetadata|BytesStorageMetadata|ChunkStorageMetadata"
        "|TensorProperties|StorageMeta|_MEM_FORMAT_ENCODING"
    ),
    "torch.distributed.checkpoint.filesystem": re.compile("_StorageInfo"),
    "torch.distributed._shard.sharded_tensor.metadata": re.compile(
        "TensorProperties|MEM_FORMAT_ENCODING"
    ),
    "collections": re.compile("OrderedDict"),
    "pathlib": re.compile("(Pure)?PosixPath"),
    "pathlib._local": re.compile("(Pure)?PosixPath"),
    "builtins": re.compile("set|frozenset"),
    "_codecs": re.compile("encode"),
}


class RefusedError(Exception):
    """The metadata is not as it can be written anew."""


class _Unpickler(pickle.Unpickler):
    """Makes torch's own classes, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = _CLASSES.get(module)
        if allowed is None or not allowed.fullmatch(name):
            raise RefusedError(
                f"it holds {module[:80]}.{name[:80]}, which nothing here would import"
            )
        if module == "pathlib._local" and sys.version_info < (3, 13):
            module = "pathlib"
        return super().find_class(module, name)


def _limit(cpu_s: int) -> None:
    try:
        import resource  # lazy: not every system has it
    except ImportError:
        return
    for name, value in (("RLIMIT_CPU", cpu_s), ("RLIMIT_CORE", 0)):
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(kind, (value, hard))


def _edit(metadata: Any, edits: list[Mapping[str, Any]]) -> None:
    import torch  # lazy: the path of modules is put right first
    from torch.distributed.checkpoint.filesystem import _StorageInfo  # lazy: as above

    # lazy: as above
    from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex

    wanted = {edit["fqn"] for edit in edits}
    transforms: dict[str, Any] = {}
    for key in [key for key in metadata.storage_data if key.fqn in wanted]:
        info = metadata.storage_data.pop(key)
        transforms[key.fqn] = getattr(info, "transform_descriptors", None)

    def stored(fqn: str, part: Mapping[str, Any], given: list[str] | None) -> Any:
        info = _StorageInfo(part["file"], part["byte_offset"], part["byte_length"])
        kept = transforms.get(fqn) if given is None else given
        if kept:
            info.transform_descriptors = list(kept)
        return info

    for edit in edits:
        fqn, entry = edit["fqn"], metadata.state_dict_metadata[edit["fqn"]]
        given = edit["transforms"]
        if "chunks" not in edit:
            metadata.storage_data[MetadataIndex(fqn)] = stored(fqn, edit, given)
            continue
        entry.chunks = [
            ChunkStorageMetadata(torch.Size(c["offsets"]), torch.Size(c["sizes"]))
            for c in edit["chunks"]
        ]
        if edit["dtype"] is not None:
            entry.properties.dtype = getattr(torch, edit["dtype"])
        for chunk in edit["chunks"]:
            if chunk["byte_length"] >= 0:
                index = MetadataIndex(fqn, torch.Size(chunk["offsets"]))
                metadata.storage_data[index] = stored(fqn, chunk, given)


def main() -> None:
    """Answer the request on stdin with one line of JSON on stdout."""
    request = json.loads(sys.stdin.buffer.read())
    _limit(request["cpu_s"])
    # As a script it is started from its own folder, whose files are no modules of anyone.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [part for part in sys.path if part and os.path.abspath(part) != here]
    answer: dict[str, Any]
    try:
        import torch  # lazy: the path of modules is put right first
        from torch.distributed.checkpoint.metadata import Metadata, StorageMeta  # lazy: as above

        with open(request["source"], "rb") as file:
            metadata = _Unpickler(file).load()
        if type(metadata) is not Metadata:
            raise RefusedError("it holds no Metadata of torch's")
        _edit(metadata, request["edits"])
        other = getattr(metadata, "storage_meta", None)
        if request["is_other_save"] and other is not None:
            metadata.storage_meta = StorageMeta()
        with open(request["target"], "xb") as file:
            pickle.dump(metadata, file)
            file.flush()
            os.fsync(file.fileno())
        answer = {"torch": str(torch.__version__)}
    except RefusedError as error:
        answer = {"refused": str(error)}
    except Exception as error:
        answer = {"failed": f"{type(error).__name__}: {error}"[:500]}
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
