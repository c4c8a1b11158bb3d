"""A run leaves no identifier of a patient and no file name outside its private folder, and says none."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import os
import sqlite3
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless

from pipeline.dicom.deidentify import Keys
from pipeline.dicom.export import export_deidentified
from tests.unit.dicom_files import make, to_bytes
from tests.unit.identifiers import DATES, ENCODINGS, STEM, found, marker, search, search_folder, uid

PATIENTS = 14
SETTINGS = {
    "name": "private",
    "data": {
        "preset": "folder",
        "window": "chest_wide",
        "size": [16, 16],
        "labels": {"by": "file"},
        "split": {"train": 0.4, "validation": 0.35},  # with fewer validation images no DICOM would be written
    },
    "gans": {
        "dcgan": {
            "images": 32,
            "batch": 8,
            "snapshots": 1,
            "architecture": {"base_channels": 128, "max_channels": 16},
        }
    },
    "extractor": {"preset": "resnet", "steps": 4, "evaluate_every": 2},
    "synthesis": {"per_class": 48, "dicom": 2},
    "classifiers": {"resnet": {"steps": 4, "evaluate_every": 2}},
    "classification": {"seeds": [0], "resamples": 2000},
}


def scan(patient: int, number: int = 0, frames: int = 3, **changes: object) -> Dataset:
    """A readable file all of whose identifying attributes are marked; the same numbers give the same pixels."""
    rng = np.random.default_rng(100 * patient + number)
    pixels = rng.integers(0, 2000, (frames, 16, 16)).astype("u2")
    request = Dataset()
    request.RequestedProcedureID = marker("REQ", patient)
    other = Dataset()
    other.PatientID = marker("OTH", patient)
    identities = {
        "PatientName": f"{marker('NAME', patient)}^Given",
        "PatientID": marker("ID", patient),
        "IssuerOfPatientID": marker("ISSUER"),
        "OtherPatientIDs": marker("OTHERID", patient),
        "OtherPatientIDsSequence": Sequence([other]),
        "PatientBirthDate": DATES[0],
        "PatientAddress": marker("ADDRESS", patient),
        "PatientComments": marker("COMMENT", patient),
        "AccessionNumber": marker("ACC", patient),
        "StudyID": marker("SID", patient),
        "StudyDate": DATES[1],
        "StudyDescription": marker("STUDY", patient),
        # These go with the class, as when one hospital's scans are the ill ones: whoever reports that must not quote.
        "SeriesDescription": marker("SERIES", patient % 2),
        "InstitutionName": marker("HOSPITAL", patient % 2),
        "ReferringPhysicianName": marker("REFERRER"),
        "OperatorsName": marker("OPERATOR"),
        "StationName": marker("ST", patient % 2),
        "ImageComments": marker("IMAGE", patient),
        "RequestAttributesSequence": Sequence([request]),
        "StudyInstanceUID": uid(1, patient),
        "SeriesInstanceUID": uid(2, patient),
        "SOPInstanceUID": uid(3, patient, number),
        "FrameOfReferenceUID": uid(4, patient),
    }
    ds = make(pixels, 12, **{**identities, **changes})
    block = ds.private_block(0x0009, marker("VENDOR"), create=True)
    block.add_new(0x01, "LO", marker("PRIVATE", patient))
    return ds


def damaged() -> dict[str, bytes]:
    """Files that make readers complain, and quote what they complain about; the names say what is wrong."""
    patient = 90
    whole = to_bytes(scan(patient, number=1))
    slope = whole.index(b"\x28\x00\x53\x10DS")  # Rescale Slope
    unknown = scan(patient, number=2)
    unknown.file_meta.TransferSyntaxUID = uid(5, 1)
    unknown_syntax = io.BytesIO()
    unknown.save_as(unknown_syntax, implicit_vr=False, little_endian=True)
    broken = scan(patient, number=3, PixelData=encapsulate([marker("CODE").encode()] * 3))
    broken["PixelData"].VR = "OB"
    broken.file_meta.TransferSyntaxUID = JPEG2000Lossless
    files = {
        "syntax": unknown_syntax.getvalue(),
        "codestream": to_bytes(broken),
        "cut": whole[:-700],
        "half": whole[: len(whole) // 3],
        "length": whole[: slope + 6] + b"\xff\x7f" + whole[slope + 8 :],
        "text": b"dear " + marker("LETTER").encode() + b", your scans are ready",
    }
    # A value in place of another of the same length, as no writer would write it.
    replaced = {
        "slope": ("1.2345678901234", marker("SLO.2.3"), {"RescaleSlope": "1.2345678901234"}),
        "intercept": ("-1024.25", marker("IN"), {"RescaleIntercept": "-1024.25"}),
        "window": ("40.123456789", marker("WIN.23"), {"WindowCenter": "40.123456789", "WindowWidth": "400"}),
        "spacing": ("0.7812345678", marker("SPACE"), {"PixelSpacing": ["0.7812345678", "0.7812345678"]}),
        "date": (DATES[1], marker("DA"), {}),
        "charset": ("ISO_IR 100", marker("CSET"), {"SpecificCharacterSet": "ISO_IR 100"}),
        "photometric": ("MONOCHROME2", marker("PHOT"), {}),
        "modality": ("OTHERMODALITY", marker("MODAL"), {"Modality": "OTHERMODALITY"}),
        "frames": ("0000000003", marker("FRAM"), {"NumberOfFrames": "0000000003"}),
    }
    for number, (name, (old, new, changes)) in enumerate(replaced.items(), start=4):
        data = to_bytes(scan(patient, number, **changes))
        assert old.encode() in data, name
        files[name] = data.replace(old.encode(), new.encode().ljust(len(old)))
    return files


@dataclass
class Finished:
    """A run: where it worked, and what it said."""

    home: Path
    runs: Path
    code: int
    out: str
    err: str


def archive(root: Path) -> Path:
    """A folder whose files' and folders' names are marked as well; labels beside it."""
    rows = []
    for patient in range(PATIENTS):
        folder = root / "scans" / f"{marker('FOLDER', patient)}_{DATES[0]}" / marker("study")
        folder.mkdir(parents=True)
        for number in range(2):
            path = folder / f"{marker('file', patient)}-{number}.dcm"
            path.write_bytes(to_bytes(scan(patient, number)))
            rows.append((path, ("ill", "well")[patient % 2]))
    first = rows[0][0]
    for name, data in damaged().items():
        path = root / "scans" / marker("odd") / f"{marker(name)}.dcm"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        rows.append((path, "ill"))
    copy = first.with_name(f"{marker('copy')}.dcm")  # byte for byte
    copy.write_bytes(first.read_bytes())
    clash = first.with_name(f"{marker('clash')}.dcm")  # the same pixels under another patient and label
    clash.write_bytes(to_bytes(scan(3, 1, PatientID=marker("ID", 50), SOPInstanceUID=uid(3, 50, 0))))
    rows += [(copy, "ill"), (clash, "ill")]
    for number in range(2):
        unlabelled = root / "scans" / f"{marker('unlabelled', number)}.dcm"
        unlabelled.write_bytes(to_bytes(scan(60 + number)))
    with (root / "labels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("file", "label"))
        writer.writerows((path.relative_to(root / "scans").as_posix(), label) for path, label in rows)
    return root


def start(root: Path) -> subprocess.Popen[str]:
    """The command as a user gives it, with home and temporary folder of its own: they are looked through as well."""
    home, file = root / "home", root / "private.yaml"
    (home / "tmp").mkdir(parents=True)
    file.write_text(yaml.safe_dump(SETTINGS))
    left_out = ("PREFECT_HOME", "PREFECT_API_URL", "MLFLOW_TRACKING_URI", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {"HOME": str(home), "TMPDIR": str(home / "tmp")}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2])}
    arguments = ["--data", str(root / "scans"), "--labels", str(root / "labels.csv"), "--runs", str(home / "runs")]
    command = [sys.executable, "-m", "flows.cli", "run", str(file), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, cwd=home)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Finished, Finished]:
    """Two runs at once, as each spends half its time on starting Prefect: a whole one, and one to be refused."""
    roots = [archive(tmp_path_factory.mktemp(name)) for name in ("whole", "refused")]
    labels = roots[1] / "labels.csv"
    labels.write_text(labels.read_text() + f"{marker('missing')}/Smith.dcm,ill\n")
    processes = [start(root) for root in roots]
    try:
        said = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    codes = [process.returncode for process in processes]
    whole, refused = (
        Finished(root / "home", root / "home" / "runs", code, *texts)
        for root, code, texts in zip(roots, codes, said, strict=True)
    )
    return whole, refused


@pytest.fixture(scope="module")
def finished(both: tuple[Finished, Finished]) -> Finished:
    """A whole run over the marked archive."""
    assert both[0].code == 0, both[0].out + both[0].err[-3000:]
    return both[0]


@pytest.fixture(scope="module")
def refused(both: tuple[Finished, Finished]) -> Finished:
    """A run whose labels name a file that is not there."""
    assert both[1].code == 2, both[1].out + both[1].err[-3000:]
    return both[1]


def sqlite(value: str) -> bytes:
    """A database file with a value so long that its page cannot hold it whole."""
    path = Path(os.environ["PREFECT_HOME"]) / "planted.db"
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as database:
        database.execute("create table planted (value text)")
        database.execute("insert into planted values (?)", ["-" * 4010 + value + "-" * 5000])
    data = path.read_bytes()
    path.unlink()
    return data


def zipped(name: str, data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return stream.getvalue()


def arrays(value: str) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, names=np.array([value, "other"]))
    return stream.getvalue()


def table(value: str) -> bytes:
    stream = io.BytesIO()
    pd.DataFrame({"column": [value] * 50}).to_parquet(stream, compression="zstd")
    return stream.getvalue()


HIDING: dict[str, Callable[[str], bytes]] = {
    "utf-8": lambda value: f"before {value} after".encode(),
    "utf-16-le": lambda value: f"before {value} after".encode("utf-16-le"),
    "utf-16-be": lambda value: b"\0" + f"before {value} after".encode("utf-16-be"),
    "lower case": lambda value: value.lower().encode(),
    "json": lambda value: json.dumps({"key": value}).replace("Z", "\\u005a").replace("9", "\\u0039").encode(),
    "base64": lambda value: b'{"result": "' + base64.b64encode(b"\x80\x05 pickled " + value.encode()) + b'"}',
    "gzip": lambda value: gzip.compress(value.encode()),
    "zip": lambda value: zipped("inside.txt", f"{value} {value} {value}".encode()),
    "name in a zip": lambda value: zipped(value, b"."),
    "npz": arrays,
    "parquet": table,
    "sqlite": sqlite,
    "npz in a zip": lambda value: zipped("inside.npz", arrays(value)),
}


@pytest.mark.parametrize("where", HIDING)
@pytest.mark.parametrize("value", [marker("NAME", 3), uid(1, 2), DATES[0]])
def test_the_search_finds_what_is_hidden(where: str, value: str) -> None:
    assert list(search("file", HIDING[where](value)))
    assert not list(search("file", HIDING[where]("Harmless 1.2.840.10008.5.1.4.1.1.2 2019-07-11")))


def test_the_search_reads_names_and_takes_no_fraction_for_a_date(tmp_path: Path) -> None:
    (tmp_path / "folder" / marker("x")).mkdir(parents=True)
    assert len(search_folder(tmp_path)) == 1
    assert search_folder(tmp_path, without=tmp_path / "folder") == []
    assert found(f"0.123{DATES[0]}4 {DATES[1]}55".encode()) == []
    assert len(found(f"on {DATES[0]}, {DATES[1][:4]}-{DATES[1][4:6]}-{DATES[1][6:]}".encode())) == 2
    assert set(ENCODINGS) >= {"utf-8", "utf-16-le"}


def test_the_archive_is_what_the_run_was_meant_to_meet(finished: Finished) -> None:
    """Without damaged, doubled and unlabelled files read, and without names to hide, the other tests prove nothing."""
    (manifest,) = (finished.runs / "artifacts" / "dataset").glob("*/manifest.json")
    tally = json.loads(manifest.read_text())["meta"]["found"]
    assert tally["files"] == 2 * PATIENTS + len(damaged()) + 4
    assert tally["kept"] >= 2 * PATIENTS - 1
    assert tally["duplicates"] >= 1
    assert tally["quarantined"] >= 3
    assert tally["set_aside"] >= 2
    assert tally["unlabelled"] == 2
    assert any(STEM in hit for hit in search_folder(finished.runs / "private")), "the table back to the files"
    kinds = {path.suffix for path in finished.runs.rglob("*") if path.is_file()}
    assert {".json", ".parquet", ".npy", ".safetensors", ".dcm", ".html", ".db"} <= kinds
    assert (finished.runs / "prefect").is_dir()


def test_a_run_leaves_no_identifier_outside_its_private_folder(finished: Finished) -> None:
    assert search_folder(finished.home, without=finished.runs / "private") == []


def test_a_successful_run_says_no_identifier(finished: Finished) -> None:
    assert list(search("stdout", finished.out.encode())) == []
    assert list(search("stderr", finished.err.encode())) == []


def test_a_refused_run_names_files_to_the_user_alone(refused: Finished) -> None:
    assert marker("missing") in refused.err, "the user must learn which file is missing"
    assert list(search("stdout", refused.out.encode())) == []
    assert (refused.runs / "prefect").is_dir()
    assert search_folder(refused.home, without=refused.runs / "private") == []


def test_exports_and_datasets_share_their_pseudonyms(finished: Finished, tmp_path: Path) -> None:
    """Under the run's key, a de-identified export names each patient as the dataset artifact does."""
    keys = Keys.load(finished.runs / "private")
    scans = sorted((finished.home.parent / "scans").rglob("*.dcm"))
    result = export_deidentified([(path.name, path.read_bytes()) for path in scans], keys, tmp_path / "out")
    (slices,) = finished.runs.glob("artifacts/dataset/*/slices.parquet")
    patients = set(pd.read_parquet(slices)["patient"])
    assert len(patients) >= PATIENTS - 1
    assert patients <= {path.name for path in (tmp_path / "out").iterdir()}
    assert result.written >= 2 * PATIENTS
    hits = [hit for hit in search_folder(tmp_path / "out") if marker("CODE") not in hit]  # planted into the pixels
    assert hits == []


def test_the_private_folder_is_the_owners_alone(finished: Finished) -> None:
    private = finished.runs / "private"
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [private, *private.rglob("*")]}
    assert len(modes) >= 3, "the key and the table"
    assert {path.name: oct(mode) for path, mode in modes.items() if mode != (0o700 if path.is_dir() else 0o600)} == {}
