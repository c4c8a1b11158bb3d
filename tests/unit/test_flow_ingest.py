"""What a server is told when an ingest fails: the kind of error, and no file's name."""

from __future__ import annotations

import pickle
import stat
from pathlib import Path

import pytest

from flows.configuration import ExperimentConfig, load_experiment
from flows.ingest import ingest_scans
from pipeline.records import MedaugError, PrivateError
from tests.unit.test_configuration import QUICKSTART

SECRET = "DOE_JOHN"


def config_of(tmp_path: Path) -> ExperimentConfig:
    return load_experiment(QUICKSTART, runs=tmp_path / "runs")


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (OSError(116, "Stale file handle", f"/data/{SECRET}/1.dcm"), OSError, "Stale file handle"),
        (KeyError(f"/data/{SECRET}/1.dcm"), RuntimeError, "KeyError"),
    ],
)
def test_names_stay_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception], text: str
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("flows.ingest.ingest", fails)
    with pytest.raises(kind, match=text) as caught:
        ingest_scans.fn(config_of(tmp_path))
    assert SECRET not in str(caught.value)
    assert SECRET.encode() not in pickle.dumps(caught.value)
    assert caught.value.__cause__ is None
    file = tmp_path / "runs" / "private" / "ingest-error.txt"
    assert SECRET in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_detail_of_a_refusal_is_for_this_process_alone() -> None:
    error = PrivateError(f"labels: {SECRET}.dcm is not there")
    data = pickle.dumps(error)
    assert SECRET.encode() not in data
    assert pickle.loads(data).detail == error.detail  # the terminal of this process hears it all
    assert SECRET not in str(error)
    assert isinstance(error, MedaugError)
