"""The mirror against a real server: Orthanc with its DICOMweb plugin, started for these tests on this machine alone.

Needs Debian's packages orthanc and orthanc-dicomweb. Run with: pytest -m service tests/integration/test_orthanc.py
"""

from __future__ import annotations

import io
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian, JPEGLSLossless, RLELossless

from pipeline.dicom import server
from pipeline.dicom.web import DicomWebConfig, mirror
from pipeline.records import MedaugError
from pipeline.sources import SourceConfig, open_source
from tests.unit.dicom_files import make, to_bytes

pytestmark = pytest.mark.service

PLUGINS = (Path("/usr/share/orthanc/plugins"), Path("/usr/lib/orthanc"), Path("/usr/local/share/orthanc/plugins"))
USER, PASSWORD = "medaug", "s3cret"


def _plugin() -> Path | None:
    found = [file for folder in PLUGINS for file in sorted(folder.glob("libOrthancDicomWeb.so*"))]
    return found[0] if found else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server's address; it keeps its files in a folder of this test run, and ends with it."""
    program = shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    plugin = _plugin()
    if program is None or plugin is None:
        pytest.skip("Orthanc or its DICOMweb plugin is not installed (Debian: orthanc, orthanc-dicomweb)")
    folder, port = tmp_path_factory.mktemp("orthanc"), _free_port()
    settings = {
        "Name": "medaug's tests",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,  # loopback alone
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "Plugins": [str(plugin)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log, cwd=folder)
    try:
        _await(f"http://127.0.0.1:{port}", process, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        if process.poll() is not None:
            break
        try:
            if requests.get(f"{url}/dicom-web/studies", auth=(USER, PASSWORD), timeout=5).status_code == 200:
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.1)
    pytest.fail(f"Orthanc did not start: {log.read_text(errors='replace')[-2000:]}")


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the server; and short waits."""
    monkeypatch.setenv(server.USER, USER)
    monkeypatch.setenv(server.PASSWORD, PASSWORD)
    monkeypatch.delenv(server.TOKEN, raising=False)
    monkeypatch.setattr(server, "WAIT", 0.1)


def slices(patient: str) -> list[Dataset]:
    """Six slices in four transfer syntaxes, whose pixels differ."""
    rng = np.random.default_rng(0)
    made = [make(rng.integers(0, 2000, (16, 16), "u2"), PatientID=patient, BodyPartExamined="CHEST") for _ in range(6)]
    made[1].file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    made[2].compress(RLELossless, generate_instance_uid=False)
    made[3].compress(JPEGLSLossless, generate_instance_uid=False)
    return made


def upload(url: str, *datasets: Dataset) -> None:
    for ds in datasets:
        answer = requests.post(f"{url}/instances", data=to_bytes(ds), auth=(USER, PASSWORD), timeout=20)
        answer.raise_for_status()


def mirrored(url: str, private: Path, **config: object) -> dict[str, Dataset]:
    """SOP Instance UID → what the mirror holds of it."""
    _, entries = mirror(DicomWebConfig.model_validate({"url": f"{url}/dicom-web", **config}), private, lambda *_: None)
    read = [dcmread(io.BytesIO(entry.read())) for entry in entries]
    return {ds.SOPInstanceUID: ds for ds in read}


def written(private: Path) -> dict[str, tuple[int, int]]:
    """What tells a file that was fetched again from one that was left alone."""
    files = (file for file in private.rglob("*") if file.is_file())
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def test_a_mirror_holds_what_the_server_holds_and_grows_with_it(
    orthanc: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PAGE", 4)  # so that there are two
    made = slices("mirror")
    upload(orthanc, *made, make(np.zeros((16, 16), "u2"), PatientID="another"))
    held = mirrored(orthanc, tmp_path, filters={"PatientID": "mirror"})
    assert set(held) == {ds.SOPInstanceUID for ds in made}
    for ds in made:
        copy = held[ds.SOPInstanceUID]
        assert copy.file_meta.TransferSyntaxUID == ds.file_meta.TransferSyntaxUID  # as it is stored
        assert copy.PixelData == ds.PixelData
        np.testing.assert_array_equal(copy.pixel_array, ds.pixel_array)

    before = written(tmp_path)
    assert len(before) == 6
    new = make(np.ones((16, 16), "u2"), PatientID="mirror")
    upload(orthanc, new)
    assert set(mirrored(orthanc, tmp_path, filters={"PatientID": "mirror"})) == {*held, new.SOPInstanceUID}
    after = written(tmp_path)
    assert len(after) == 7
    assert before.items() <= after.items()


def test_a_study_and_a_series_alone(orthanc: str, tmp_path: Path) -> None:
    made = slices("by uid")[:2]
    upload(orthanc, *made)
    one = made[0]
    for config in (
        {"study": one.StudyInstanceUID},
        {"series": one.SeriesInstanceUID},
        {"study": one.StudyInstanceUID, "series": one.SeriesInstanceUID},
        {"filters": {"StudyInstanceUID": one.StudyInstanceUID}},
    ):
        assert set(mirrored(orthanc, tmp_path, **config)) == {one.SOPInstanceUID}


def test_what_is_deleted_is_no_longer_listed(orthanc: str, tmp_path: Path) -> None:
    made = slices("deleted")[:2]
    upload(orthanc, *made)
    assert len(mirrored(orthanc, tmp_path, filters={"PatientID": "deleted"})) == 2
    found = requests.post(
        f"{orthanc}/tools/lookup", data=made[0].SOPInstanceUID, auth=(USER, PASSWORD), timeout=20
    ).json()
    instance = next(each["Path"] for each in found if each["Type"] == "Instance")
    requests.delete(f"{orthanc}{instance}", auth=(USER, PASSWORD), timeout=20).raise_for_status()
    assert set(mirrored(orthanc, tmp_path, filters={"PatientID": "deleted"})) == {made[1].SOPInstanceUID}


def test_a_limit(orthanc: str, tmp_path: Path) -> None:
    upload(orthanc, *slices("limit"))
    assert len(mirrored(orthanc, tmp_path, filters={"PatientID": "limit"}, limit=4)) == 4


@pytest.mark.parametrize("password", ["wr0ng", None])
def test_a_wrong_password_and_none_are_one_clear_line(
    orthanc: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str | None
) -> None:
    if password is None:
        monkeypatch.delenv(server.USER)
        monkeypatch.delenv(server.PASSWORD)
    else:
        monkeypatch.setenv(server.PASSWORD, password)
    config = SourceConfig.model_validate({"dicomweb": {"url": f"{orthanc}/dicom-web"}})
    with pytest.raises(MedaugError) as error:
        open_source(config, tmp_path, tmp_path, None, lambda *_: None)
    expected = "asks for credentials" if password is None else "did not accept the credentials"
    assert str(error.value).startswith(f"dicomweb {orthanc}/dicom-web: {expected} (HTTP 401); ")
    assert "\n" not in str(error.value)
    assert "wr0ng" not in str(error.value)


def test_an_address_beside_the_service_is_one_clear_line(orthanc: str, tmp_path: Path) -> None:
    with pytest.raises(MedaugError, match=r"refused the search \(HTTP 404\); check the address"):
        mirror(DicomWebConfig(url=f"{orthanc}/nowhere"), tmp_path, lambda *_: None)
