"""Keyed hashes in place of identities: what the artifacts, logs and reports may hold of patients and files."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from pipeline.records import MedaugError

KEY_FILE = "hmac.key"


@dataclass(frozen=True)
class Keys:
    """HMAC-SHA256 (RFC 2104) under a key that stays in the private folder.

    Without the key nobody can try patient numbers until one fits, as one can with a plain hash.

    Attributes:
        secret: 32 bytes.
    """

    secret: bytes

    @classmethod
    def load(cls, private: Path) -> Keys:
        """Reads the key file; makes it on first use, with mode 0600.

        Raises:
            MedaugError: the folder cannot be written or the file is no key.
        """
        file = private / KEY_FILE
        try:
            private.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not file.is_file():
                _create(file)
            secret = bytes.fromhex(file.read_text(encoding="ascii").strip())
        except OSError as error:
            raise MedaugError(f"key file {file}: {error.strerror}; expected a folder that can be written") from None
        except ValueError:
            secret = b""
        if len(secret) != 32:
            raise MedaugError(
                f"key file {file}: expected 64 hexadecimal digits; restore it, or delete it and ingest anew"
            )
        return cls(secret)

    @property
    def fingerprint(self) -> str:
        """Tells keys apart without giving them away."""
        return self("key", "fingerprint")

    def __call__(self, role: str, identity: str) -> str:
        """The keyed hash of an identity: 20 hexadecimal digits (80 bits).

        Args:
            role: "patient", "study" or "file": equal texts in different roles get different hashes.
            identity: the text to hide.
        """
        return self._digest(role, identity).hex()[:20]

    def uid(self, identity: str) -> str:
        """The UID that stands for another, the same in every file and every run.

        Args:
            identity: the UID to hide.

        Returns:
            "2.25." and a UUID as a decimal number (PS3.5 B.2); its version is 8, which leaves the other bits to the
            maker (RFC 9562 5.8).
        """
        digest = bytearray(self._digest("uid", identity)[:16])
        digest[6] = 0x80 | digest[6] & 0x0F
        digest[8] = 0x80 | digest[8] & 0x3F
        return f"2.25.{int.from_bytes(digest, 'big')}"

    def _digest(self, role: str, identity: str) -> bytes:
        text = f"{role}\0{identity}".encode("utf-8", "surrogateescape")
        return hmac.new(self.secret, text, hashlib.sha256).digest()


def _create(file: Path) -> None:
    """Writes a new key under another name and links it into place: of two processes, one wins and both use its key."""
    draft = file.with_name(f".{file.name}.{secrets.token_hex(6)}")
    with open_private(draft) as stream:
        stream.write(secrets.token_hex(32) + "\n")
    try:
        os.link(draft, file)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def open_private(file: Path) -> TextIO:
    """Opens a text file for writing that only its owner can read (mode 0600)."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.fchmod(descriptor, 0o600)
    return os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="")
