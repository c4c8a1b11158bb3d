"""A DICOMweb server as a source: a mirror of what it lists, in the private folder.

A file in the mirror is whole: it is written under another name and renamed. So a second run fetches only what is new,
and one that was interrupted goes on. Two configurations of one server share the files; what a search no longer lists is
left where it is and is no part of the source.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pipeline.config import nearest
from pipeline.files import OF_THE_FILE, Entry, Refusal, SetAside, Unreadable
from pipeline.records import MedaugError, Progress

HEX_TAG = re.compile(r"[0-9A-Fa-f]{8}")
UID = re.compile(r"[0-9][0-9.]{0,63}")
STALE = 24 * 3600.0
"""Seconds after which an unfinished file is nobody's any more."""


class DicomWebConfig(BaseModel):
    """Which instances of a DICOMweb server are the source; credentials come from the environment alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(
        description="address of the DICOMweb service, e.g. https://pacs.example/dicom-web; no password in it"
    )
    filters: dict[str, str] = Field(
        default={}, description="DICOM keyword: value that instances must have, e.g. Modality: CT"
    )
    study: str | None = Field(default=None, description="Study Instance UID, for one study alone")
    series: str | None = Field(default=None, description="Series Instance UID, for one series alone")
    limit: int | None = Field(default=None, ge=1, description="the most instances to take")

    @field_validator("url")
    @classmethod
    def _without_secrets(cls, url: str) -> str:
        # Refused later, by mirror(): a validator's error quotes its input. Until then nothing secret is kept, since
        # configurations are written into trackers.
        return re.sub(r"(?s)[?#].*$", "?***", re.sub(r"(?s)^(\w+://)?.*@", r"\1***@", url.strip()))


def mirror(config: DicomWebConfig, private: Path, progress: Progress) -> tuple[Path, list[Entry]]:
    """Fetches what a server lists and the mirror lacks.

    Args:
        config: which server, and which of its instances.
        private: the mirror is made in a folder under it (mode 0700, files 0600, named by a hash of their UID).
        progress: told after each instance.

    Returns:
        The mirror's folder, and an entry for each instance listed, by name; unreadable where the server refused it.

    Raises:
        MedaugError: the configuration is wrong, or the server does not answer.
        OSError: the disk fails or is full.
    """
    url = _address(config.url)
    filters = {_known(keyword): value for keyword, value in config.filters.items()}
    for name, uid in (("study", config.study), ("series", config.series)):
        if uid is not None and not UID.fullmatch(uid):
            raise MedaugError(f"source.dicomweb.{name}: no UID; expected digits and dots, at most 64")
    from pipeline.dicom.server import Server

    server = Server(url)
    listed = server.search(filters, config.study, config.series, config.limit)
    folder = _private_folder(private, url)
    entries = []
    for done, (instance, uids) in enumerate(listed.items(), start=1):
        name = hashlib.sha256(instance.encode()).hexdigest()
        file = folder / name
        refusal: Refusal | None = None
        if uids is None:
            refusal = "unreadable", "the server lists it without valid UIDs"
        elif not file.is_file():
            try:
                _keep(server.instance(uids), file)
            except Unreadable as reason:
                refusal = "unreadable", str(reason)
            except SetAside as reason:
                refusal = "set aside", str(reason)
        size = 0 if refusal else file.stat().st_size
        # No modification time: a mirror that was made anew holds the same source.
        entries.append(Entry(name, file, None, size, 0, refusal=refusal))
        progress(done, len(listed))
    return folder, sorted(entries, key=lambda entry: entry.name)


def _address(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if "@" in url:
        raise MedaugError(
            "source.dicomweb.url: holds a user's name or a password; take them out, and set MEDAUG_DICOMWEB_USER and "
            "MEDAUG_DICOMWEB_PASSWORD, or MEDAUG_DICOMWEB_TOKEN, in the environment"
        )
    if not usable or "?" in url:
        raise MedaugError(
            "source.dicomweb.url: expected http(s)://HOST[:PORT]/PATH of the DICOMweb service and nothing behind it"
        )
    return url.rstrip("/")


def _known(keyword: str) -> str:
    """A keyword (or eight hexadecimal digits) of the DICOM dictionary; those of items have dots between."""
    from pydicom.datadict import DicomDictionary, dictionary_has_tag, tag_for_keyword

    for part in keyword.split("."):
        known = part and tag_for_keyword(part) is not None
        if not known and not (HEX_TAG.fullmatch(part) and dictionary_has_tag(int(part, 16))):
            guess = nearest(part, (entry[4] for entry in DicomDictionary.values()))
            raise MedaugError(f"source.dicomweb.filters: unknown keyword {part[:64]!r}{guess}; expected one of DICOM's")
    return keyword


def _private_folder(private: Path, url: str) -> Path:
    folder = private / "dicomweb" / hashlib.sha256(url.encode()).hexdigest()[:16]
    try:
        private.mkdir(parents=True, exist_ok=True, mode=0o700)
        for part in (folder.parent, folder):
            part.mkdir(exist_ok=True, mode=0o700)
            part.chmod(0o700)
    except OSError as error:
        if error.errno not in (*OF_THE_FILE, errno.EEXIST, errno.EROFS):
            raise
        raise MedaugError(f"folder {folder}: {error.strerror}; expected a folder that can be written") from None
    for left in folder.glob(".*.part"):
        with suppress(FileNotFoundError):  # another run cleans up as well
            if time.time() - left.stat().st_mtime > STALE:
                left.unlink()
    return folder


def _keep(data: memoryview, file: Path) -> None:
    """Writes a file that is there whole or not at all, even after a power failure."""
    draft = file.with_name(f".{file.name}.{secrets.token_hex(6)}.part")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        draft.rename(file)
    finally:
        draft.unlink(missing_ok=True)
