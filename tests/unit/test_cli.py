"""The command's contract: exit codes, one line for bad input, one JSON object on stdout."""

from __future__ import annotations

import json
import shutil
import socket
from collections import namedtuple
from pathlib import Path

import pytest

from flows.cli import main
from tests.unit.test_configuration import QUICKSTART

Capture = pytest.CaptureFixture[str]


def refused(capsys: Capture, *arguments: str) -> str:
    """Runs the command, asserts exit code 2 and exactly one line on stderr, nothing on stdout; returns the line."""
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("medaug:")]
    assert len(lines) == 1
    assert "Traceback" not in captured.err
    assert captured.out == ""
    return lines[0]


def test_configuration_that_is_not_there(capsys: Capture, tmp_path: Path) -> None:
    assert "no such file" in refused(capsys, "run", str(tmp_path / "x.yaml"))


def test_unknown_key_names_the_nearest(capsys: Capture, tmp_path: Path) -> None:
    line = refused(capsys, "run", str(QUICKSTART), "--runs", str(tmp_path), "--set", "gan_sedes=[1]")
    assert "did you mean 'gan_seeds'" in line


def test_unknown_gan_names_the_nearest(capsys: Capture, tmp_path: Path) -> None:
    line = refused(capsys, "run", str(QUICKSTART), "--runs", str(tmp_path), "--set", "gans=[styelgan2]")
    assert "did you mean 'stylegan2'" in line


def test_a_size_no_architecture_can_make(capsys: Capture, tmp_path: Path) -> None:
    line = refused(capsys, "run", str(QUICKSTART), "--runs", str(tmp_path), "--set", "data.size=[30, 30]")
    assert "30" in line


def test_runs_folder_that_cannot_be_written(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    line = refused(capsys, "run", str(QUICKSTART), "--runs", str(tmp_path / "file" / "runs"))
    assert "not writable" in line
    assert "--runs" in line


def test_too_little_disk(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10**9, 10**9, 2**20))
    line = refused(capsys, "run", str(QUICKSTART), "--runs", str(tmp_path))
    assert "0.0 GiB free, this run needs about" in line


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_mlflow_that_does_not_answer(capsys: Capture, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    line = refused(capsys, "run", str(QUICKSTART), "--runs", str(tmp_path), "--set", f"tracking.uri={url}")
    assert f"MLflow at {url} does not answer" in line


def test_prefect_that_does_not_answer(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{closed_port()}/api"
    monkeypatch.setenv("PREFECT_API_URL", url)
    line = refused(capsys, "run", str(QUICKSTART), "--runs", str(tmp_path))
    assert f"Prefect at {url} does not answer" in line


def test_compare_before_any_run(capsys: Capture, tmp_path: Path) -> None:
    assert "no report yet" in refused(capsys, "compare", str(QUICKSTART), "--runs", str(tmp_path))


def test_synthesize_needs_somewhere_to_write(capsys: Capture, tmp_path: Path) -> None:
    assert "--out DIR is missing" in refused(capsys, "synthesize", str(tmp_path))


def test_synthesize_from_what_is_no_generator(capsys: Capture, tmp_path: Path) -> None:
    assert "0 generators there" in refused(capsys, "synthesize", str(tmp_path), "--out", str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("cron", "timezone"), [("0 2 * *", "UTC"), ("hourly please", "UTC"), ("0 2 * * *", "Mars/Olympus")]
)
def test_a_schedule_that_is_none(capsys: Capture, tmp_path: Path, cron: str, timezone: str) -> None:
    file = tmp_path / "nightly.yaml"
    file.write_text(f'name: n\nexperiment: {QUICKSTART}\ncron: "{cron}"\ntimezone: {timezone}\n')
    assert "is no schedule" in refused(capsys, "serve", str(file), "--runs", str(tmp_path / "runs"))


def test_usage_faults_exit_with_2(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["frobnicate"])
    assert caught.value.code == 2
    assert "invalid choice" in capsys.readouterr().err


def test_json_refusal_is_one_object(capsys: Capture, tmp_path: Path) -> None:
    assert main(["compare", str(QUICKSTART), "--runs", str(tmp_path), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["status"] == "refused"


def test_phantom_writes_dicom_and_labels(capsys: Capture, tmp_path: Path) -> None:
    folder = tmp_path / "phantoms"
    arguments = ["phantom", str(folder), "--patients", "9", "--size", "32", "--json"]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["labels"] == str(folder / "labels.csv")
    files = [line.split(",")[0] for line in (folder / "labels.csv").read_text().splitlines()[1:]]
    assert len(files) >= 18
    assert all((Path(result["data"]) / file).is_file() for file in files)
    assert main(arguments) == 2


def test_doctor_finds_nothing_wrong(capsys: Capture, tmp_path: Path) -> None:
    assert main(["doctor", "--runs", str(tmp_path), "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert findings["problems"] == []
    assert {"torch", "mlflow", "prefect"} <= set(findings["versions"])
