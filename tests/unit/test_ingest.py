import json
import stat

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydicom.uid import JPEGLSLossless, generate_uid

from pipeline.codes import image_hash
from pipeline.config import expand_preset, validate
from pipeline.dataset import ScanDataset
from pipeline.dicom.deidentify import Keys
from pipeline.ingest import DataConfig, ingest
from pipeline.records import MedaugError
from pipeline.store import Store
from tests.unit.dicom_files import make, save

PARTS = ("kept", "duplicates", "quarantined", "set_aside", "unlabelled")


CUT = "pixel data cut off: expected 512 bytes, found 472"


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
    monkeypatch.setattr("pipeline.ingest.Workers", lambda *_: pytest.fail("read a file"))
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
        CUT: 1,
        "a localizer": 1,
        "no DICOM file": 1,
    }
    assert artifact.meta["quarantine"]["files"][0]["status"] == "quarantined"
    warnings = " ".join(artifact.meta["warnings"])
    assert "1 readable file(s) without a label" in warnings
    assert "different labels" in warnings


def test_the_first_good_copy_of_an_instance_is_kept(tmp_path):
    data = archive(tmp_path / "data")
    original = (data / "x" / "00-0.dcm").read_bytes()
    (data / "x" / "00-0.dcm").write_bytes(original[:-40])  # the first copy is damaged
    (data / "x" / "00-0-again.dcm").write_bytes(original)
    other = bytearray(original)
    other[-2:] = b"\x07\x00"  # the same SOPInstanceUID over another pixel
    (data / "x" / "00-0-other.dcm").write_bytes(bytes(other))
    artifact = run(tmp_path)
    found = artifact.meta["found"]
    assert (found["files"], found["kept"], found["duplicates"], found["quarantined"]) == (26, 24, 1, 1)
    assert any("different pixels" in warning for warning in artifact.meta["warnings"])


def test_a_study_is_of_one_patient_though_files_lack_the_number(tmp_path):
    for study in range(20):
        for number in range(2):
            ds = make(
                slice_of(10 * study + number), 12, PatientID=f"P{study}" if number else "",
                StudyInstanceUID=f"1.2.{study + 1}",
            )  # fmt: skip
            save(ds, tmp_path / "data" / "xy"[study % 2] / f"{study}-{number}.dcm")
    artifact = run(tmp_path)
    assert table(artifact).groupby("study")["split"].nunique().max() == 1
    assert len(set(ScanDataset(artifact.path).patients)) == 20
    assert any("share identical slices or a study" in warning for warning in artifact.meta["warnings"])


def test_slices_that_show_nothing_join_nobody(tmp_path):
    data = archive(tmp_path / "data", patients=12, slices=1)
    for patient in range(12):
        air = np.full((16, 16), 10 + patient, "u2")  # each another shade of air, all black in the window
        save(make(air, 12, PatientID=f"P{patient}"), data / "xy"[patient % 2] / f"air-{patient}.dcm")
    found = run(tmp_path).meta["found"]
    assert (found["kept"], found["set_aside"], found["duplicates"]) == (12, 12, 0)


def test_strangers_under_one_instance_uid_are_strangers(tmp_path):
    for patient in range(12):
        ds = make(slice_of(patient), 12, PatientID=f"P{patient}", StudyInstanceUID=f"1.2.{patient + 1}")
        ds.SOPInstanceUID = "1.2.3.4"
        save(ds, tmp_path / "data" / "xy"[patient % 2] / f"{patient}.dcm")
    assert run(tmp_path).meta["found"]["kept"] == 12


def test_equal_pixels_in_any_encoding_are_one_slice(tmp_path):
    data = archive(tmp_path / "data", slices=1)
    stored = np.kron(slice_of(4711), np.ones((4, 4))).astype("u2")
    save(make(stored, 12, PatientID="P0"), data / "x" / "plain.dcm")
    packed = make(stored, 12, PatientID="P2")
    packed.compress(JPEGLSLossless)
    save(packed, data / "x" / "packed.dcm")
    half = make((stored * 2).astype("u2"), 13, PatientID="P4", RescaleSlope=0.5)  # other stored values, the same HU
    save(half, data / "x" / "half.dcm")
    artifact = run(tmp_path)
    assert artifact.meta["found"]["duplicates"] == 2
    assert any("3 patients share identical slices or a study" in warning for warning in artifact.meta["warnings"])


def test_folds_cover_every_patient_once(tmp_path):
    archive(tmp_path / "data", patients=20, slices=2)
    tested = []
    for fold in range(4):
        slices = table(run(tmp_path, split={"by": "folds", "folds": 4, "fold": fold}))
        assert slices.groupby("patient")["split"].nunique().max() == 1
        tested += list(slices.loc[slices["split"] == "test", "patient"].unique())
    assert len(tested) == len(set(tested)) == 20


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
    assert any("10 patients share identical slices or a study" in warning for warning in artifact.meta["warnings"])


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
    assert set(pd.read_csv(names)["fate"]) == {"kept", "quarantined"}
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

    @pytest.mark.parametrize("key", ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID"])
    @pytest.mark.parametrize("kind", ["csv", "parquet"])
    def test_from_a_table_by_identity(self, tmp_path, key, kind):
        rows = []
        for patient in range(12):
            ds = make(slice_of(patient), PatientID=f"00{patient}", StudyInstanceUID=f"1.2.{patient + 1}")
            save(ds, tmp_path / "data" / f"{patient}.dcm")
            rows.append({key: getattr(ds, key), "finding": "ab"[patient % 2]})
        rows.append({key: "1.2.3.4.5.999", "finding": "a"})  # of another archive
        file = tmp_path / f"labels.{kind}"
        table_of = pd.DataFrame(rows)
        table_of.to_csv(file, index=False) if kind == "csv" else table_of.to_parquet(file)
        artifact = run(tmp_path, labels={"file": str(file), "columns": ["finding"]})
        slices = table(artifact).sort_values("file")
        assert artifact.meta["found"]["kept"] == 12
        names = pd.read_csv(next((tmp_path / "private").glob("files-*.csv"))).set_index("key")["file"]
        assert all("ab"[int(names[row.file].split(".")[0]) % 2] == row.label for row in slices.itertuples())

    def test_identities_of_another_archive_are_refused(self, tmp_path):
        archive(tmp_path / "data")
        (tmp_path / "labels.csv").write_text("PatientID,label\nnobody,x\nno one,y\n")
        with pytest.raises(MedaugError, match=r"none of its 2 PatientID\(s\) is in the data"):
            run(tmp_path, labels={"file": str(tmp_path / "labels.csv")})

    def test_several_columns_make_one_label_and_a_gap_makes_none(self, tmp_path):
        archive(tmp_path / "data", patients=12, slices=1)
        lines = [f"{'xy'[k % 2]}/{k:02d}-0.dcm,{'ab'[k % 2]},{'left' if k < 11 else ''}" for k in range(12)]
        (tmp_path / "labels.csv").write_text("\n".join(["file,what,side", *lines]))
        artifact = run(tmp_path, labels={"file": str(tmp_path / "labels.csv"), "columns": ["what", "side"]})
        assert artifact.meta["classes"] == ["a-left", "b-left"]
        assert artifact.meta["found"]["unlabelled"] == 1

    def test_patients_and_splits_from_columns(self, tmp_path):
        for number in range(24):
            file = tmp_path / "data" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((slice_of(number) % 256).astype("u1")).save(file)
        sides = ["train"] * 4 + ["val"] * 4 + ["test"] * 4
        rows = [f"{k}.png,{'ab'[k % 2]},person {k // 2},{sides[k // 2]}" for k in range(24)]
        (tmp_path / "labels.csv").write_text("\n".join(["file,label,patient,split", *rows]))
        labels = {"file": str(tmp_path / "labels.csv")}
        artifact = run(tmp_path, window="full", labels=labels, split={"by": "given"})
        slices = table(artifact)
        assert slices["patient"].nunique() == 12
        assert slices["split"].value_counts().to_dict() == {"train": 8, "validation": 8, "test": 8}
        assert not any("patients unknown" in warning for warning in artifact.meta["warnings"])
        half = [row.rsplit(",", 1)[0] + "," if k % 2 else row for k, row in enumerate(rows)]
        (tmp_path / "labels.csv").write_text("\n".join(["file,label,patient,split", *half]))
        with pytest.raises(MedaugError, match="12 of 24 labelled images have no side"):
            run(tmp_path, window="full", labels=labels, split={"by": "given"})

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
        assert any("several sides of the given split" in warning for warning in artifact.meta["warnings"])
        assert artifact.meta["split"] == "the source's own"

    def test_a_split_without_a_class(self, tmp_path):
        images = [[self.picture(10 * side + k) for k in range(4)] for side in range(3)]
        self.write(tmp_path / "data.npz", *((image, [0, 1, 0, side != 1]) for side, image in enumerate(images)))
        arrays = dict(np.load(tmp_path / "data.npz"))
        arrays["val_labels"][:] = 0
        np.savez(tmp_path / "data.npz", **arrays)
        with pytest.raises(MedaugError, match="no 1 in validation"):
            run(tmp_path, source={"path": str(tmp_path / "data.npz")}, window="full")


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
    assert not any(field["flagged"] for field in meta["audit"])
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
        verdicts = {field["field"]: field["verdict"] for field in artifact.meta["audit"]}
        assert verdicts["ContrastBolusAgent"] == "leak"
        assert verdicts["Manufacturer"] == "suspect"  # over slices its interval excludes 0.5; 54 patients do not decide

    def test_breastmnist(self, tmp_path, real_data):
        source = {"path": str(real_data / "breastmnist" / "breastmnist.npz")}
        artifact = run(tmp_path, source=source, window="full", size=[28, 28])
        # The published 546 / 78 / 156, less one image that is malignant in train and benign in test.
        assert [len(ScanDataset(artifact.path, split)) for split in ("train", "validation", "test")] == [545, 78, 155]
        assert artifact.meta["found"]["set_aside"] == 2
