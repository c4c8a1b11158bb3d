"""Exports of synthetic sets: formats that other programs read, the gate against copies, the datasheet, bad input."""

import csv
import json
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

import medgan
from flows.cli import main
from flows.exports.export import ExportRequest, export
from flows.exports.writers import folder_names
from pipeline import ScanDataset
from pipeline.codes import encode
from pipeline.dataset import dataset_meta, write_index
from pipeline.npz import open_npz
from pipeline.records import MedaugError, ResultRow, ValueRange, write_rows
from pipeline.store import Recipe, Store
from tests.unit.medgan_toys import RANGE, spec
from tests.unit.test_medgan_sampling import generator

TRAIN, VALIDATION, COPIES = 40, 24, 3


def blobs(rng, count, size=16):
    """Smooth random images in [-1, 1], none like another."""
    coarse = rng.normal(0, 1, (count, 1, size // 4, size // 4))
    images = coarse.repeat(4, axis=2).repeat(4, axis=3) + rng.normal(0, 0.5, (count, 1, size, size))
    return np.clip(images / 3, -1, 1)


@pytest.fixture
def house(tmp_path):
    """A runs folder with a dataset, a generator trained on it, and a synthetic set with planted copies."""
    rng = np.random.default_rng(0)
    store = Store(tmp_path / "runs" / "artifacts")
    train = blobs(rng, TRAIN)
    # Validation images somewhat like training images: nothing but a copy is more like one than they are.
    real = encode(np.concatenate([train, 0.7 * train[:VALIDATION] + 0.3 * blobs(rng, VALIDATION)]))

    def dataset(draft):
        np.save(draft.folder / "images.npy", real)
        labels = np.arange(len(real)) % 2
        write_index(draft.folder, real, labels, [0] * TRAIN + [1] * VALIDATION, range(len(real)))
        counts = {"train": {name: {"slices": TRAIN // 2, "patients": TRAIN // 2} for name in ("plain", "contrast")}}
        draft.meta.update(dataset_meta(spec(), RANGE, False, counts=counts, warnings=["few patients"]))
        draft.meta.update(modality="CT", pixel_spacing=[2.5, 2.5])

    data = store.get_or_create(Recipe("dataset", "d", {}, {}, "test"), dataset)
    gan = generator("stylegan2")
    made = store.get_or_create(
        Recipe("generator", "g", {"dataset": data.digest}, {}, "test"), lambda draft: gan.save(draft.folder)
    )

    def synthetic(draft):
        codes = np.concatenate([encode(blobs(rng, 9)), real[:COPIES]])
        np.save(draft.folder / "images.npy", codes)
        write_index(draft.folder, codes, [0] * 6 + [1] * 6, [0] * 12, [-1] * 12)
        draft.meta.update(dataset_meta(spec(), RANGE, True, counts={"plain": 6, "contrast": 6}))
        draft.meta.update(gan="stylegan2", seed=7, truncation=1.0, generator=made.digest, dataset=data.digest)

    drawn = store.get_or_create(Recipe("synthetic", "s", {"generator": made.digest}, {}, "test"), synthetic)

    def score(draft):
        rows = [
            ResultRow("score", "kid.domain", 0.25, 0.2, 0.3, n_real=40, n_synthetic=12),
            ResultRow("score", "kid.domain.plain", 0.5),
        ]
        write_rows(draft.folder / "rows.jsonl", rows)

    store.get_or_create(Recipe("score", "s", {"synthetic": drawn.digest}, {}, "test"), score)
    return {"runs": tmp_path / "runs", "data": data, "generator": made, "synthetic": drawn, "out": tmp_path / "out"}


def exported(house, **options):
    source = options.pop("source", house["synthetic"].path)
    request = {"runs": house["runs"], "out": house["out"], **options}
    return export(ExportRequest(str(source), **request))


def pictures(house):
    """The nine images that are no copies, as 8 bits."""
    unit = ScanDataset(house["synthetic"].path).tensor().numpy()[:9, 0]
    return np.rint((unit + 1) * 127.5).astype(np.uint8)


def test_copies_stay_and_the_rest_goes(house):
    result = exported(house, form="artifact")
    assert result["copies"] == {"checked": True, "left_out": COPIES}
    assert result["classes"] == {"plain": 6, "contrast": 3}
    data = ScanDataset(house["out"])
    assert data.artifact.meta["copies"]["left_out"] == COPIES
    data.artifact.verify()
    np.testing.assert_array_equal(data.codes, ScanDataset(house["synthetic"].path).codes[:9])
    assert medgan.SyntheticDataset(house["out"], real=ScanDataset(house["data"].path, "train"))[8]["label"] == 1


def test_without_the_training_images_nothing_goes_unless_told(house, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    with pytest.raises(MedaugError, match=r"not in .*cannot be checked for copies.*--no-copy-check"):
        exported(house, runs=elsewhere)
    assert not house["out"].exists()
    assert exported(house, runs=elsewhere, training=house["data"].path)["images"] == 9
    shutil.rmtree(house["out"])
    result = exported(house, runs=elsewhere, copy_check=False, form="png")
    assert result["images"] == 12
    assert "NOT compared with the training images" in result["text"]
    assert "NOT compared with the training images" in (house["out"] / "DATASHEET.md").read_text()
    assert json.loads((house["out"] / "datasheet.json").read_text())["copies"]["checked"] is False


def test_other_training_data_are_refused(house, make_dataset):
    other = make_dataset().path
    with pytest.raises(MedaugError, match=r"--training .*: is dataset .*, but .* was made from"):
        exported(house, training=other)
    with pytest.raises(MedaugError, match="is a synthetic artifact, expected a dataset artifact"):
        exported(house, training=house["synthetic"].path)


def test_nothing_but_copies_is_no_export(house):
    def copies(draft):
        codes = ScanDataset(house["data"].path).codes[:4]
        np.save(draft.folder / "images.npy", codes)
        write_index(draft.folder, codes, [0, 1, 0, 1], [0] * 4, [-1] * 4)
        draft.meta.update(house["synthetic"].meta)

    store = Store(house["runs"] / "artifacts")
    only = store.get_or_create(Recipe("synthetic", "c", {}, {}, "test"), copies)
    with pytest.raises(MedaugError, match="all 4 images are copies of training images"):
        exported(house, source=only.path, form="png")
    assert not house["out"].exists()


def test_png(house):
    exported(house, form="png")
    found = [np.asarray(Image.open(house["out"] / "plain" / f"{i:05d}.png")) for i in range(6)]
    found += [np.asarray(Image.open(house["out"] / "contrast" / f"{i:05d}.png")) for i in range(3)]
    np.testing.assert_array_equal(np.stack(found), pictures(house))
    assert len(list(house["out"].rglob("*.png"))) == 9


def test_npz_as_medmnist_lays_it_out(house):
    exported(house, form="npz")
    with np.load(house["out"] / "synthetic.npz") as arrays:
        assert sorted(arrays) == [
            f"{part}_{what}" for part in ("test", "train", "val") for what in ("images", "labels")
        ]
        np.testing.assert_array_equal(arrays["train_images"], pictures(house))
        assert arrays["train_labels"].shape == (9, 1)
        assert arrays["train_labels"].dtype == np.uint8
        assert arrays["val_images"].shape == (0, 16, 16)
        assert arrays["test_labels"].shape == (0, 1)
    again = open_npz(house["out"] / "synthetic.npz")  # the ingest's own reader
    assert again.labels[0].tolist() == [0] * 6 + [1] * 3


def test_a_hugging_face_imagefolder(house, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    exported(house, form="imagefolder")
    for arguments in ({"path": str(house["out"])}, {"path": "imagefolder", "data_dir": str(house["out"])}):
        loaded = datasets.load_dataset(**arguments, split="train", cache_dir=str(tmp_path / "cache"))
        assert len(loaded) == 9
        rows = sorted(loaded, key=lambda row: row["number"])
        np.testing.assert_array_equal(np.stack([np.asarray(row["image"]) for row in rows]), pictures(house))
        assert all(row["synthetic"] for row in rows)
        names = ["plain", "contrast"]
        labels = [names[row["label"]] if isinstance(row["label"], int) else row["label"] for row in rows]
        assert labels == ["plain"] * 6 + ["contrast"] * 3
    assert (
        datasets.load_dataset(str(house["out"]), split="train", cache_dir=str(tmp_path)).features["label"].names
        == names
    )


def test_dicom(house):
    exported(house, form="dicom")
    with (house["out"] / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    files = [dcmread(house["out"] / row["file"]) for row in rows]
    assert [row["label"] for row in rows] == ["plain"] * 6 + ["contrast"] * 3
    unit = ScanDataset(house["synthetic"].path).tensor().numpy()[:9, 0]
    for image, ds in zip(unit, files, strict=True):
        assert (ds.Modality, ds.SyntheticData, list(ds.PixelSpacing)) == ("CT", "YES", [2.5, 2.5])
        assert house["generator"].digest in ds.DerivationDescription
        assert "seed 7" in ds.DerivationDescription
        hu = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
        np.testing.assert_allclose(hu, (image + 1) * 700 - 1000, atol=1400 / 65535)
    for uid in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID"):
        assert len({ds[uid].value for ds in files}) == 9  # one image, one patient that is none


def test_the_datasheet_says_what_and_how_and_whence(house):
    exported(house, form="png", licence="CC BY 3.0")
    data = json.loads((house["out"] / "datasheet.json").read_text())
    assert data["content"]["classes"] == {"plain": 6, "contrast": 3}
    assert data["made"]["generator"] == house["generator"].digest
    assert data["made"]["training_data"] == house["data"].digest
    assert data["made"]["training_images"] == TRAIN
    assert (data["made"]["seed"], data["made"]["truncation"]) == (7, 1.0)
    assert data["copies"]["left_out"] == COPIES
    assert [row["metric"] for row in data["scores"]] == ["kid.domain"]
    assert data["warnings_about_the_source"] == ["few patients"]
    assert len(data["files_sha256"]) == 9
    text = (house["out"] / "DATASHEET.md").read_text()
    for line in (
        "CC BY 3.0",
        "No patient is depicted",
        "| kid.domain | 0.25 | 0.2 to 0.3 | 40 | 12 |",
        "3 of 12 images left out",
    ):
        assert line in text
    assert str(house["runs"]) not in text + json.dumps(data)


def test_from_a_generator_it_draws_what_the_artifact_would_hold(house):
    result = exported(house, source=house["generator"].path, per_class=3, seed=2, copy_check=False)
    assert result["images"] == 6
    made = ScanDataset(house["out"])
    assert (made.meta["generator"], made.meta["dataset"]) == (house["generator"].digest, house["data"].digest)
    again = medgan.SyntheticDataset(house["out"], real=ScanDataset(house["data"].path, "train"))
    assert len({item["image"].numpy().tobytes() for item in again}) == 6


@pytest.mark.parametrize(("truncation", "figures"), [(None, ["kid.domain"]), (1.0, ["kid.domain"]), (0.5, [])])
def test_figures_are_those_of_the_same_truncation(house, truncation, figures):
    options = {"source": house["generator"].path, "per_class": 3, "copy_check": False, "form": "png"}
    exported(house, truncation=truncation, **options)
    data = json.loads((house["out"] / "datasheet.json").read_text())
    assert [row["metric"] for row in data["scores"]] == figures


def test_a_filtered_set_says_so_and_has_no_figures_of_the_unfiltered_one(house):
    def filtered(draft):
        whole = ScanDataset(house["synthetic"].path)
        codes = np.ascontiguousarray(whole.codes[[0, 1, 6]])
        np.save(draft.folder / "images.npy", codes)
        write_index(draft.folder, codes, [0, 0, 1], [0] * 3, [-1] * 3)
        draft.meta.update({**whole.meta, "filter": "confidence", "kept": [2, 1], "of": 12})

    store = Store(house["runs"] / "artifacts")
    source = store.get_or_create(Recipe("synthetic", "f", {}, {}, "test"), filtered).path
    exported(house, source=source, form="png")
    data = json.loads((house["out"] / "datasheet.json").read_text())
    assert data["scores"] == []
    assert data["made"]["filter"] == "confidence"
    assert data["made"]["kept_by_the_filter"] == "2 plain, 1 contrast, of 12 drawn"


def test_training_images_on_the_users_word_are_unproven(house):
    def nameless(draft):
        for name in ("images.npy", "index.npz"):
            shutil.copy(house["synthetic"].path / name, draft.folder)
        draft.meta.update({k: v for k, v in house["synthetic"].meta.items() if k != "dataset"})

    store = Store(house["runs"] / "artifacts")
    source = store.get_or_create(Recipe("synthetic", "n", {}, {}, "test"), nameless).path
    result = exported(house, source=source, training=house["data"].path, form="png")
    assert "UNPROVEN" in result["text"]
    assert "UNPROVEN: the generator does not name its training images" in (house["out"] / "DATASHEET.md").read_text()
    assert json.loads((house["out"] / "datasheet.json").read_text())["copies"]["proven"] is False
    shutil.rmtree(house["out"])
    assert "UNPROVEN" not in exported(house, form="png")["text"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "tiff"}, "--format tiff: expected one of artifact, dicom, png, npz, imagefolder"),
        ({"per_class": 0}, "--per-class 0: expected 1 or more"),
        ({"truncation": 1.5}, r"--truncation 1.5: expected above 0 and at most 1"),
        ({"truncation": 0.5}, "--truncation: .* is drawn already"),
        ({"seed": 3}, "--seed: .* is drawn already"),
    ],
)
def test_numbers_out_of_range(house, options, message):
    with pytest.raises(MedaugError, match=message):
        exported(house, **options)


def test_sources_and_folders_that_do_not_do(house):
    with pytest.raises(MedaugError, match="holds real images"):
        exported(house, source=house["data"].path)
    with pytest.raises(MedaugError, match="0 generators there"):
        exported(house, source=house["runs"] / "nowhere")
    house["out"].mkdir()
    with pytest.raises(MedaugError, match="exists already"):
        exported(house)


def test_the_command_ends_with_2_and_one_line(house, capsys):
    arguments = ["synthesize", str(house["synthetic"].path), "--out", str(house["out"]), "--runs", str(house["runs"])]
    assert main([*arguments, "--seed", "1"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "drawn already" in error
    assert main([*arguments, "--format", "npz", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["copies"] == {"checked": True, "left_out": COPIES}


def test_class_names_become_folders():
    assert folder_names(["a/b", "a:b", "Befund (1)", "   "]) == ["a_b", "a_b_1", "Befund (1)", "_"]


def refused_by_dciodvfy(file):
    """The validator's errors, but for the attribute that is newer than it."""
    done = subprocess.run(["dciodvfy", "-new", str(file)], capture_output=True, text=True, timeout=60)
    lines = (done.stdout + done.stderr).splitlines()
    return [line for line in lines if line.startswith("Error") and "(0008,001c)" not in line.lower()]


@pytest.mark.service
@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (package dicom3tools) is not installed")
@pytest.mark.parametrize(
    ("modality", "unit", "spacing"),
    [("CT", "HU", (2.5, 2.5)), ("CT", "HU", None), ("MR", "1", (1.0, 1.0)), ("DX", "1", None)],
)
def test_dicom_files_hold_to_their_information_object_definition(tmp_path, modality, unit, spacing):
    from pipeline.dicom.write import write_synthetic

    images = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16)).astype(np.float32)
    settings = {"modality": modality, "generator_hash": "abc", "seed": 1, "pixel_spacing": spacing}
    write_synthetic(images, [0, 1], ["a", "b"], ValueRange(-1000, 400, unit), tmp_path / "d", **settings)
    files = list((tmp_path / "d").glob("*.dcm"))
    assert len(files) == 2
    assert [refused_by_dciodvfy(file) for file in files] == [[], []]
    broken = dcmread(files[0])  # the validator is awake: without a type 1 attribute it complains
    del broken.Rows
    broken.save_as(tmp_path / "broken.dcm")
    assert refused_by_dciodvfy(tmp_path / "broken.dcm")
