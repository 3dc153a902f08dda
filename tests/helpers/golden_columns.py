"""What the reader makes of golden metadata files, as digests.

    python -m tests.helpers.golden_columns

The cache keeps what the reader made under a number, `cache.SCHEMA`. Whoever changes what it makes
raises that number and writes the digests anew; a test says when that is due.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inspector.checkpoint.child import cache
from inspector.checkpoint.child.isolated import Child
from inspector.checkpoint.child.process import Server
from inspector.errors import MetadataError

ROOT = Path(__file__).parents[2]
FILE = ROOT / "tests" / "data" / "columns.json"
FOLDERS = ("tests/data/golden", "sample_ckpts/names_hostile_1", "sample_ckpts/fsdp2_tp_2x2")


def digests() -> dict[str, str]:
    """By path of the metadata file: a digest of the header and of every column."""
    with Server():
        return {
            path.relative_to(ROOT).as_posix(): _digest(path)
            for folder in FOLDERS
            for path in sorted((ROOT / folder).rglob(".metadata"))
        }


def _digest(path: Path) -> str:
    try:
        header, columns = Child([str(path)], [None], path.stat().st_size).result()
    except MetadataError as error:
        return f"{error.code}: {error.message}"
    header = {name: value for name, value in header.items() if name != "digest"}
    digest = hashlib.sha256(
        json.dumps(header, sort_keys=True, default=_plain).encode("utf-8", "surrogatepass")
    )
    for name in sorted(columns):
        digest.update(f"{name} {columns[name].dtype} {columns[name].shape}".encode())
        digest.update(columns[name].tobytes())
    return digest.hexdigest()[:24]


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value)


def main() -> None:
    """Write them down."""
    document = {"schema": cache.SCHEMA, "columns": digests()}
    FILE.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
