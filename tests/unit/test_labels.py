"""Labels by file, by identity, by folder, by tag; and the classes they make."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.labels import Label, LabelConfig, LabelTable, choose_classes, read_labels
from pipeline.matching import match_files, match_identities, open_labels
from pipeline.records import MedaugError
from pipeline.sources import Source, SourceConfig, open_source
from tests.unit.dicom_files import make, save

PIXELS = np.zeros((16, 16), "u2")


class TestLabels:
    names = ("a/1.dcm", "a/2.dcm", "b/1.dcm")

    def match(self, *rows):
        """File → label, from a table by file."""
        table = LabelTable(Path("labels.csv"), "file", {given: Label(label) for given, label in rows})
        return {name: label.name for name, label in match_files(table, self.names).items()}

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
        assert read_labels(file).rows == {"1.dcm": Label("x")}

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

    def test_a_row_twice_is_one_and_two_that_differ_are_refused(self, tmp_path):
        file = tmp_path / "labels.csv"
        file.write_text("PatientID,label,split\n1,a,train\n1,a,train\n")
        assert read_labels(file).rows == {"1": Label("a", "", "train")}
        for other, message in (("1,b,train", "two labels, 'a' and 'b'"), ("1,a,test", "differ in patient or split")):
            file.write_text(f"PatientID,label,split\n1,a,train\n{other}\n")
            with pytest.raises(MedaugError, match=message):
                read_labels(file)

    def test_a_side_that_is_none(self, tmp_path):
        (tmp_path / "labels.csv").write_text("file,label,split\n1.dcm,a,both\n")
        with pytest.raises(MedaugError, match="split 'both'; expected train, validation or test"):
            read_labels(tmp_path / "labels.csv")

    def test_numbers_of_a_parquet_with_gaps_are_numbers_without_a_point(self, tmp_path):
        frame = pd.DataFrame({"PatientID": [17, 18, 19], "label": [1.0, None, 0.0]})
        frame.to_parquet(tmp_path / "labels.parquet")
        assert read_labels(tmp_path / "labels.parquet").rows == {"17": Label("1"), "19": Label("0")}

    def test_identities_that_no_file_holds_are_passed_over_unless_all_are(self):
        table = LabelTable(Path("t.csv"), "PatientID", {"1": Label("a"), "9": Label("b")})
        assert match_identities(table, {"x.dcm": "1", "y.dcm": "2"}) == {"x.dcm": Label("a")}
        with pytest.raises(MedaugError, match="none of its 2 PatientID"):
            match_identities(table, {"x.dcm": "3"})


class TestOpen:
    def opened(self, tmp_path, **labels):
        source = open_source(
            SourceConfig(path=tmp_path / "data"), tmp_path, tmp_path / "private", None, lambda *_: None
        )
        return open_labels(LabelConfig(**labels), source, None)

    def test_folders_are_labels(self, tmp_path):
        for name in ("x/1.dcm", "y/deep/2.dcm", "3.dcm"):
            save(make(PIXELS), tmp_path / "data" / name)
        labelling = self.opened(tmp_path)
        assert labelling.by == "folders"
        assert labelling.known == {"x/1.dcm": Label("x"), "y/deep/2.dcm": Label("y")}

    def test_a_labels_file_in_the_folder_is_found(self, tmp_path):
        save(make(PIXELS), tmp_path / "data" / "1.dcm")
        (tmp_path / "data" / "labels.csv").write_text("file,label\n1.dcm,x\n")
        assert self.opened(tmp_path).known == {"1.dcm": Label("x")}

    def test_the_fingerprint_is_that_of_the_file(self, tmp_path):
        save(make(PIXELS), tmp_path / "data" / "1.dcm")
        file = tmp_path / "labels.csv"
        file.write_text("file,label\n1.dcm,x\n")
        one = self.opened(tmp_path, file=file).fingerprint
        file.write_text("file,label\n1.dcm,y\n")
        assert self.opened(tmp_path, file=file).fingerprint != one

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ({}, "no labels"),
            ({"by": "file"}, r"labels\.file: not given"),
            ({"by": "tag"}, r"labels\.tag"),
        ],
    )
    def test_none_in_one_line(self, tmp_path, labels, message):
        save(make(PIXELS), tmp_path / "data" / "1.dcm")
        with pytest.raises(MedaugError, match=message) as error:
            self.opened(tmp_path, **labels)
        assert "\n" not in str(error.value)

    def test_what_images_do_not_have(self, tmp_path):
        (tmp_path / "data").mkdir()
        Image.fromarray(PIXELS.astype("u1")).save(tmp_path / "data" / "1.png")
        (tmp_path / "labels.csv").write_text("PatientID,label\n1,x\n")
        with pytest.raises(MedaugError, match="goes by PatientID, which images have not"):
            self.opened(tmp_path, file=tmp_path / "labels.csv")
        with pytest.raises(MedaugError, match=r"labels\.tag"):
            self.opened(tmp_path, by="tag", tag="Modality")

    def test_an_npz_brings_its_own(self, tmp_path):
        source = Source("npz", tmp_path / "x.npz", (), "", None)
        assert open_labels(LabelConfig(), source, None).by == "own"
        with pytest.raises(MedaugError, match="an npz brings its own labels"):
            open_labels(LabelConfig(by="folders"), source, None)
