"""Which code an artifact was made with: a hash over a stage's modules and all that they import.

Prefect's own cache key looks at a task's lines only and would serve stale results after the library under it changed.
Here the library counts whole, found by the import statements themselves, so that no list of modules can fall behind.

The sources are read when this module is imported, with the code that runs: an update that comes in while an experiment
runs for days must not lend its name to what the old code made.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

LIBRARY = ("pipeline", "medgan", "classifiers")
"""Imports of these are followed. Flows arrange, log and draw: of them only what is named counts."""

CHANGES_NO_FIGURE = {
    "pipeline.records": "plain records",
    "pipeline.store": "keeps artifacts",
    "pipeline.versions": "names them",
    "classifiers.config": "settings, which are in the recipe",
    "medgan.limitations": "whom a probe concerns: the recipe holds the probes that ran",
    "medgan.verdicts": "the same",
}
"""Modules that are left out, and why: a change in them alone makes no work worth doing again."""

SILENT = (tokenize.COMMENT, tokenize.NL)
"""Tokens without a meaning."""


@cache
def code_version(*modules: str) -> str:
    """Hash of modules and all of the library that they import, directly or not; docstrings and comments left out.

    Args:
        modules: dotted names, e.g. ``"medgan.train"``; a package's name stands for all modules in it. What is imported
            by a name made at run time (:mod:`medgan.registry`) has to be named.

    Returns:
        16 hexadecimal digits. Python 3.11 gives others than its successors, which cut f-strings into more tokens.
    """
    digest = hashlib.sha256()
    for name, file in sorted(modules_behind(*modules).items()):
        digest.update(f"{name}\0{code_of(file)}\0".encode())
    return digest.hexdigest()[:16]


def modules_behind(*modules: str) -> dict[str, Path]:
    """The modules that :func:`code_version` hashes: name to source file."""
    found: dict[str, Path] = {}
    done: set[tuple[str, bool]] = set()
    todo = [(name, True) for name in modules]
    while todo:
        name, named = todo.pop()
        if (name, named) in done or name in CHANGES_NO_FIGURE:
            continue
        done.add((name, named))
        file = source_file(name)
        assert file is not None, f"no module {name}"
        found[name] = file
        if named and file.name == "__init__.py":
            todo += [(f"{name}.{inner.stem}", True) for inner in file.parent.glob("*.py") if inner != file]
            todo += [(f"{name}.{inner.parent.name}", True) for inner in file.parent.glob("*/__init__.py")]
        todo += [(other, False) for other in imports(code_of(file)) if other.split(".")[0] in LIBRARY]
    return found


@cache
def code_of(file: Path) -> str:
    """A file's :func:`source_code`."""
    return source_code(SOURCES[file] if file in SOURCES else file.read_text(encoding="utf-8"))


def source_file(name: str) -> Path | None:
    """Where a module's source is, nothing imported; None if there is no such module."""
    top, *rest = name.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin else None
    for folder in spec.submodule_search_locations or ():
        place = Path(folder).joinpath(*rest)
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return file
    return None


def imports(code: str) -> Iterator[str]:
    """Modules that a source imports, wherever the statement stands.

    Args:
        code: as :func:`source_code` gives it.
    """
    for line in code.splitlines():
        first, *tokens = line.partition(" ")[2].split("\x1f")
        if first not in ("from", "import"):
            continue
        at = tokens.index("import") if first == "from" else -1
        module = "".join(tokens[:at]) if first == "from" else ""
        assert not module.startswith("."), f"relative import of {module}: this project has none"
        for part in "\x1f".join(t for t in tokens[at + 1 :] if t not in "()").split("\x1f,"):
            name = part.strip("\x1f").split("\x1fas\x1f")[0].replace("\x1f", "")
            if name:  # none after a last comma
                inner = f"{module}.{name}" if module else name
                yield inner if not module or source_file(inner) else module


def source_code(text: str) -> str:
    """A Python source without what does not count: comments, blank lines, spacing, and strings that stand alone.

    Token by token, and not by way of ``ast``: tasks run in threads, and Python 3.11's ``ast.parse`` fails with a
    ``SystemError`` when two threads are in it and a garbage collection falls between (CPython issue 106905).

    Args:
        text: a module's source.

    Returns:
        One logical line a line: its depth of indentation, a space, its tokens with the separator U+001F between.
    """
    lines: list[str] = []
    tokens: list[str] = []
    only_strings, depth = True, 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.INDENT, tokenize.DEDENT):
            depth += 1 if token.type == tokenize.INDENT else -1
        elif token.type in (tokenize.NEWLINE, tokenize.ENDMARKER):
            if tokens and not only_strings:
                lines.append(f"{depth} " + "\x1f".join(tokens))
            tokens, only_strings = [], True
        elif token.type not in SILENT:
            tokens.append(token.string)
            only_strings = only_strings and token.type == tokenize.STRING
    return "\n".join(lines)


def _read_sources() -> dict[Path, str]:
    """Every source of the project that lies in this installation."""
    tops = [source_file(name) for name in (*LIBRARY, "flows")]
    files = [file for top in tops if top is not None for file in top.parent.rglob("*.py")]
    return {file: file.read_text(encoding="utf-8") for file in files}


SOURCES = _read_sources()
"""The project's sources as they were when this process began."""
