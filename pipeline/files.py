"""Files of a source: in folders and archives, listed and read. Light, since worker processes import it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MAX_BYTES = 2**31
"""Files above this are refused unread."""


class SetAside(Exception):  # noqa: N818
    """A file that is in order but no image of the kind asked for; the text is the reason, without patient data."""


class Unreadable(Exception):  # noqa: N818
    """A file that cannot be read; the text is the reason, without patient data. It is quarantined."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the source.

    Attributes:
        name: its path relative to the source, with "/" between the parts.
        path: the file itself, or the archive that holds it.
        member: its name in the archive, or None.
        size: bytes.
        modified: modification time in ns (in an archive: what changes with its content).
    """

    name: str
    path: Path
    member: str | None
    size: int
    modified: int
