"""Artifacts are whole or absent, named by what they were made from, and never made twice."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path

import pytest

from pipeline.records import MedaugError
from pipeline.store import Artifact, Draft, Recipe, Store, canonical_json

RECIPE = Recipe("thing", "first", {"in": "abc"}, {"size": 3}, "v1")


def write_text(draft: Draft) -> None:
    (draft.folder / "a.txt").write_text("hello")
    draft.meta["answer"] = 42


def test_same_recipe_is_built_once(tmp_path: Path) -> None:
    calls = []

    def build(draft: Draft) -> None:
        calls.append(1)
        write_text(draft)

    first = Store(tmp_path).get_or_create(RECIPE, build)
    second = Store(tmp_path).get_or_create(RECIPE, build)
    assert (len(calls), first.path, first.digest) == (1, second.path, second.digest)
    assert first.meta["answer"] == 42


def test_the_name_is_for_people_only(tmp_path: Path) -> None:
    renamed = Recipe("thing", "other name", RECIPE.inputs, RECIPE.config, RECIPE.code)
    assert renamed.hash == RECIPE.hash
    Store(tmp_path).get_or_create(RECIPE, write_text)
    assert Store(tmp_path).find(renamed) is not None


@pytest.mark.parametrize(
    "changed",
    [
        Recipe("other", "first", {"in": "abc"}, {"size": 3}, "v1"),
        Recipe("thing", "first", {"in": "abd"}, {"size": 3}, "v1"),
        Recipe("thing", "first", {"in": "abc"}, {"size": 4}, "v1"),
        Recipe("thing", "first", {"in": "abc"}, {"size": 3}, "v2"),
    ],
)
def test_anything_it_is_made_from_changes_the_hash(changed: Recipe) -> None:
    assert changed.hash != RECIPE.hash


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def build(draft: Draft) -> None:
        write_text(draft)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        Store(tmp_path).get_or_create(RECIPE, build)
    assert Store(tmp_path).find(RECIPE) is None
    assert [p for p in (tmp_path / "thing").iterdir()] == []


def test_leftovers_of_a_killed_process_are_cleared(tmp_path: Path) -> None:
    store = Store(tmp_path)
    leftover = tmp_path / "thing" / f".first-{RECIPE.hash}.draft"
    leftover.mkdir(parents=True)
    (leftover / "half.bin").write_bytes(b"x" * 10)
    artifact = store.get_or_create(RECIPE, write_text)
    assert sorted(artifact.manifest["files"]) == ["a.txt"]
    assert [p.name for p in (tmp_path / "thing").iterdir()] == [artifact.path.name]


def test_equal_content_has_an_equal_digest_whatever_the_recipe(tmp_path: Path) -> None:
    other = Recipe("thing", "first", {"in": "elsewhere"}, {"size": 3}, "v1")
    a = Store(tmp_path).get_or_create(RECIPE, write_text)
    b = Store(tmp_path).get_or_create(other, write_text)
    assert a.path != b.path
    assert a.digest == b.digest


def test_the_record_is_no_part_of_the_digest(tmp_path: Path) -> None:
    def build(draft: Draft) -> None:
        write_text(draft)
        draft.record["seconds"] = time.time()

    a = Store(tmp_path / "a").get_or_create(RECIPE, build)
    b = Store(tmp_path / "b").get_or_create(RECIPE, write_text)
    assert a.digest == b.digest


def test_a_changed_file_is_seen(tmp_path: Path) -> None:
    artifact = Store(tmp_path).get_or_create(RECIPE, write_text)
    artifact.verify()
    (artifact.path / "a.txt").write_text("hellp")
    with pytest.raises(MedaugError, match=r"a\.txt is missing or was changed"):
        artifact.verify()


@pytest.mark.parametrize(
    ("text", "message"), [(None, "no manifest"), ("{", "damaged"), ('{"schema": 99}', "schema 99")]
)
def test_opening_what_is_no_artifact(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(MedaugError, match=message):
        Artifact.open(tmp_path)


def test_opening_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(MedaugError, match="no such folder"):
        Artifact.open(tmp_path / "nowhere")


def _slow_build(draft: Draft) -> None:
    time.sleep(0.5)
    (draft.folder / "a.txt").write_text("hello")
    with (draft.folder.parents[1] / "calls.txt").open("a") as calls:
        calls.write("built\n")


def _work(root: str) -> None:
    Store(root).get_or_create(RECIPE, _slow_build)


def test_two_processes_build_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_work, args=(str(tmp_path),)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=30)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert (tmp_path / "calls.txt").read_text() == "built\n"


def test_canonical_json_ignores_order() -> None:
    assert canonical_json({"b": 1, "a": [1, 2]}) == canonical_json(json.loads('{"a":[1,2],"b":1}'))
