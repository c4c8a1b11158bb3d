"""What an artifact's code version is taken from: every module that its figures are made with."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import pipeline
from flows import scorecard, train_gan

ROOT = Path(pipeline.__file__).parents[1]
SOURCES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for top in ("medgan", "pipeline", "classifiers", "flows")
    for file in (ROOT / top).rglob("*.py")
}
CHANGES_NO_FIGURE = {
    "medgan": "names of what others define",
    "pipeline.records": "plain records",
    "pipeline.store": "keeps artifacts",
    "classifiers.config": "settings, which are in the recipe",
    "medgan.limitations": "whom a probe concerns: the recipe holds the probes that ran",
    "medgan.verdicts": "the same",
}


def imported(name: str) -> set[str]:
    """The project's modules that a module imports, but for types alone."""
    found: set[str] = set()
    todo: list[ast.AST] = [ast.parse(SOURCES[name].read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in SOURCES else node.module for name in whole}
        todo += ast.iter_child_nodes(node)
    return found & set(SOURCES)


@pytest.mark.parametrize("stage", [train_gan, scorecard])
def test_what_listed_modules_import_is_listed(stage) -> None:
    listed = {name for name in SOURCES for one in stage.CODE if name == one or name.startswith(f"{one}.")}
    assert stage.__name__ in listed
    # of flows only what makes figures is listed: the rest logs and draws bars
    used = {name for one in listed for name in imported(one) if not name.startswith("flows.")}
    assert used - listed - set(CHANGES_NO_FIGURE) == set()
