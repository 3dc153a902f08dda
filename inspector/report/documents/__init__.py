"""What every `--json` document holds, as types: of these the schemas in `docs/json/` are made.

No command imports them. The type checker holds what writes a document against its type, and a test
what was written. Fields are added, never renamed or dropped.
"""
