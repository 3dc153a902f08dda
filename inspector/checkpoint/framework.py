"""Which framework wrote a checkpoint: a name, and the evidence that a person can check.

The rule this module keeps: a framework is certain only by what it alone writes (its classes in
the pickle, its own metadata file, its version in a file); names of folders and keys are evidence,
and said to be no more. What lies beside the folder, and small files in it, are looked at on a
local disk alone, so that a remote checkpoint costs no request more.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from functools import cached_property
from typing import Any

from inspector.checkpoint.child.names import first_parts
from inspector.checkpoint.model import Checkpoint, Framework
from inspector.checkpoint.storage.base import Entry, Storage
from inspector.checkpoint.storage.local import LocalStorage
from inspector.checkpoint.text import printable
from inspector.errors import StorageError

__all__ = ["recognise"]

_MAX_SMALL_FILE = 1 << 20
_MAX_VERSION = 40
# Names that are looked at where all begin alike.
_LOOK_AT = 1000
# LLaMA-Factory's, in the folder of its run.
_TRAINER_LOG = "trainer_log.jsonl"


class _Traces:
    """What a checkpoint's folder and names show; looked at only when asked for."""

    def __init__(self, checkpoint: Checkpoint, storage: Storage) -> None:
        self.checkpoint = checkpoint
        self.stored = checkpoint.stored
        self._storage = storage
        path = storage.local_path("")
        # Made absolute, and its links not followed: it is the name the user sees that tells.
        self._path = None if path is None else os.path.abspath(path)
        self.folder = re.split(r"[/\\]", (self._path or storage.root).rstrip("/\\"))[-1]
        self.files = checkpoint.folder_files.keys()
        provenance = checkpoint.provenance
        self.classes = (*provenance.classes, *checkpoint.unknown_globals)
        self.fields = provenance.fields

    @property
    def is_local(self) -> bool:
        return self._path is not None

    @cached_property
    def heads(self) -> frozenset[str]:
        """What stands before the first dot of the entries' names."""
        return first_parts(self.checkpoint.columns.fqns) | first_parts(
            [entry.fqn for entry in self.checkpoint.bytes_entries]
        )

    @cached_property
    def beside(self) -> dict[str, Entry]:
        """What lies beside the folder, by name."""
        return {} if self._path is None else _listed(LocalStorage(os.path.dirname(self._path)))

    @cached_property
    def above(self) -> dict[str, Entry]:
        """What lies beside the folder that the folder lies in, by name."""
        if self._path is None:
            return {}
        parent = os.path.dirname(self._path)
        return _listed(LocalStorage(os.path.dirname(parent)))

    @cached_property
    def folders(self) -> frozenset[str]:
        """The folders in it, by name."""
        entries = _listed(self._storage).values() if self.is_local else ()
        return frozenset(e.name for e in entries if e.kind == "folder")

    @property
    def parent(self) -> str:
        """The name of the folder that it lies in, or an empty string."""
        return "" if self._path is None else os.path.basename(os.path.dirname(self._path))

    def has_beside(self, pattern: str) -> str:
        """A name beside the folder that a pattern matches, or an empty string."""
        return next((name for name in sorted(self.beside) if re.fullmatch(pattern, name)), "")

    def content_beside(self, name: str) -> bytes:
        """A small file beside the folder, or nothing."""
        entry = self.beside.get(name)
        if self._path is None or entry is None or (entry.num_bytes or 0) > _MAX_SMALL_FILE:
            return b""
        beside = LocalStorage(os.path.dirname(self._path))
        return _small_file(beside, name) if entry.kind == "file" else b""

    def class_of(self, package: str) -> str:
        """A class of a package in the pickle, or an empty string."""
        names = (c for c in self.classes if c.partition(".")[0] == package)
        return next(names, "")

    def content(self, name: str) -> bytes:
        """A small file of the folder, or nothing."""
        size = self.checkpoint.folder_files.get(name)
        if not self.is_local or size is None or size > _MAX_SMALL_FILE:
            return b""
        return _small_file(self._storage, name)

    def json(self, name: str) -> dict[str, Any]:
        """A small JSON object of the folder; an empty one if it is none."""
        return _object(self.content(name))

    def swift_version(self) -> str:
        """What `args.json`, in the folder or beside it, says of ms-swift's version, or nothing."""
        for content in (self.content("args.json"), self.content_beside("args.json")):
            version = _object(content).get("swift_version")
            if type(version) is str:
                return printable(version, _MAX_VERSION)
        return ""


def _listed(storage: Storage) -> dict[str, Entry]:
    """What a folder holds, by name; nothing if it cannot be listed."""
    try:
        return {entry.name: entry for entry in storage.list()}
    except StorageError:
        return {}


def _small_file(storage: Storage, name: str) -> bytes:
    """What a small file holds; nothing if it cannot be read."""
    try:
        return storage.read(name, 0, _MAX_SMALL_FILE)
    except StorageError:
        return b""


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content.decode() or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if type(value) is dict else {}


def recognise(checkpoint: Checkpoint, storage: Storage) -> Framework:
    """Who wrote a checkpoint."""
    traces = _Traces(checkpoint, storage)
    rules = _SAFETENSORS if checkpoint.format == "safetensors" else _DCP
    for rule in rules:
        found = rule(traces)
        if found is not None:
            return found
    raise AssertionError("the last rule always holds")


# -- DCP ---------------------------------------------------------------------------------------


def _megatron(traces: _Traces) -> Framework | None:
    evidence, certain = [], False
    known = traces.class_of("megatron")
    if known:
        evidence.append(f"the metadata holds {printable(known, 120)}")
        certain = True
    for name in ("mcore_data", "all_local_plans"):
        if name in traces.fields:
            evidence.append(f"the metadata has the field {name}, which Megatron-Core adds")
            certain = True
    about = traces.json("metadata.json")
    backend = about.get("sharded_backend")
    if type(backend) is str:
        version = str(about.get("sharded_backend_version", "?"))[:8]
        shown = printable(f"{backend[:40]}, version {version}")
        evidence.append(f"metadata.json names its sharded backend: {shown}")
        certain = True
    elif not evidence and not {"metadata.json", "common.pt"} <= traces.files:
        return None
    evidence += [f"{n} is there" for n in ("common.pt", ".metadata.bck") if n in traces.files]
    if re.fullmatch(r"iter_\d{7,}", traces.folder):
        evidence.append(f"its folder is called {traces.folder}")
    if "latest_checkpointed_iteration.txt" in traces.beside:
        evidence.append("latest_checkpointed_iteration.txt lies beside its folder")
    if traces.folder == "weights" and "context" in traces.beside:
        evidence.insert(0, "its folder is called weights, and context lies beside it")
        return Framework("NeMo (Megatron-Core)", tuple(evidence), certain)
    swift = traces.swift_version()
    if swift:
        evidence.insert(0, f"args.json names swift_version {swift}")
        return Framework("ms-swift (Megatron-Core)", tuple(evidence), True)
    if traces.folder == "dist_ckpt" and "huggingface" in traces.beside:
        evidence.insert(0, "its folder is called dist_ckpt, and huggingface lies beside it")
        return Framework("verl (Megatron-Core)", tuple(evidence), False)
    return Framework("Megatron-Core", tuple(evidence), certain)


def _olmo(traces: _Traces) -> Framework | None:
    known = traces.class_of("olmo_core")
    evidence = [f"the metadata holds {printable(known, 120)}"] if known else []
    inner = traces.folder == "model_and_optim"
    if inner:
        evidence.append("its folder is called model_and_optim")
    if inner and "train" in traces.beside:
        evidence.append("train lies beside it")
    if inner and ".metadata.json" in traces.beside:
        evidence.append(".metadata.json lies beside it")
    return Framework("OLMo-core", tuple(evidence), bool(known)) if evidence else None


def _lightning(traces: _Traces) -> Framework | None:
    if "meta.pt" not in traces.files:
        return None
    evidence = ["meta.pt lies beside .metadata, by which Lightning knows its sharded checkpoints"]
    content = traces.content("meta.pt")
    if b"pytorch-lightning_version" in content:
        evidence.append("meta.pt names a pytorch-lightning_version, as the Trainer writes it")
    return Framework("Lightning", tuple(evidence), True)


def _accelerate(traces: _Traces) -> Framework | None:
    part = re.fullmatch(r"(pytorch_model_fsdp|optimizer)_\d+", traces.folder)
    if part is None:
        return None
    evidence = [f"its folder is called {traces.folder}"]
    head = "model" if part[1] == "pytorch_model_fsdp" else "optimizer"
    fits = traces.heads == {head}
    if fits:
        evidence.append(f"every name begins with {head}.")
    swift = traces.swift_version()
    if swift:
        evidence.append(f"args.json beside it names swift_version {swift}")
        return Framework("ms-swift (Accelerate)", tuple(evidence), True)
    if _TRAINER_LOG in traces.beside or _TRAINER_LOG in traces.above:
        evidence.append(f"{_TRAINER_LOG} lies near it, as LLaMA-Factory writes it")
        return Framework("LLaMA-Factory (Accelerate)", tuple(evidence), False)
    other = "optimizer" if head == "model" else "pytorch_model_fsdp"
    sibling = traces.has_beside(rf"{other}_\d+")
    if sibling:
        evidence.append(f"{sibling} lies beside it")
    if "trainer_state.json" in traces.beside:
        evidence.append("trainer_state.json lies beside it, as the Trainer writes it")
        return Framework("Transformers (Accelerate)", tuple(evidence), fits)
    state = traces.has_beside(r"random_states_\d+\.pkl")
    if state:
        evidence.append(f"{state} lies beside it")
    return Framework("Accelerate", tuple(evidence), fits and bool(state))


def _torchtitan(traces: _Traces) -> Framework | None:
    if not re.fullmatch(r"step-\d+", traces.folder):
        return None
    own = sorted(traces.heads & {"train_state", "lr_scheduler", "dataloader"})
    if not own or "model" in traces.heads:
        return None
    evidence = [
        f"its folder is called {traces.folder}",
        f"{', '.join(own)} and optimizer stand beside the model's own names"
        if "optimizer" in traces.heads
        else f"{', '.join(own)} stand beside the model's own names",
    ]
    certain = {"train_state", "optimizer"} <= traces.heads and len(own) > 1
    return Framework("torchtitan", tuple(evidence), certain)


def _composer(traces: _Traces) -> Framework | None:
    is_named = bool(re.fullmatch(r"ep\d+-ba\d+(-rank\d+)?", traces.folder))
    fqns = traces.checkpoint.columns.fqns[:_LOOK_AT]
    is_keyed = any(fqn.startswith("state.model.") for fqn in fqns)
    if not (is_named or is_keyed):
        return None
    evidence = [f"its folder is called {traces.folder}"] if is_named else []
    if is_keyed:
        evidence.append("its parameters are called state.model.*")
    return Framework("Composer", tuple(evidence), is_named and is_keyed)


def _fairchem(traces: _Traces) -> Framework | None:
    if "resume.yaml" not in traces.files or "unit_state" not in traces.heads:
        return None
    evidence = ["resume.yaml lies in it, and its names begin with unit_state."]
    named = b"fairchem" in traces.content("resume.yaml")
    if named:
        evidence.append("resume.yaml names fairchem")
    return Framework("fairchem", tuple(evidence), named)


def _modalities(traces: _Traces) -> Framework | None:
    if not re.fullmatch(r"eid_.+-seen_steps_\d+-seen_tokens_\d+.*", traces.folder, re.S):
        return None
    evidence = [f"its folder is called {printable(traces.folder, 120)}"]
    if traces.heads == {"app"}:
        evidence.append("every name begins with app.")
    if "last_checkpoint_info.json" in traces.beside:
        evidence.append("last_checkpoint_info.json lies beside it")
    return Framework("modalities", tuple(evidence), False)


def _veomni(traces: _Traces) -> Framework | None:
    step = r"global_step_\d+"
    if re.fullmatch(step, traces.folder) and "extra_state" in traces.folders:
        where = f"its folder is called {traces.folder}, and extra_state lies in it"
    elif (
        traces.folder in ("model", "optimizer")
        and re.fullmatch(step, traces.parent)
        and "extra_state" in traces.beside
    ):
        where = f"it lies in {traces.parent}, with extra_state beside it"
    else:
        return None
    return Framework("VeOmni", (where,), False)


def _llama_factory(traces: _Traces) -> Framework | None:
    if traces.folder not in ("model", "optimizer") or "CHECKPOINT_COMPLETE" not in traces.beside:
        return None
    evidence = [f"its folder is called {traces.folder}, and CHECKPOINT_COMPLETE lies beside it"]
    also = [name for name in ("rng_state", "dataloader", "scheduler.pt") if name in traces.beside]
    if also:
        evidence.append(f"{', '.join(also)} lie beside it" if also[1:] else f"{also[0]} too")
    return Framework("LLaMA-Factory", tuple(evidence), False)


def _automodel(traces: _Traces) -> Framework | None:
    """NeMo AutoModel: `epoch_0_step_9/model`, safetensors or DCP, and `epoch_0_step_9/optim`."""
    step = r"epoch_\d+_step_\d+"
    if traces.folder not in ("model", "optim") or not re.fullmatch(step, traces.parent):
        return None
    evidence = [f"it is called {traces.folder}, and lies in {traces.parent}"]
    if "losses.json" in traces.beside:
        evidence.append("losses.json lies beside it")
    named = b"nemo_automodel" in traces.content_beside("config.yaml")
    if named:
        evidence.append("config.yaml beside it names nemo_automodel")
    return Framework("NeMo AutoModel", tuple(evidence), named)


def _cosmos(traces: _Traces) -> Framework | None:
    part = traces.folder in ("model", "optim", "scheduler", "trainer")
    if not part or not re.fullmatch(r"iter_\d{9}", traces.parent):
        return None
    evidence = [f"it is called {traces.folder}, and lies in {traces.parent}"]
    if "latest_checkpoint.txt" in traces.above:
        evidence.append(f"latest_checkpoint.txt lies beside {traces.parent}")
    evidence.append("NVIDIA's other Cosmos frameworks write the same")
    return Framework("cosmos-rl", tuple(evidence), False)


def _transformers_optimizer(traces: _Traces) -> Framework | None:
    shards = traces.has_beside(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
    version = _object(traces.content_beside("config.json")).get("transformers_version")
    if not shards or type(version) is not str or traces.heads != {"optimizer"}:
        return None
    shown = printable(version, _MAX_VERSION)
    evidence = f"{shards} and config.json lie beside it, which names transformers_version {shown}"
    return Framework("Transformers", (evidence,), True)


def _plain(traces: _Traces) -> Framework:
    where = "name" if traces.is_local else "name (what lies beside the folder was not looked at)"
    evidence = (f"no other framework's file, folder or {where} is there",)
    return Framework("torch.distributed.checkpoint", evidence, False)


# -- safetensors -------------------------------------------------------------------------------


def _transformers_shards(traces: _Traces) -> Framework | None:
    stored = traces.stored
    version = traces.json("config.json").get("transformers_version")
    if stored is None or not stored.is_sharded or type(version) is not str:
        return None
    evidence = (
        f"config.json names transformers_version {printable(version, _MAX_VERSION)}",
        "the headers hold DCP_SHARDING_INFO: written through DCP's HuggingFaceStorageWriter",
    )
    return Framework("Transformers", evidence, True)


def _trainers_of_transformers(traces: _Traces) -> Framework | None:
    """What trains with transformers, and leaves files of its own beside the model's."""
    swift = traces.swift_version()
    if swift:
        return Framework("ms-swift", (f"args.json names swift_version {swift}",), True)
    if _TRAINER_LOG in traces.files or _TRAINER_LOG in traces.beside:
        evidence = f"{_TRAINER_LOG} is there, as LLaMA-Factory writes it"
        return Framework("LLaMA-Factory", (evidence,), False)
    if traces.folder == "huggingface" and "config.json" in traces.files:
        near = traces.has_beside(
            r"fsdp_config\.json|dist_ckpt|(model|optim|extra_state)_world_size_\d+_rank_\d+\.pt"
        )
        if near:
            evidence = f"its folder is called huggingface, and {near} lies beside it"
            return Framework("verl", (evidence,), False)
    is_step = re.fullmatch(r"step_\d+", traces.folder) and traces.parent == "safetensors"
    if is_step and "checkpoints" in traces.above:
        evidence = f"it is safetensors/{traces.folder}, and checkpoints lies beside safetensors"
        return Framework("cosmos-rl", (evidence,), False)
    return None


def _by_dcp(traces: _Traces) -> Framework | None:
    stored = traces.stored
    if stored is None:
        return None
    evidence = []
    if stored.is_sharded or "DCP_VERSION" in stored.metadata:
        version = printable(stored.metadata.get("DCP_VERSION", "?"), _MAX_VERSION)
        evidence.append(f"the headers hold DCP_SHARDING_INFO, DCP_VERSION {version}")
    elif stored.has_shards_below and not stored.metadata:
        evidence.append("the folder sharded lies in it, whose files it was put together from")
        evidence.append("its headers have no __metadata__, which consolidation drops")
    else:
        return None
    name = "DCP's HuggingFaceStorageWriter"
    is_step = re.fullmatch(r"step-\d+", traces.folder)
    if is_step:
        evidence.append(f"its folder is called {traces.folder}, as torchtitan's are")
    return Framework(name, tuple(evidence), "DCP_VERSION" in stored.metadata)


def _hugging_face(traces: _Traces) -> Framework | None:
    adapter = "adapter_config.json" in traces.files
    for name, key, framework in (
        ("config.json", "_diffusers_version", "Diffusers"),
        ("config.json", "transformers_version", "Transformers"),
    ):
        version = traces.json(name).get(key)
        if type(version) is str and not adapter:
            evidence = [f"{name} names {key} {printable(version, _MAX_VERSION)}"]
            if traces.stored and traces.stored.metadata.get("format") == "pt":
                evidence.append("the headers say format: pt")
            return Framework(framework, tuple(evidence), True)
    if adapter:
        return Framework("PEFT", ("adapter_config.json is there",), False)
    if traces.stored and traces.stored.metadata.get("format") == "pt":
        evidence = ["the headers say format: pt, as transformers and others write it"]
        if "config.json" in traces.files:
            evidence.append("config.json is there")
        return Framework("Hugging Face", tuple(evidence), False)
    return None


def _plain_safetensors(traces: _Traces) -> Framework:
    evidence = ("neither the headers nor the files beside them name a framework",)
    return Framework("safetensors", evidence, False)


Rule = Callable[[_Traces], "Framework | None"]
_DCP: tuple[Rule, ...] = (
    _megatron,
    _olmo,
    _lightning,
    _accelerate,
    _transformers_optimizer,
    _fairchem,
    _modalities,
    _automodel,
    _veomni,
    _llama_factory,
    _cosmos,
    _torchtitan,
    _composer,
    _plain,
)
_SAFETENSORS: tuple[Rule, ...] = (
    _transformers_shards,
    _automodel,
    _trainers_of_transformers,
    _by_dcp,
    _hugging_face,
    _plain_safetensors,
)
