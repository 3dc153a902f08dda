"""What a file is that stands in the place of a checkpoint's, by its first bytes.

The rule this module keeps: bytes that a file of a checkpoint may begin with name nothing.
"""

from __future__ import annotations

__all__ = ["COMPRESSED", "SIGNATURES", "UNPACK", "foreign_kind"]

UNPACK = "unpack it, under the same name, and check again"

#: First bytes, what begins so, and what to do. Sources: the Git LFS specification, RFC 1952 and
#: 8878, the formats of xz, bzip2 and LZ4 frames.
SIGNATURES = (
    (b"version https://git-lfs", "a Git LFS pointer", "fetch the file itself: git lfs pull"),
    (b"<", "an HTML or XML page", "the download went wrong: fetch the file again"),
    (b"\x1f\x8b", "gzip data", UNPACK),
    (b"\x28\xb5\x2f\xfd", "zstandard data", UNPACK),
    (b"\xfd7zXZ\0", "xz data", UNPACK),
    (b"BZh", "bzip2 data", UNPACK),
    (b"\x04\x22\x4d\x18", "LZ4 data", UNPACK),
)
#: What the tools that compress a file put behind its name.
COMPRESSED = (".gz", ".zst", ".xz", ".bz2", ".lz4")


def foreign_kind(start: bytes) -> tuple[str, str] | None:
    """What a file is that stands in the place of a data file, and what to do; None if unknown.

    Args:
        start: Its first bytes, 64 at the least if it has so many.
    """
    for signature, what, hint in SIGNATURES:
        # A page has no zeros; a safetensors blob, whose length may begin as one, has.
        if start.startswith(signature) and not (signature == b"<" and b"\0" in start):
            return what, hint
    return None
