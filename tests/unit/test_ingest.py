import json
import stat

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydicom.uid import generate_uid

from pipeline.audit import cramers_v, header_leaks
from pipeline.config import expand_preset, validate
from pipeline.dataset import ScanDataset, image_hash
from pipeline.dicom.deidentify import Keys
from pipeline.ingest import DataConfig, ingest
from pipeline.records import MedaugError
from pipeline.store import Store
from tests.unit.dicom_files import make, save

PARTS = ("kept", "duplicates", "quarantined", "set_aside", "unlabelled")


def slice_of(number, shape=(16, 16)):
    """Stored values that no other number has."""
    return np.random.default_rng(number).integers(0, 2000, shape).astype("u2")


def archive(folder, patients=12, slices=2, labels=("x", "y")):
    """A folder per class; patients by their number."""
    for patient in range(patients):
        for number in range(slices):
            ds = make(
                slice_of(100 * patient + number), 12, PatientID=f"P{patient}", StudyInstanceUID=f"1.2.{patient + 1}"
            )
            save(ds, folder / labels[patient % len(labels)] / f"{patient:02d}-{number}.dcm")
    return folder


def run(tmp_path, *, progress=lambda *_: None, **config):
    settings = {"window": "chest_wide", "size": [16, 16], **config}
    settings.setdefault("source", {"path": str(tmp_path / "data")})
    checked = validate(DataConfig, settings, "data")
    return ingest(checked, Store(tmp_path / "store"), tmp_path / "private", progress)


def table(artifact):
    return pd.read_parquet(artifact.path / "slices.parquet")


def test_a_folder_becomes_a_dataset(tmp_path):
    archive(tmp_path / "data")
    artifact = run(tmp_path)
    meta = artifact.meta
    assert meta["classes"] == ["x", "y"]
    assert meta["value_range"] == {"low": -1000.0, "high": 600.0, "unit": "HU"}
    assert meta["found"] == {
        "files": 24, "kept": 24, "duplicates": 0, "quarantined": 0, "set_aside": 0, "unlabelled": 0, "slices": 24,
    }  # fmt: skip
    slices = table(artifact)
    assert slices.groupby("patient")["split"].nunique().max() == 1
    train = ScanDataset(artifact.path, "train")
    counts = meta["counts"]
    assert sum(entry["slices"] for entry in counts["train"].values()) == len(train)
    assert sum(entry["patients"] for split in counts.values() for entry in split.values()) == 12
    # The pixels are those of the files: the first file by name is patient 0, slice 0, class x.
    everything = ScanDataset(artifact.path)
    expected = np.clip((slice_of(0).astype(float) - 1024 + 1000) / 1600, 0, 1) * 2 - 1
    np.testing.assert_allclose(everything[0]["image"].numpy()[0], expected, atol=1e-4)
    assert everything[0]["label"] == 0


def test_the_test_set_is_sealed_by_its_hashes(tmp_path):
    archive(tmp_path / "data")
    artifact = run(tmp_path)
    test = ScanDataset(artifact.path, "test")
    sealed = artifact.meta["test_hashes"]
    assert sorted(image_hash(test.codes[row]).decode() for row in test.rows) == sealed
    assert not set(sealed) & {value.decode() for value in ScanDataset(artifact.path, "train").hashes}


def test_a_second_run_reads_no_pixel(tmp_path, monkeypatch):
    archive(tmp_path / "data")
    first = run(tmp_path)
    told = []
    monkeypatch.setattr("pipeline.scans.Entry.read", lambda self: pytest.fail("read a file"))
    assert run(tmp_path, progress=lambda *step: told.append(step)).digest == first.digest
    assert told == []


def test_another_window_or_another_file_makes_another_artifact(tmp_path):
    archive(tmp_path / "data")
    first, second = run(tmp_path), run(tmp_path, window="lung")
    save(make(slice_of(9999), PatientID="P0"), tmp_path / "data" / "x" / "new.dcm")
    third = run(tmp_path)
    assert len({first.digest, second.digest, third.digest}) == 3
    assert third.meta["found"]["files"] == 25


def test_every_file_has_one_fate(tmp_path):
    data = archive(tmp_path / "data")
    (data / "x" / "00-0-copy.dcm").write_bytes((data / "x" / "00-0.dcm").read_bytes())  # byte for byte
    save(make(slice_of(100), 12, PatientID="P1"), data / "y" / "same-pixels.dcm")  # patient 1's slice under a new UID
    (data / "x" / "cut.dcm").write_bytes((data / "x" / "00-1.dcm").read_bytes()[:-40])
    save(make(slice_of(7), ImageType=["DERIVED", "PRIMARY", "LOCALIZER"]), data / "x" / "scout.dcm")
    (data / "x" / "notes.txt").write_text("remember the milk")
    save(make(slice_of(8)), data / "unlabelled.dcm")
    clash = make(slice_of(555), PatientID="P0")
    save(clash, data / "x" / "clash.dcm")
    save(clash, data / "y" / "clash.dcm")
    artifact = run(tmp_path)
    found = artifact.meta["found"]
    assert found == {
        "files": 32, "kept": 24, "duplicates": 2, "quarantined": 1, "set_aside": 4, "unlabelled": 1, "slices": 24,
    }  # fmt: skip
    assert found["files"] == sum(found[part] for part in PARTS)
    reasons = {entry["reason"]: entry["count"] for entry in artifact.meta["quarantine"]["reasons"]}
    assert reasons == {
        "identical pixels under another label": 2,
        "pixels do not decode (Explicit VR Little Endian; ValueError)": 1,
        "a localizer": 1,
        "no DICOM file": 1,
    }
    assert artifact.meta["quarantine"]["files"][0]["status"] == "quarantined"
    warnings = " ".join(artifact.meta["warnings"])
    assert "1 readable file(s) without a label" in warnings
    assert "different labels" in warnings


def test_frames_of_a_file_are_slices(tmp_path):
    data = archive(tmp_path / "data")
    save(make(slice_of(5, (3, 16, 16)), 12, PatientID="P0"), data / "x" / "frames.dcm")
    artifact = run(tmp_path)
    assert artifact.meta["found"]["kept"] == 25
    assert artifact.meta["found"]["slices"] == len(ScanDataset(artifact.path)) == 27
    slices = table(artifact)
    assert slices.groupby("file")["frame"].nunique().max() == 3


def test_patients_who_share_a_slice_are_on_one_side(tmp_path):
    data = archive(tmp_path / "data", patients=40, slices=1)
    shared = slice_of(12345)
    for patient in range(0, 20, 2):  # ten patients of class x, chained by one slice
        save(make(shared, PatientID=f"P{patient}"), data / "x" / f"shared-{patient}.dcm")
    artifact = run(tmp_path)
    keys = Keys.load(tmp_path / "private")
    chained = [keys("patient", f"\0P{patient}") for patient in range(0, 20, 2)]  # no issuer
    sides = table(artifact).groupby("patient")["split"].first()
    assert sides[chained].nunique() == 1
    assert sides.nunique() == 3
    assert artifact.meta["found"]["duplicates"] == 9
    assert any("10 patients share identical slices" in warning for warning in artifact.meta["warnings"])


def test_nothing_of_a_patient_is_in_the_artifact(tmp_path):
    secrets = ["Hidden^Person", "MRN-4711", "19700101", "ACC-99", "Dr^Who", "St. Elsewhere"]
    uids = []
    for patient in range(12):
        study = generate_uid()
        ds = make(
            slice_of(patient), 12, PatientID=f"MRN-4711-{patient}", PatientName="Hidden^Person",
            PatientBirthDate="19700101", AccessionNumber="ACC-99", ReferringPhysicianName="Dr^Who",
            InstitutionName="St. Elsewhere", StudyInstanceUID=study,
        )  # fmt: skip
        uids += [study, ds.SOPInstanceUID]
        save(ds, tmp_path / "data" / "xy"[patient % 2] / f"Hidden_Person_{patient}.dcm")
    (tmp_path / "data" / "x" / "Hidden_Person_cut.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"Hidden^Person" * 9)
    artifact = run(tmp_path)
    texts = {file.name: file.read_bytes() for file in artifact.path.iterdir()}
    texts["table"] = json.dumps(table(artifact).astype(str).to_dict()).encode()  # the parquet file is compressed
    for name, content in texts.items():
        for secret in [*secrets, *uids, "Hidden_Person", str(tmp_path)]:
            assert secret.encode() not in content, (name, secret)
    (names,) = (tmp_path / "private").glob("files-*.csv")
    assert stat.S_IMODE(names.stat().st_mode) == 0o600
    listing = pd.read_csv(names).set_index("key")["file"]
    assert set(listing[table(artifact)["file"]]) == {f"{'xy'[k % 2]}/Hidden_Person_{k}.dcm" for k in range(12)}


class TestPatients:
    def test_the_study_stands_in_with_a_warning(self, tmp_path):
        for study in range(12):
            for number in range(2):
                ds = make(slice_of(10 * study + number), PatientID="", StudyInstanceUID=f"1.2.{study + 1}")
                save(ds, tmp_path / "data" / "xy"[study % 2] / f"{study}-{number}.dcm")
        artifact = run(tmp_path)
        assert table(artifact)["patient"].nunique() == 12
        assert "no PatientID in 24 file(s): the study stands for the patient" in artifact.meta["warnings"]

    def test_one_number_of_two_issuers_is_two_patients(self, tmp_path):
        for number in range(12):
            ds = make(slice_of(number), PatientID="1", IssuerOfPatientID=f"clinic {number}")
            save(ds, tmp_path / "data" / "xy"[number % 2] / f"{number}.dcm")
        assert table(run(tmp_path))["patient"].nunique() == 12

    def test_pictures_know_no_patients(self, tmp_path):
        for number in range(24):
            file = tmp_path / "data" / "xy"[number % 2] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((slice_of(number) % 256).astype("u1")).save(file)
        artifact = run(tmp_path, window="full")
        assert table(artifact)["patient"].nunique() == 24
        assert artifact.meta["warnings"][0].startswith("patients unknown for 24 file(s)")
        assert artifact.meta["value_range"] == {"low": 0.0, "high": 255.0, "unit": "1"}

    @pytest.mark.parametrize("patients", [2, 4])
    def test_too_few_patients_for_a_split(self, tmp_path, patients):
        archive(tmp_path / "data", patients=patients)
        with pytest.raises(MedaugError, match=rf"class 'x': {patients // 2} patient\(s\), expected at least 3"):
            run(tmp_path)


class TestLabels:
    def test_from_a_tag_with_a_mapping(self, tmp_path):
        for patient in range(18):
            ds = make(
                slice_of(patient), PatientID=f"P{patient}", BodyPartExamined=("CHEST", "HEAD", "KNEE")[patient % 3]
            )
            save(ds, tmp_path / "data" / f"{patient}.dcm")
        labels = {"by": "tag", "tag": "BodyPartExamined", "mapping": {"CHEST": "thorax", "HEAD": "skull"}}
        artifact = run(tmp_path, labels=labels)
        assert artifact.meta["classes"] == ["skull", "thorax"]
        assert artifact.meta["found"]["unlabelled"] == 6

    def test_none_has_a_label(self, tmp_path):
        archive(tmp_path / "data")
        with pytest.raises(MedaugError, match=r"none of 24 readable file\(s\) has a label \(first: x/00-0\.dcm"):
            run(tmp_path, labels={"by": "tag", "tag": "BodyPartExamined"})


class TestBadInput:
    def test_no_dicom(self, tmp_path):
        (tmp_path / "data" / "x").mkdir(parents=True)
        (tmp_path / "data" / "x" / "notes.txt").write_text("hello")
        with pytest.raises(MedaugError, match=r"holds no DICOM file among 1 file"):
            run(tmp_path)

    def test_nothing_usable_says_why(self, tmp_path):
        save(make(slice_of(0), Modality="MR"), tmp_path / "data" / "x" / "1.dcm")
        with pytest.raises(MedaugError, match="1 x modality MR has no Hounsfield units"):
            run(tmp_path)

    def test_hounsfield_units_of_pictures(self, tmp_path):
        (tmp_path / "data" / "x").mkdir(parents=True)
        Image.fromarray(np.zeros((16, 16), "u1")).save(tmp_path / "data" / "x" / "1.png")
        with pytest.raises(MedaugError, match="Hounsfield"):
            run(tmp_path)

    def test_a_numeric_window_over_mixed_units(self, tmp_path):
        archive(tmp_path / "data")
        save(make(slice_of(77), Modality="MR", PatientID="P0"), tmp_path / "data" / "x" / "mr.dcm")
        with pytest.raises(MedaugError, match="mixes CT"):
            run(tmp_path, window=[-100, 300])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"windw": "lung"}, "did you mean 'window'"),
            ({"window": "lungs"}, "did you mean 'lung'"),
            ({"size": [4, 16]}, "between 8 and 4096"),
            ({"channels": 3}, "channels"),
            ({"split": {"train": 0.9}}, "add up to 1.3"),
            ({"source": {"path": "x", "kind": "dcm"}}, "source.kind"),
        ],
    )
    def test_configuration(self, tmp_path, change, message):
        with pytest.raises(MedaugError, match=message.replace(".", r"\.")) as error:
            run(tmp_path, **change)
        assert "\n" not in str(error.value)

    def test_a_failed_ingest_leaves_no_artifact(self, tmp_path):
        archive(tmp_path / "data", patients=2)
        with pytest.raises(MedaugError):
            run(tmp_path)
        assert list((tmp_path / "store" / "dataset").iterdir()) == []


class TestNpz:
    def write(self, path, train, val, test):
        arrays = {}
        for part, (images, labels) in {"train": train, "val": val, "test": test}.items():
            arrays[f"{part}_images"] = np.stack(images)
            arrays[f"{part}_labels"] = np.array(labels, np.uint8)
        np.savez(path, **arrays)

    def picture(self, number):
        return (slice_of(number) % 256).astype(np.uint8)

    def test_the_own_split_is_respected_and_the_test_set_keeps_its_copies(self, tmp_path):
        train = [self.picture(k) for k in range(10)]
        val = [self.picture(k) for k in range(20, 24)]
        test = [self.picture(k) for k in range(30, 36)] + [train[0]]  # a leak in the published split
        sides = [(images, [k % 2 for k in range(len(images))]) for images in (train, val, test)]
        self.write(tmp_path / "data.npz", *sides)
        source = {"path": str(tmp_path / "data.npz")}
        artifact = run(tmp_path, source=source, window="full", labels={"mapping": {"0": "no", "1": "yes"}})
        assert {name: len(ScanDataset(artifact.path, name)) for name in ("train", "validation", "test")} == {
            "train": 9, "validation": 4, "test": 7,
        }  # fmt: skip
        assert artifact.meta["found"]["duplicates"] == 1
        assert any("several sides of the source's own split" in warning for warning in artifact.meta["warnings"])
        assert artifact.meta["split"] == "the source's own"

    def test_a_split_without_a_class(self, tmp_path):
        images = [[self.picture(10 * side + k) for k in range(4)] for side in range(3)]
        self.write(tmp_path / "data.npz", *((image, [0, 1, 0, side != 1]) for side, image in enumerate(images)))
        arrays = dict(np.load(tmp_path / "data.npz"))
        arrays["val_labels"][:] = 0
        np.savez(tmp_path / "data.npz", **arrays)
        with pytest.raises(MedaugError, match="no 1 in validation"):
            run(tmp_path, source={"path": str(tmp_path / "data.npz")}, window="full")


class TestLeaks:
    def frame(self, patients, field):
        rows = [
            {"patient": f"p{k}", "label": "xy"[k % 2], "manufacturer": "M", "contrast_agent": False, "kernel": "K",
             "source_rows": 512, "photometric": "MONOCHROME2", **field(k)}
            for k in range(patients) for _ in range(3)
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def test_a_field_that_follows_the_label_is_found(self):
        leaks = header_leaks(self.frame(40, lambda k: {"manufacturer": "AB"[k % 2]}))
        assert [leak["field"] for leak in leaks] == ["Manufacturer"]
        assert leaks[0]["cramers_v"] == pytest.approx(1, abs=0.02)
        assert leaks[0]["patients"] == 40

    def test_a_contrast_agent_in_a_part_of_one_class(self):
        leaks = header_leaks(self.frame(60, lambda k: {"contrast_agent": k % 2 == 0 and k < 24}))
        assert [leak["field"] for leak in leaks] == ["ContrastBolusAgent (filled in or not)"]

    def test_fields_that_are_independent_or_constant_are_not(self):
        assert header_leaks(self.frame(40, lambda k: {"kernel": "AB"[(k // 2) % 2]})) == []

    def test_many_slices_of_few_patients_are_no_evidence(self):
        assert header_leaks(self.frame(4, lambda k: {"manufacturer": "AB"[k % 2]})) == []

    def test_the_corrected_v_against_its_formula(self):
        table = np.array([[12, 5], [7, 16]])
        phi2 = (12 * 16 - 5 * 7) ** 2 / (17 * 23 * 19 * 21)
        expected = np.sqrt((phi2 - 1 / 39) / (2 - 1 / 39 - 1))
        assert cramers_v(table)[0] == pytest.approx(expected)


def test_phantoms_by_their_preset(tmp_path):
    data = expand_preset("data", {"preset": "phantom", "source": {"phantom": {"patients": 30, "size": 64}}}, None, "x")
    config = validate(DataConfig, data, "data")
    store, private = Store(tmp_path / "store"), tmp_path / "private"
    artifact = ingest(config, store, private, lambda *_: None)
    meta = artifact.meta
    assert meta["classes"] == ["effusion", "healthy", "nodule"]
    assert meta["found"]["files"] == meta["found"]["kept"] == meta["found"]["slices"] >= 60
    assert meta["modality"] == "CT"
    assert meta["pixel_spacing"][0] == pytest.approx(11.5, abs=2)  # a chest on 32 pixels
    assert meta["header_leaks"] == []
    assert ingest(config, store, private, lambda *_: pytest.fail("read again")).digest == artifact.digest


class TestRealData:
    def test_ct100(self, tmp_path, real_data):
        data = expand_preset("data", "ct100", None, "data")
        data["source"]["path"] = str(real_data / "ct100" / "dicom")
        data["labels"]["file"] = str(real_data / "ct100" / "labels.csv")
        config = validate(DataConfig, data, "data")
        artifact = ingest(config, Store(tmp_path / "store"), tmp_path / "private", lambda *_: None)
        found = artifact.meta["found"]
        assert (found["files"], found["kept"], found["duplicates"]) == (100, 94, 6)
        slices = table(artifact)
        assert slices["patient"].nunique() == 54
        assert slices.groupby("patient")["split"].nunique().max() == 1
        assert (slices.groupby("patient")["label"].nunique() > 1).sum() == 9
        assert "ContrastBolusAgent" in " ".join(leak["field"] for leak in artifact.meta["header_leaks"])

    def test_breastmnist(self, tmp_path, real_data):
        source = {"path": str(real_data / "breastmnist" / "breastmnist.npz")}
        artifact = run(tmp_path, source=source, window="full", size=[28, 28])
        # The published 546 / 78 / 156, less one image that is malignant in train and benign in test.
        assert [len(ScanDataset(artifact.path, split)) for split in ("train", "validation", "test")] == [545, 78, 155]
        assert artifact.meta["found"]["set_aside"] == 2
