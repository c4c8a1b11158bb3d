"""Artifacts: immutable folders, named by what they were made from, whole or absent.

An artifact is written under a temporary name, its files are hashed into ``manifest.json``, and the folder is renamed
into place last. Two hashes follow from that:

* the *recipe hash* (in the folder's name): inputs, configuration and code version, known before the work starts;
* the *digest* (in the manifest): what came out. Downstream recipes name their inputs by digest, so that re-made but
  identical inputs cause no new work.

"Done work is never redone" and "a killed run goes on where it stopped" both follow from :meth:`Store.get_or_create`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline.records import MedaugError

MANIFEST = "manifest.json"
SCHEMA = 1


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values, equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class Recipe:
    """What an artifact is made from.

    Attributes:
        kind: "dataset", "generator", "synthetic", "score", "classifier", ...; the folder the artifact lies in.
        name: for people; part of the folder's name and of nothing else.
        inputs: role → digest of an input artifact, or a fingerprint of outside data.
        config: plain JSON data.
        code: :func:`pipeline.versions.code_version` of what makes it.
    """

    kind: str
    name: str
    inputs: Mapping[str, str]
    config: Mapping[str, Any]
    code: str

    @property
    def hash(self) -> str:
        """16 hexadecimal digits; the name does not count."""
        made_from = {"kind": self.kind, "inputs": self.inputs, "config": self.config, "code": self.code}
        return hashlib.sha256(canonical_json(made_from).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Artifact:
    """A finished artifact.

    Attributes:
        path: its folder.
        manifest: the content of ``manifest.json``.
    """

    path: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path | str) -> Artifact:
        """Opens an artifact's folder.

        Raises:
            MedaugError: the folder is missing, or is not a whole artifact.
        """
        path = Path(path)
        if not path.is_dir():
            raise MedaugError(f"artifact {path}: no such folder; give the folder that holds {MANIFEST}")
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise MedaugError(f"artifact {path}: no {MANIFEST} in it, so it is no finished artifact") from None
        except json.JSONDecodeError as error:
            raise MedaugError(
                f"artifact {path}: {MANIFEST} is damaged ({error}); delete the folder, run again"
            ) from None
        if manifest.get("schema") != SCHEMA:
            raise MedaugError(f"artifact {path}: schema {manifest.get('schema')}, expected {SCHEMA}; make it again")
        return cls(path, manifest)

    @property
    def kind(self) -> str:
        """The recipe's kind."""
        return str(self.manifest["recipe"]["kind"])

    @property
    def digest(self) -> str:
        """Hash of all that the artifact holds: files and meta."""
        return str(self.manifest["digest"])

    @property
    def meta(self) -> Mapping[str, Any]:
        """What its maker wants readers to know."""
        meta: Mapping[str, Any] = self.manifest["meta"]
        return meta

    def verify(self) -> None:
        """Hashes all files again.

        Raises:
            MedaugError: a file is missing or changed.
        """
        for name, entry in self.manifest["files"].items():
            file = self.path / name
            if not file.is_file() or file_sha256(file) != entry["sha256"]:
                raise MedaugError(
                    f"artifact {self.path}: {name} is missing or was changed; delete the folder, run again"
                )


@dataclass
class Draft:
    """An artifact in the making.

    Attributes:
        folder: write the files here.
        meta: put here what readers should know; JSON data, part of the digest.
        record: put here what may differ between equal makings (wall time, device); not part of the digest.
    """

    folder: Path
    meta: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)


class Store:
    """Artifacts under one root folder: ``root/<kind>/<name>-<recipe hash>``."""

    def __init__(self, root: Path | str):
        self.root = Path(root)

    def path(self, recipe: Recipe) -> Path:
        """Where the recipe's artifact is or will be."""
        return self.root / recipe.kind / f"{recipe.name}-{recipe.hash}"

    def scratch(self, recipe: Recipe) -> Path:
        """A folder for unfinished work (checkpoints) that survives a kill and goes when the artifact is done."""
        folder = self.root / "unfinished" / f"{recipe.kind}-{recipe.name}-{recipe.hash}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def find(self, recipe: Recipe) -> Artifact | None:
        """The recipe's artifact if it is done, under whatever name."""
        for path in sorted((self.root / recipe.kind).glob(f"*-{recipe.hash}")):
            if (path / MANIFEST).is_file():
                return Artifact.open(path)
        return None

    def get_or_create(self, recipe: Recipe, build: Callable[[Draft], None]) -> Artifact:
        """The recipe's artifact; built only where it is not there yet.

        One process at a time builds a recipe; a second one waits and then finds the work done. The lock is the
        operating system's, so that it goes with a killed process.

        Args:
            recipe: what it is made from.
            build: fills :attr:`Draft.folder` and :attr:`Draft.meta`.
        """
        done = self.find(recipe)
        if done is not None:
            return done
        target = self.path(recipe)
        target.parent.mkdir(parents=True, exist_ok=True)
        locks = self.root / "unfinished"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{recipe.hash}.lock"):
            done = self.find(recipe)
            if done is not None:
                return done
            for leftover in target.parent.glob(f".*-{recipe.hash}.draft"):
                shutil.rmtree(leftover)  # of a process that was killed: we hold the lock
            draft = Draft(target.with_name(f".{target.name}.draft"))
            draft.folder.mkdir()
            try:
                build(draft)
                _write_manifest(draft, recipe)
                draft.folder.rename(target)
            finally:
                shutil.rmtree(draft.folder, ignore_errors=True)
            shutil.rmtree(locks / f"{recipe.kind}-{recipe.name}-{recipe.hash}", ignore_errors=True)
        return Artifact.open(target)


def _write_manifest(draft: Draft, recipe: Recipe) -> None:
    files = {}
    for file in sorted(draft.folder.rglob("*")):
        if file.is_file():
            name = file.relative_to(draft.folder).as_posix()
            files[name] = {"sha256": file_sha256(file), "bytes": file.stat().st_size}
    content = {"files": {name: entry["sha256"] for name, entry in files.items()}, "meta": draft.meta}
    manifest = {
        "schema": SCHEMA,
        "digest": hashlib.sha256(canonical_json(content).encode()).hexdigest()[:32],
        "recipe": {
            "kind": recipe.kind,
            "name": recipe.name,
            "hash": recipe.hash,
            "inputs": dict(recipe.inputs),
            "config": dict(recipe.config),
            "code": recipe.code,
        },
        "meta": draft.meta,
        "record": draft.record,
        "files": files,
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False)
    with (draft.folder / MANIFEST).open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
