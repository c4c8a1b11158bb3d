"""YAML configuration: presets, overlays, overrides, and errors that name the nearest key."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, ConfigDict

from pipeline.config import apply_overrides, expand_preset, merge, nearest, read_yaml, validate
from pipeline.records import MedaugError


@dataclass(frozen=True)
class Inner:
    batch: int = 32
    rate: float = 0.1
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if self.batch < 2:
            raise ValueError(f"batch: found {self.batch}, expected 2 or more")


class Outer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    inner: Inner = field(default_factory=Inner)
    items: tuple[Inner, ...] = ()


def test_merge_is_deep_and_leaves_its_inputs_alone() -> None:
    base = {"a": {"b": 1, "c": 2}, "d": [1]}
    assert merge(base, {"a": {"c": 3}, "d": [2]}) == {"a": {"b": 1, "c": 3}, "d": [2]}
    assert base == {"a": {"b": 1, "c": 2}, "d": [1]}


def test_overrides_reach_mappings_lists_presets_and_empty_entries() -> None:
    data = {"gans": {"dcgan": None}, "data": "phantom", "list": [{"x": 1}]}
    result = apply_overrides(data, ["gans.dcgan.images=100", "data.size=[32, 32]", "list.0.x=2", "new.key=true"])
    assert result == {
        "gans": {"dcgan": {"images": 100}},
        "data": {"preset": "phantom", "size": [32, 32]},
        "list": [{"x": 2}],
        "new": {"key": True},
    }
    assert data == {"gans": {"dcgan": None}, "data": "phantom", "list": [{"x": 1}]}


@pytest.mark.parametrize(
    ("override", "message"), [("seed", "expected KEY"), ("list.5.x=1", "no list.5"), ("a.b=1", "no a.b")]
)
def test_bad_overrides(override: str, message: str) -> None:
    with pytest.raises(MedaugError, match=message):
        apply_overrides({"list": [1], "a": 3}, [override])


def test_preset_beside_the_experiment_wins(tmp_path: Path) -> None:
    (tmp_path / "gan").mkdir()
    (tmp_path / "experiment").mkdir()
    (tmp_path / "gan" / "mine.yaml").write_text("images: 5\nbatch: 4\n")
    experiment = tmp_path / "experiment" / "x.yaml"
    assert expand_preset("gan", {"preset": "mine", "batch": 8}, experiment, "here") == {
        "name": "mine",
        "images": 5,
        "batch": 8,
    }


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(MedaugError, match="unknown gan 'stilegan'; did you mean 'stylegan'"):
        expand_preset("gan", "stilegan", None, "here")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "x", "iner": {}}, "here: unknown key 'iner'; did you mean 'inner'"),
        ({"name": "x", "inner": {"btach": 1}}, "unknown key 'inner.btach'; did you mean 'batch'"),
        ({"name": "x", "items": [{}, {"rat": 1}]}, "unknown key 'items.1.rat'; did you mean 'rate'"),
        ({"name": "x", "inner": {"batch": "many"}}, r"inner.batch: .*valid integer.* \(found 'many'\)"),
        ({"name": "x", "inner": {"batch": 1}}, "inner: batch: found 1, expected 2 or more"),
        ({}, "name: Field required"),
    ],
)
def test_faults_are_one_line_with_place_and_remedy(data: dict[str, Any], message: str) -> None:
    with pytest.raises(MedaugError, match=message) as caught:
        validate(Outer, data, "here")
    assert "\n" not in str(caught.value)


def test_valid_data_become_the_model() -> None:
    assert validate(Outer, {"name": "x", "items": [{"batch": 3}]}, "here").items == (Inner(batch=3),)


@pytest.mark.parametrize(
    ("text", "message"), [("a: [1", "not readable as YAML"), ("- 1", "holds list, expected a mapping")]
)
def test_unreadable_yaml(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(MedaugError, match=message):
        read_yaml(tmp_path / "x.yaml")


def test_missing_yaml(tmp_path: Path) -> None:
    with pytest.raises(MedaugError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")


def test_nearest() -> None:
    assert nearest("dcgn", ["dcgan", "pggan"]) == "; did you mean 'dcgan'?"
    assert nearest("zzz", ["dcgan"]) == ""
