import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.fileset import FileSet

from pipeline.dicom.directory import find_directory
from pipeline.files import Unreadable, list_entries
from pipeline.records import MedaugError
from tests.unit.dicom_files import make, save

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR CS")  # which the tests write on purpose


def series(count):
    """Slices of one patient in one series."""
    made = [make(np.full((4, 4), number, "u2"), PatientID="P1", InstanceNumber=number) for number in range(count)]
    for ds in made[1:]:
        ds.StudyInstanceUID, ds.SeriesInstanceUID = made[0].StudyInstanceUID, made[0].SeriesInstanceUID
    for ds in made:
        ds.StudyDate, ds.StudyTime, ds.StudyID, ds.SeriesNumber, ds.AccessionNumber = "20200101", "120000", "1", 1, ""
    return made


@pytest.fixture
def disc(tmp_path):
    """A disc of four images as pydicom writes it, and what its files hold."""
    file_set = FileSet()
    for ds in series(4):
        file_set.add(ds)
    file_set.write(tmp_path / "disc")
    return tmp_path / "disc", [
        "/".join(image.ReferencedFileID) for image in images_of(dcmread(tmp_path / "disc/DICOMDIR"))
    ]


def images_of(directory):
    return [record for record in directory.DirectoryRecordSequence if record.DirectoryRecordType == "IMAGE"]


def rewrite(disc, *changes):
    """Changes the DICOMDIR's IMAGE records, one function a record; keeps the others."""
    ds = dcmread(disc / "DICOMDIR")
    for record, change in zip(images_of(ds), changes, strict=False):
        change(record)
    ds.save_as(disc / "DICOMDIR")


def refers_to(value):
    def change(record):
        record.ReferencedFileID = value

    return change


def reason(entry):
    with pytest.raises(Unreadable) as error:
        entry.read()
    return str(error.value)


def test_the_images_that_are_listed_and_no_others(disc):
    folder, names = disc
    save(make(np.zeros((4, 4), "u2")), folder / "not_listed")
    entries = list_entries(folder / "DICOMDIR")
    assert [entry.name for entry in entries] == sorted(names)
    assert len(names) == 4
    assert {entry.name: entry.read() for entry in entries} == {name: (folder / name).read_bytes() for name in names}


def test_a_folder_stays_a_folder(disc):
    folder, names = disc
    save(make(np.zeros((4, 4), "u2")), folder / "not_listed")
    assert [entry.name for entry in list_entries(folder)] == sorted([*names, "DICOMDIR", "not_listed"])


def test_under_another_name_and_from_the_current_folder(disc, monkeypatch):
    folder, names = disc
    (folder / "DICOMDIR").rename(folder / "index")
    monkeypatch.chdir(folder)
    assert [entry.name for entry in list_entries(Path("index"))] == sorted(names)


def test_missing(disc):
    folder, names = disc
    (folder / names[0]).unlink()
    missing = next(entry for entry in list_entries(folder / "DICOMDIR") if entry.name == names[0])
    assert reason(missing) == "listed in the DICOMDIR but not there"


@pytest.mark.parametrize(
    "value",
    [
        ["..", "outside"],
        ["X", "..", "..", "outside"],
        ["", "etc", "passwd"],
        "/etc/passwd",
        "../outside",
        "X/../../outside",
        "..",
        ["link"],
        ["linked", "outside"],
    ],
)
def test_a_file_id_that_leaves_the_folder(disc, value):
    folder, _ = disc
    save(make(np.zeros((4, 4), "u2")), folder.parent / "outside")
    (folder / "link").symlink_to(folder.parent / "outside")
    (folder / "linked").symlink_to(folder.parent)
    (folder / "X").mkdir()
    rewrite(folder, refers_to(value))
    refused = [entry for entry in list_entries(folder / "DICOMDIR") if entry.refusal]
    assert [reason(entry) for entry in refused] == ["listed outside the folder"]
    assert ".." not in refused[0].name.split("/")
    assert not refused[0].name.startswith("/")


def test_a_link_that_stays_inside_is_followed(disc):
    folder, names = disc
    (folder / "link").symlink_to(folder / names[0])
    rewrite(folder, lambda _: None, refers_to("link"))
    entry = next(entry for entry in list_entries(folder / "DICOMDIR") if entry.name == "link")
    assert entry.read() == (folder / names[0]).read_bytes()


@pytest.mark.parametrize("spelt", [str.lower, str.title, lambda name: f"{name};1", lambda name: f"{name}."])
def test_copies_of_a_disc_in_other_cases(disc, spelt):
    folder, names = disc
    contents = {name: (folder / name).read_bytes() for name in names}
    copy = folder.parent / "copy"
    copy.mkdir()
    shutil.copy(folder / "DICOMDIR", copy)
    for name, content in contents.items():
        file = copy.joinpath(*map(spelt, name.split("/")))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    read = {entry.name: entry.read() for entry in list_entries(copy / "DICOMDIR")}
    assert read == {"/".join(map(spelt, name.split("/"))): content for name, content in contents.items()}


def test_the_exact_name_goes_before_its_other_cases(disc):
    folder, _ = disc
    spellings = ("IMG", "Img", "img")
    for spelling in spellings:
        (folder / spelling).write_text(spelling)
    rewrite(folder, *map(refers_to, spellings))
    read = {entry.name: entry.read() for entry in list_entries(folder / "DICOMDIR")}
    assert {name: read[name] for name in spellings} == {name: name.encode() for name in spellings}


def test_one_file_in_two_records_counts_once(disc):
    folder, names = disc
    rewrite(folder, refers_to(names[2].split("/")), refers_to(names[2].lower().split("/")))
    assert [entry.name for entry in list_entries(folder / "DICOMDIR")] == sorted(names[2:])


def test_records_that_are_no_images_or_no_longer_in_use(disc):
    folder, names = disc

    def report(record):
        record.DirectoryRecordType = "SR DOCUMENT"

    def inactive(record):
        record.RecordInUseFlag = 0

    def nameless(record):
        del record.ReferencedFileID

    rewrite(folder, report, inactive, nameless)
    assert [entry.name for entry in list_entries(folder / "DICOMDIR")] == names[3:]


def test_an_image_is_no_dicomdir(tmp_path):
    save(make(np.zeros((4, 4), "u2")), tmp_path / "1.dcm")
    with pytest.raises(MedaugError, match="no readable DICOMDIR; give the file named DICOMDIR") as error:
        list_entries(tmp_path / "1.dcm")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("keep", [140, 400])
def test_damaged(disc, keep):
    folder, _ = disc
    content = (folder / "DICOMDIR").read_bytes()
    (folder / "DICOMDIR").write_bytes(content[:keep] + b"\xff" * 50)
    with pytest.raises(MedaugError, match="no readable DICOMDIR"):
        list_entries(folder / "DICOMDIR")


def test_an_empty_one(disc):
    folder, _ = disc
    ds = dcmread(folder / "DICOMDIR")
    ds.DirectoryRecordSequence = []
    ds.save_as(folder / "DICOMDIR")
    assert list_entries(folder / "DICOMDIR") == []


def test_found_in_whatever_case(tmp_path):
    assert find_directory(tmp_path) is None
    (tmp_path / "dicomdir").write_bytes(b"")
    assert find_directory(tmp_path) == tmp_path / "dicomdir"


def test_a_drive_that_fails(disc, monkeypatch):
    folder, _ = disc
    real = os.scandir

    def scandir(path):
        if str(path) != str(folder):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return real(path)

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(OSError, match="Input/output error"):
        list_entries(folder / "DICOMDIR")
