import errno
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.fileset import FileSet

from pipeline.config import validate
from pipeline.files import Unreadable
from pipeline.records import MedaugError
from pipeline.sources import SourceConfig, open_source
from tests.unit.dicom_files import make, save

PIXELS = np.full((16, 16), 1024, "u2")


def opened(path, base=None, **config):
    told = []
    source = open_source(
        SourceConfig.model_validate({"path": path, **config}),
        Path("nowhere") / "work",  # neither is written to
        Path("nowhere") / "private",
        base,
        lambda *done: told.append(done),
    )
    assert not Path("nowhere").exists()
    assert told == []
    return source


def scans(folder, *names):
    for name in names:
        save(make(PIXELS), folder / name)
    return folder


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS.astype("u1")).save(path)


def names(source):
    return [entry.name for entry in source.entries]


class TestKinds:
    def test_a_folder(self, tmp_path):
        source = opened(scans(tmp_path / "data", "x/1.dcm", "y/deep/2", "3.dcm"))
        assert (source.kind, source.path, source.labels_file) == ("dicom", tmp_path / "data", None)
        assert names(source) == ["3.dcm", "x/1.dcm", "y/deep/2"]

    def test_images_are_images_where_they_are_most(self, tmp_path):
        for name in ("1.png", "2.TIF", "3.jpeg"):
            picture(tmp_path / name)
        scans(tmp_path, "4", "5")
        assert opened(tmp_path).kind == "images"
        assert opened(tmp_path, kind="dicom").kind == "dicom"
        scans(tmp_path, "6")
        assert opened(tmp_path).kind == "dicom"
        assert opened(tmp_path, kind="images").kind == "images"

    def test_an_archive_and_a_list(self, tmp_path):
        scans(tmp_path / "data", "x/1.dcm", "y/2.dcm")
        with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
            for name in ("x/1.dcm", "y/2.dcm"):
                archive.write(tmp_path / "data" / name, name)
        (tmp_path / "data" / "list.txt").write_text("x/1.dcm\ny/2.dcm\n")
        folder = {entry.name: entry.read() for entry in opened(tmp_path / "data" / "list.txt").entries}
        assert {entry.name: entry.read() for entry in opened(tmp_path / "data.zip").entries} == folder
        assert list(folder) == ["x/1.dcm", "y/2.dcm"]

    def test_an_npz_is_not_looked_into(self, tmp_path):
        (tmp_path / "x.npz").write_bytes(b"anything")
        source = opened(tmp_path / "x.npz")
        assert (source.kind, source.entries, source.labels_file) == ("npz", (), None)
        before = source.fingerprint
        assert opened(tmp_path / "x.npz", kind="npz").fingerprint == before
        (tmp_path / "x.npz").write_bytes(b"anything else")
        assert opened(tmp_path / "x.npz").fingerprint != before

    def test_phantoms_bring_their_labels(self, tmp_path):
        config = SourceConfig.model_validate({"kind": "phantom", "phantom": {"patients": 9, "size": 32}})
        source = open_source(config, tmp_path, tmp_path / "private", None, lambda *_: None)
        assert source.kind == "dicom"
        assert source.labels_file == source.path.parent / "labels.csv"
        assert source.labels_file.is_file()
        assert source.path.is_relative_to(tmp_path)
        assert len(source.entries) >= 9
        assert open_source(config, tmp_path, tmp_path / "private", None, lambda *_: None) == source

    def test_relative_paths_start_at_the_base(self, tmp_path):
        scans(tmp_path / "data", "1.dcm")
        assert opened("data", base=tmp_path).path == tmp_path / "data"
        assert opened(tmp_path / "data", base=tmp_path / "elsewhere").path == tmp_path / "data"


class TestDicomdir:
    @pytest.fixture
    def disc(self, tmp_path):
        file_set = FileSet()
        for number in range(3):
            ds = make(PIXELS, InstanceNumber=number, PatientID="P")
            ds.StudyDate, ds.StudyTime, ds.StudyID, ds.SeriesNumber = "20200101", "120000", "1", 1
            file_set.add(ds)
        file_set.write(tmp_path / "disc")
        scans(tmp_path / "disc", "not_listed")
        return tmp_path / "disc"

    def test_a_folder_goes_by_its_dicomdir_only_when_asked_to(self, disc):
        assert len(opened(disc).entries) == 5  # the DICOMDIR as well
        source = opened(disc, kind="dicomdir")
        assert (source.kind, source.path) == ("dicom", disc / "DICOMDIR")
        assert len(source.entries) == 3
        assert "not_listed" not in names(source)

    @pytest.mark.parametrize("kind", ["auto", "dicom", "dicomdir"])
    def test_the_file_itself(self, disc, kind):
        assert len(opened(disc / "DICOMDIR", kind=kind).entries) == 3

    def test_a_missing_file_counts(self, disc):
        whole = opened(disc, kind="dicomdir")
        whole.entries[0].path.unlink()
        source = opened(disc, kind="dicomdir")
        assert names(source) == names(whole)
        assert source.fingerprint != whole.fingerprint
        with pytest.raises(Unreadable, match="listed in the DICOMDIR but not there"):
            source.entries[0].read()

    def test_a_folder_without_one(self, tmp_path):
        with pytest.raises(MedaugError, match=r"holds no DICOMDIR; give its folder, or set source\.kind: dicom"):
            opened(scans(tmp_path, "1.dcm"), kind="dicomdir")

    def test_a_file_that_is_none(self, tmp_path):
        (tmp_path / "x").write_bytes(b"nothing")
        with pytest.raises(MedaugError, match="no readable DICOMDIR"):
            opened(tmp_path / "x", kind="dicomdir")


class TestLabels:
    @pytest.mark.parametrize("name", ["labels.csv", "labels.parquet"])
    def test_labels_at_the_top_of_a_folder_are_found_and_are_no_scan(self, tmp_path, name):
        scans(tmp_path, "1.dcm", f"deep/{name}")
        (tmp_path / name).write_text("file,label\n1.dcm,x\n")
        source = opened(tmp_path)
        assert source.labels_file == tmp_path / name
        assert names(source) == ["1.dcm", f"deep/{name}"]

    def test_the_csv_goes_first(self, tmp_path):
        scans(tmp_path, "1.dcm", "labels.csv", "labels.parquet")
        source = opened(tmp_path)
        assert source.labels_file == tmp_path / "labels.csv"
        assert names(source) == ["1.dcm", "labels.parquet"]

    def test_labels_are_not_the_source(self, tmp_path):
        scans(tmp_path, "1.dcm")
        before = opened(tmp_path).fingerprint
        (tmp_path / "labels.csv").write_text("file,label\n1.dcm,x\n")
        assert opened(tmp_path).fingerprint == before

    def test_a_folder_of_that_name_is_none(self, tmp_path):
        assert opened(scans(tmp_path, "labels.csv/1.dcm")).labels_file is None


class TestFingerprint:
    def test_changes_with_any_file(self, tmp_path):
        scans(tmp_path / "data", "x/1.dcm")
        seen = [opened(tmp_path / "data").fingerprint]
        assert opened(tmp_path / "data").fingerprint == seen[0]

        def changed():
            seen.append(opened(tmp_path / "data").fingerprint)
            assert len(set(seen)) == len(seen)

        scans(tmp_path / "data", "x/2.dcm")
        changed()
        file = tmp_path / "data" / "x" / "1.dcm"
        file.write_bytes(file.read_bytes() + b"\0\0")
        changed()
        os.utime(file, ns=(0, 10**18))
        changed()
        file.rename(file.with_name("3.dcm"))
        changed()

    def test_changes_with_a_member_of_the_same_size(self, tmp_path):
        prints = set()
        for content in (b"one", b"two"):
            with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
                archive.writestr("1.dcm", content)
            prints.add(opened(tmp_path / "x.zip").fingerprint)
        assert len(prints) == 2

    def test_names_do_not_run_together(self, tmp_path):
        prints = set()
        for number, parts in enumerate((("a\nb",), ("a", "b"))):
            folder = tmp_path / str(number)
            for name in parts:
                folder.mkdir(exist_ok=True)
                (folder / name).write_bytes(b"")
                os.utime(folder / name, ns=(0, 0))
            prints.add(opened(folder).fingerprint)
        assert len(prints) == 2

    def test_is_a_hash(self, tmp_path):
        source = opened(scans(tmp_path, "Doe_John.dcm"))
        assert len(source.fingerprint) == 32
        assert int(source.fingerprint, 16)

    def test_names_that_are_no_text(self, tmp_path):
        (tmp_path / os.fsdecode(b"\xff")).write_bytes(b"x")
        assert opened(tmp_path).fingerprint


class TestErrors:
    @pytest.mark.parametrize(
        ("build", "config", "message"),
        [
            (lambda path: None, {}, "no such file or folder; give the folder with the scans"),
            (lambda path: path.mkdir(), {}, "holds no file; expected DICOM files or images"),
            (lambda path: zipfile.ZipFile(path, "w").close(), {}, "holds no file"),
            (lambda path: path.write_bytes(b"PK nothing"), {}, "not a readable zip"),
            (lambda path: path.write_bytes(b"PK nothing"), {"kind": "npz"}, r"expected a file that ends in \.npz"),
            (lambda path: scans(path, "1.dcm"), {"kind": "npz"}, r"expected a file that ends in \.npz"),
            (lambda path: scans(path, "1.dcm"), {"dicomweb": {"url": "http://x"}}, "both given; keep one of them"),
            (
                lambda path: scans(path, "1.dcm"),
                {"kind": "dicom", "dicomweb": {"url": "http://x"}},
                r"source\.dicomweb: given, but source\.kind is dicom",
            ),
        ],
    )
    def test_one_line(self, tmp_path, build, config, message):
        build(tmp_path / "data")
        with pytest.raises(MedaugError, match=message) as error:
            opened(tmp_path / "data", **config)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({}, r"source\.path: not given; name the folder with the scans \(--data DIR\)"),
            ({"kind": "dicom"}, r"source\.path: not given"),
            ({"kind": "dicomweb"}, r"source\.dicomweb: not given; name the server"),
        ],
    )
    def test_nothing_given(self, tmp_path, config, message):
        with pytest.raises(MedaugError, match=message):
            open_source(SourceConfig.model_validate(config), tmp_path, tmp_path, None, lambda *_: None)

    def test_an_unknown_key_of_the_server_names_the_nearest(self):
        with pytest.raises(MedaugError, match=r"unknown key 'dicomweb\.filter'; did you mean 'filters'"):
            validate(SourceConfig, {"dicomweb": {"url": "http://x", "filter": {}}}, "data")

    def test_no_permission_to_look(self, tmp_path, monkeypatch):
        def closed(self, **_):
            raise PermissionError(errno.EACCES, "Permission denied", str(self))

        monkeypatch.setattr(Path, "stat", closed)
        with pytest.raises(MedaugError, match=r"cannot be read \(Permission denied\)"):
            opened(tmp_path)

    def test_a_drive_that_fails_is_no_wrong_input(self, tmp_path, monkeypatch):
        def gone(self, **_):
            raise OSError(errno.ESTALE, "Stale file handle", str(self))

        monkeypatch.setattr(Path, "stat", gone)
        with pytest.raises(OSError, match="Stale file handle") as error:
            opened(tmp_path)
        assert not isinstance(error.value, MedaugError)


def test_the_kinds_are_described():
    assert all(SourceConfig.model_fields[name].description for name in ("path", "kind", "dicomweb"))
