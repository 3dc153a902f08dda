"""JSON Schemas of what the commands print, made of the types in `inspector/report/documents/`.

`python -m tests.helpers.schemas` writes them to `docs/json/`. They allow fields that they do not
know, since later versions add some; `fault` does not.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import msgspec

from inspector.report.documents import check, show, values, verification
from inspector.report.documents.check import (
    WATCH_EVENTS,
    CheckDocument,
    CheckRunDocument,
    PlanDocument,
    PlanStagesDocument,
)
from inspector.report.documents.show import ShowDocument, ShowFolderDocument
from inspector.report.documents.values import (
    DiffDocument,
    ExportDocument,
    RepairDocument,
    SealDocument,
    StatsDocument,
)
from inspector.report.documents.verification import EVENTS, READ_EVENTS, VerifyReport

FOLDER = Path(__file__).parents[2] / "docs" / "json"

#: The type of every document, by the name of its schema.
DOCUMENTS: dict[str, type[Any]] = {
    "show": ShowDocument,
    "show-folder": ShowFolderDocument,
    "check": CheckDocument,
    "check-run": CheckRunDocument,
    "plan": PlanDocument,
    "plan-stages": PlanStagesDocument,
    "stats": StatsDocument,
    "diff": DiffDocument,
    "seal": SealDocument,
    "export": ExportDocument,
    "repair": RepairDocument,
    "verify-report": VerifyReport,
}


#: Values that a document holds as they are: all their fields are told, those with a default too.
VALUES = {
    kind.__name__
    for module in (check, show, values, verification)
    for kind in vars(module).values()
    if isinstance(kind, type) and dataclasses.is_dataclass(kind)
}


def schemas() -> dict[str, str]:
    """The text of every schema, by the name of its file."""
    made = {name: msgspec.json.schema(kind) for name, kind in DOCUMENTS.items()}
    groups = {"verify-event": EVENTS, "read-event": READ_EVENTS, "watch-event": WATCH_EVENTS}
    for name, kinds in groups.items():
        events, parts = msgspec.json.schema_components(
            kinds.values(), ref_template="#/$defs/{name}"
        )
        made[name] = {"anyOf": list(events), "$defs": parts}
    for schema in made.values():
        for name in VALUES & schema["$defs"].keys():
            fields = schema["$defs"][name]["properties"]
            schema["$defs"][name]["required"] = list(fields)
            for field in fields.values():
                field.pop("default", None)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {
        f"{name}.json": json.dumps({**head, "title": name, **schema}, indent=1) + "\n"
        for name, schema in made.items()
    }


def fault(document: Any, kind: type[Any]) -> str:
    """What is wrong with a document of a type; empty if every field is known, and none missing."""
    try:
        known = msgspec.to_builtins(msgspec.convert(document, kind, strict=True))
    except msgspec.ValidationError as error:
        return str(error)
    return _unknown(document, json.loads(json.dumps(known)), "$")


def _unknown(document: Any, known: Any, where: str) -> str:
    """The first field that `convert` dropped, since the type does not have it."""
    if isinstance(document, dict):
        for key, value in document.items():
            if key not in known:
                return f"{where}.{key} is in no schema"
            if found := _unknown(value, known[key], f"{where}.{key}"):
                return found
    elif isinstance(document, list):
        for n, value in enumerate(document):
            if found := _unknown(value, known[n], f"{where}[{n}]"):
                return found
    return "" if document == known else f"{where} is {document!a}, not {known!a}"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in schemas().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
