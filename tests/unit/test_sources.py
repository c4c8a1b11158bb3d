import stat
import zipfile

import numpy as np
import pytest
from PIL import Image

from pipeline.dicom.deidentify import Keys
from pipeline.labels import LabelConfig, choose_classes, match_labels, read_labels
from pipeline.preprocess import Geometry, Preparation, Window
from pipeline.records import MedaugError
from pipeline.scans import Entry, Rules, SetAside, load, load_entries, read_picture
from pipeline.sources import SourceConfig, list_entries, open_npz, open_source
from tests.unit.dicom_files import as_is, make, save

PIXELS = np.full((16, 16), 1024, "u2")


def opened(path, labels=None, kind="auto", base=None):
    return open_source(SourceConfig(path=path, kind=kind), LabelConfig(**(labels or {})), path.parent, base)


def write_labels(path, *rows, header="file,label"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def picture(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


class TestLabels:
    names = ("a/1.dcm", "a/2.dcm", "b/1.dcm")

    def match(self, *rows):
        return match_labels(rows, self.names, "labels.csv")

    def test_by_path_or_by_base_name_or_from_above_the_source(self):
        assert self.match(("a/1.dcm", "x"), ("2.dcm", "y"), ("data\\b\\1.dcm", "z")) == {
            "a/1.dcm": "x",
            "a/2.dcm": "y",
            "b/1.dcm": "z",
        }

    def test_a_path_into_another_folder_is_not_matched_by_its_last_part(self):
        with pytest.raises(MedaugError, match=r"not in the data: c/2\.dcm"):
            self.match(("c/2.dcm", "x"))

    def test_a_base_name_that_fits_several_files(self):
        with pytest.raises(MedaugError, match="fits 2 files"):
            self.match(("1.dcm", "x"))

    def test_two_labels_for_one_file(self):
        with pytest.raises(MedaugError, match="two labels"):
            self.match(("2.dcm", "x"), ("a/2.dcm", "y"))
        assert self.match(("2.dcm", "x"), ("a/2.dcm", "x")) == {"a/2.dcm": "x"}

    def test_the_first_five_missing_files_and_how_many(self):
        with pytest.raises(MedaugError, match=r"7 file\(s\).*: m0, m1, m2, m3, m4, \.\.\.") as error:
            self.match(*((f"m{k}", "x") for k in range(7)))
        assert "m5" not in str(error.value)
        assert "\n" not in str(error.value)

    def test_a_csv_from_a_spreadsheet(self, tmp_path):
        file = tmp_path / "labels.csv"
        file.write_bytes("\ufefffile;label;note\r\n1.dcm; x ;hm\r\n2.dcm;;\r\n".encode())
        assert read_labels(file) == [("1.dcm", "x")]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"name,class\na,b\n", "has the columns name, class; expected file and label"),
            (b"", "expected file and label"),
            (b"file,label\n", "no row with both"),
            (b"\xff\xfe\x00\x80", "not readable as UTF-8"),
        ],
    )
    def test_a_file_that_holds_no_labels(self, tmp_path, content, message):
        (tmp_path / "labels.csv").write_bytes(content)
        with pytest.raises(MedaugError, match=message):
            read_labels(tmp_path / "labels.csv")

    def test_no_labels_file(self, tmp_path):
        with pytest.raises(MedaugError, match="no such file"):
            read_labels(tmp_path / "labels.csv")

    def test_classes_are_sorted_unless_their_order_is_given(self):
        assert choose_classes(["10", "9", "2", "b", "a"], LabelConfig()) == ("2", "9", "10", "a", "b")
        assert choose_classes(["a", "b"], LabelConfig(classes=("b", "a"))) == ("b", "a")

    @pytest.mark.parametrize(
        ("found", "classes", "message"),
        [(["a"], None, "one class only"), (["a", "c"], ("a", "b"), "found also c"), (["a"], ("a", "b"), "class b")],
    )
    def test_classes_that_do_not_fit(self, found, classes, message):
        with pytest.raises(MedaugError, match=message):
            choose_classes(found, LabelConfig(classes=classes))


class TestOpen:
    def test_folders_are_labels(self, tmp_path):
        for name in ("x/1.dcm", "y/deep/2.dcm", "3.dcm"):
            save(make(PIXELS), tmp_path / "data" / name)
        source = opened(tmp_path / "data")
        assert (source.kind, source.labels_by) == ("dicom", "folders")
        assert source.labels == {"x/1.dcm": "x", "y/deep/2.dcm": "y"}
        assert [entry.name for entry in source.entries] == ["3.dcm", "x/1.dcm", "y/deep/2.dcm"]

    def test_a_labels_file_in_the_folder_is_found_and_is_no_scan(self, tmp_path):
        save(make(PIXELS), tmp_path / "data" / "1.dcm")
        write_labels(tmp_path / "data" / "labels.csv", "1.dcm,x")
        source = opened(tmp_path / "data")
        assert [entry.name for entry in source.entries] == ["1.dcm"]
        assert source.labels == {"1.dcm": "x"}

    def test_a_zip_reads_like_a_folder(self, tmp_path):
        for name in ("x/1.dcm", "y/2.dcm"):
            save(make(PIXELS), tmp_path / "data" / name)
        with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
            for file in (tmp_path / "data").rglob("*.dcm"):
                archive.write(file, file.relative_to(tmp_path / "data").as_posix())
            archive.writestr("../escape.dcm", "nothing")
        source = opened(tmp_path / "data.zip")
        rules = Rules("dicom", as_is("chest_wide"))
        read = {entry.name: loaded.status for entry, loaded in load_entries(source.entries, rules, lambda *_: None)}
        assert read == {"../escape.dcm": "set aside", "x/1.dcm": "read", "y/2.dcm": "read"}
        assert not (tmp_path.parent / "escape.dcm").exists()

    def test_the_fingerprint_changes_with_any_file(self, tmp_path):
        file = save(make(PIXELS), tmp_path / "data" / "x" / "1.dcm")
        before = opened(tmp_path / "data").fingerprint
        assert opened(tmp_path / "data").fingerprint == before
        save(make(PIXELS), tmp_path / "data" / "x" / "2.dcm")
        more = opened(tmp_path / "data").fingerprint
        file.write_bytes(file.read_bytes() + b"\0\0")
        assert len({before, more, opened(tmp_path / "data").fingerprint}) == 3

    def test_links_are_followed_once_and_broken_ones_are_named(self, tmp_path):
        save(make(PIXELS), tmp_path / "elsewhere" / "1.dcm")
        (tmp_path / "data" / "x").mkdir(parents=True)
        (tmp_path / "data" / "x" / "linked").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "data" / "x" / "loop").symlink_to(tmp_path / "data")
        (tmp_path / "data" / "x" / "gone.dcm").symlink_to(tmp_path / "nowhere")
        entries = list_entries(tmp_path / "data")
        assert [entry.name for entry in entries] == ["x/gone.dcm", "x/linked/1.dcm"]
        loaded = load(entries[0], Rules("dicom", as_is("dicom")))
        assert (loaded.status, loaded.reason[:16]) == ("set aside", "no ordinary file")

    def test_relative_paths_start_at_the_base(self, tmp_path):
        save(make(PIXELS), tmp_path / "data" / "x" / "1.dcm")
        config = SourceConfig.model_validate({"path": "data"})
        assert open_source(config, LabelConfig(), tmp_path, tmp_path).path == tmp_path / "data"

    @pytest.mark.parametrize(
        ("build", "labels", "message"),
        [
            (lambda path: None, {}, "no such file or folder"),
            (lambda path: path.mkdir(), {}, "holds no file"),
            (lambda path: path.write_bytes(b"PK nothing"), {}, "not a readable zip"),
            (lambda path: save(make(PIXELS), path / "1.dcm"), {}, "no labels"),
            (lambda path: save(make(PIXELS), path / "1.dcm"), {"by": "file"}, "labels.file: not given"),
            (lambda path: save(make(PIXELS), path / "1.dcm"), {"by": "tag"}, "labels.tag"),
            (lambda path: picture(path / "1.png", PIXELS), {"by": "tag", "tag": "Modality"}, "labels.tag"),
        ],
    )
    def test_bad_input_in_one_line(self, tmp_path, build, labels, message):
        build(tmp_path / "data")
        with pytest.raises(MedaugError, match=message) as error:
            opened(tmp_path / "data", labels)
        assert "\n" not in str(error.value)

    def test_no_path(self, tmp_path):
        with pytest.raises(MedaugError, match=r"source\.path: not given"):
            open_source(SourceConfig(), LabelConfig(), tmp_path, None)


class TestPictures:
    preparation = Preparation(Window.parse("full"), Geometry(16, 16))

    @pytest.mark.parametrize(("dtype", "highest"), [("u1", 255), ("u2", 65535)])
    def test_grey_of_either_depth_spans_its_type(self, tmp_path, dtype, highest):
        values = np.linspace(0, highest, 256).round().astype(dtype).reshape(16, 16)
        picture(tmp_path / "x.png", values)
        loaded = read_picture((tmp_path / "x.png").read_bytes(), self.preparation)
        np.testing.assert_allclose(loaded.images[0], values / (highest / 2) - 1, atol=1e-5)
        assert loaded.header is not None
        assert loaded.header.highest == highest

    def test_grey_stored_as_colour_is_grey_and_colour_is_set_aside(self, tmp_path):
        grey = np.random.default_rng(0).integers(0, 256, (16, 16), "u1")
        picture(tmp_path / "grey.png", np.stack([grey] * 3, axis=-1))
        loaded = read_picture((tmp_path / "grey.png").read_bytes(), self.preparation)
        np.testing.assert_allclose(loaded.images[0], grey / 127.5 - 1, atol=1e-5)
        picture(tmp_path / "colour.png", np.stack([grey, grey, 255 - grey], axis=-1))
        with pytest.raises(SetAside, match="colour"):
            read_picture((tmp_path / "colour.png").read_bytes(), self.preparation)

    def test_damaged_and_foreign_files(self, tmp_path):
        picture(tmp_path / "x.png", np.random.default_rng(0).integers(0, 256, (64, 64), "u1"))
        data = (tmp_path / "x.png").read_bytes()
        (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
        (tmp_path / "note.txt").write_text("hello")
        rules = Rules("images", self.preparation)
        fates = {entry.name: load(entry, rules) for entry in list_entries(tmp_path)}
        assert [fates[name].status for name in ("x.png", "cut.png", "note.txt")] == ["read", "quarantined", "set aside"]


class TestNpz:
    def arrays(self, **changes):
        made = {}
        for part, count in (("train", 6), ("val", 3), ("test", 3)):
            made[f"{part}_images"] = np.zeros((count, 28, 28), np.uint8)
            made[f"{part}_labels"] = np.arange(count, dtype=np.uint8) % 2
        return {**made, **changes}

    @pytest.mark.parametrize("shape", [(6,), (6, 1)])
    def test_labels_of_either_shape(self, tmp_path, shape):
        labels = (np.arange(6) % 2).astype(np.uint8).reshape(shape)
        np.savez(tmp_path / "x.npz", **self.arrays(train_labels=labels))
        assert open_npz(tmp_path / "x.npz").labels[0].tolist() == [0, 1, 0, 1, 0, 1]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"train_labels": np.zeros((6, 14), np.uint8)}, "expected one integer an image"),
            ({"val_images": np.zeros((2, 28, 28), np.uint8)}, "with as many labels"),
            ({"val_images": np.zeros((3, 28, 28))}, "expected uint8"),
            ({"test_labels": np.array([None, 1, 2])}, "not a readable npz"),
        ],
    )
    def test_arrays_that_do_not_fit(self, tmp_path, changes, message):
        np.savez(tmp_path / "x.npz", **self.arrays(**changes))
        with pytest.raises(MedaugError, match=message):
            open_npz(tmp_path / "x.npz")

    def test_missing_arrays_and_damaged_files(self, tmp_path):
        np.savez(tmp_path / "x.npz", train_images=np.zeros(3))
        with pytest.raises(MedaugError, match="expected MedMNIST's arrays"):
            open_npz(tmp_path / "x.npz")
        (tmp_path / "y.npz").write_bytes(b"nothing")
        with pytest.raises(MedaugError, match="not a readable npz"):
            open_npz(tmp_path / "y.npz")


def test_worker_processes_read_the_same_in_the_same_order(tmp_path, monkeypatch):
    for number in range(9):
        save(make(np.full((16, 16), 1000 + number, "u2")), tmp_path / f"{number}.dcm")
    (tmp_path / "9.dcm").write_text("broken")
    rules = Rules("dicom", as_is("chest_wide"))
    told = []
    here = list(load_entries(list_entries(tmp_path), rules, lambda *_: None))
    monkeypatch.setattr("pipeline.scans.POOL_FROM", 1)
    monkeypatch.setattr("pipeline.scans.CHUNK", 2)
    there = list(load_entries(list_entries(tmp_path), rules, lambda done, total: told.append((done, total))))
    assert [entry.name for entry, _ in there] == [entry.name for entry, _ in here] == [f"{k}.dcm" for k in range(10)]
    for (_, one), (_, two) in zip(here, there, strict=True):
        assert one.status == two.status
        np.testing.assert_array_equal(one.images, two.images)
    assert told == [(2, 10), (4, 10), (6, 10), (8, 10), (10, 10)]


class TestKeys:
    def test_the_key_is_private_and_stays(self, tmp_path):
        one, two = Keys.load(tmp_path / "private"), Keys.load(tmp_path / "private")
        assert one == two
        file = tmp_path / "private" / "hmac.key"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert len(list((tmp_path / "private").iterdir())) == 1
        assert Keys.load(tmp_path / "other") != one

    def test_hashes_depend_on_key_role_and_text(self):
        one, two = Keys(b"1" * 32), Keys(b"2" * 32)
        hashes = {one("patient", "a"), one("study", "a"), one("patient", "b"), two("patient", "a"), one.fingerprint}
        assert len(hashes) == 5
        assert one("patient", "a") == Keys(b"1" * 32)("patient", "a")

    def test_a_damaged_key(self, tmp_path):
        (tmp_path / "hmac.key").write_text("short")
        with pytest.raises(MedaugError, match="64 hexadecimal digits"):
            Keys.load(tmp_path)


def test_an_entry_too_large_is_not_read(tmp_path):
    with pytest.raises(SetAside, match="larger than"):
        Entry("x", tmp_path / "absent", None, 2**40, 0).read()
