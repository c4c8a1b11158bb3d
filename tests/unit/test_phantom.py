import csv
import hashlib

import numpy as np
import pytest
from pydicom import dcmread

from pipeline.dicom.read import read_dicom
from pipeline.geometry import Geometry
from pipeline.phantom import CLASSES, VENDORS, draw_patient, write_phantoms
from pipeline.preprocess import Preparation, Window
from pipeline.records import MedaugError


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    return write_phantoms(tmp_path_factory.mktemp("phantoms") / "set", patients=45, size=48, seed=3)


def rows(folder, name):
    with (folder / name).open() as stream:
        return list(csv.DictReader(stream))


def draw(label, seed=0, slices=3, size=96):
    return draw_patient(label, slices, size, False, np.random.default_rng(seed))


@pytest.mark.parametrize("label", CLASSES)
def test_the_anatomy_is_there(label):
    for seed in range(5):
        hu = draw(label, seed)[1].hu
        assert hu[:2].mean() == pytest.approx(-1000, abs=25)  # air above
        inside = hu[24:72, 24:72]
        assert (inside < -600).mean() > 0.08  # lungs
        assert ((inside > -50) & (inside < 120)).mean() > 0.15  # soft tissue
        assert (hu > 200).sum() > 10  # bone
        middle = hu[40:56, 44:52]
        assert np.median(middle) > -100  # the mediastinum parts the lungs


def test_slices_of_a_patient_resemble_each_other_more_than_those_of_another():
    within, between = [], []
    for seed in range(6):
        own, other = draw("healthy", seed), draw("healthy", seed + 100)
        within.append(np.abs(own[0].hu - own[1].hu).mean())
        between.append(np.abs(own[0].hu - other[0].hu).mean())
    assert max(within) < min(between)


def test_the_nodule_is_where_the_ground_truth_says():
    for seed in range(8):
        for drawn in draw("nodule", seed, size=128):
            found = drawn.finding
            assert found.diameter_mm is not None
            assert found.x_mm is not None
            assert found.y_mm is not None
            y, x = np.mgrid[:128, :128]
            far = np.hypot((x - 63.5) * drawn.spacing_mm - found.x_mm, (y - 63.5) * drawn.spacing_mm - found.y_mm)
            spot = drawn.hu[far < found.diameter_mm / 3]
            assert np.median(spot) > -250
            assert found.side == ("left" if found.x_mm > 0 else "right")


def test_fluid_lies_at_the_back_of_its_side():
    for seed in range(8):
        drawn = draw("effusion", seed, size=128)[0]
        lungs = drawn.hu < -500
        lungs[:, :10] = lungs[:, -10:] = False
        body = drawn.hu[64] > -300
        left, right = np.flatnonzero(body)[[0, -1]]
        columns = slice(left + 12, 64) if drawn.finding.side == "right" else slice(64, right - 12)
        other = slice(64, right - 12) if drawn.finding.side == "right" else slice(left + 12, 64)
        rear = slice(70, 100)
        assert lungs[rear, columns].sum() < lungs[rear, other].sum()


def test_files_are_real_ct_images(phantoms):
    labels, truth = rows(phantoms, "labels.csv"), rows(phantoms, "attributes.csv")
    files = sorted(file.relative_to(phantoms / "dicom").as_posix() for file in phantoms.rglob("*.dcm"))
    assert files == sorted(row["file"] for row in labels) == sorted(row["file"] for row in truth)
    seen = [dcmread(phantoms / "dicom" / row["file"]) for row in labels]
    assert {ds.SOPClassUID.name for ds in seen} == {"CT Image Storage"}
    assert len({ds.SOPInstanceUID for ds in seen}) == len(seen)
    assert len({ds.PatientID for ds in seen}) == len({ds.SeriesInstanceUID for ds in seen}) == 45
    per_patient = np.bincount([int(ds.PatientID[-4:]) for ds in seen])
    assert set(per_patient) <= {2, 3, 4}
    assert str(seen[0].PatientName) == "Phantom^0001"
    assert {ds.PhotometricInterpretation for ds in seen} == {"MONOCHROME1", "MONOCHROME2"}
    assert len({ds.file_meta.TransferSyntaxUID for ds in seen}) == 4
    assert all("WindowCenter" in ds or "VOILUTSequence" in ds for ds in seen)
    for row in truth:
        assert (row["diameter_mm"] != "") == (row["label"] == "nodule")
        assert (row["depth_mm"] != "") == (row["label"] == "effusion")
        assert (row["side"] != "") == (row["label"] != "healthy")


@pytest.mark.parametrize("keyword", ["Manufacturer", "PhotometricInterpretation", "TransferSyntaxUID"])
def test_no_header_tells_the_class(phantoms, keyword):
    by_class = {name: {} for name in CLASSES}
    for row in rows(phantoms, "labels.csv"):
        ds = dcmread(phantoms / "dicom" / row["file"])
        by_class[row["label"]][ds.PatientID] = str(ds.get(keyword) or ds.file_meta.get(keyword))
    tallies = [sorted(patients.values()) for patients in by_class.values()]
    assert tallies[0] == tallies[1] == tallies[2]
    assert len(set(tallies[0])) > 1
    assert len(VENDORS) == 2


@pytest.mark.parametrize("window", ["chest_wide", "dicom"])
def test_either_polarity_comes_out_alike(phantoms, window):
    preparation = Preparation(Window.parse(window), Geometry(48, 48))
    for file in sorted(phantoms.rglob("01.dcm")):
        image = read_dicom(file.read_bytes(), preparation).images[0]
        assert image[:2].mean() < -0.9  # air is black
        assert image[20:28, 20:28].mean() > -0.2


def test_equal_seeds_give_equal_files_and_other_seeds_other_ones(tmp_path):
    digests = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        folder = write_phantoms(tmp_path / name, patients=9, size=32, seed=seed)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        digests.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert digests[0] == digests[1]
    assert not set(digests[0]) & set(digests[2])


def test_a_folder_that_is_there_stays_as_it_is(tmp_path):
    (tmp_path / "mine").mkdir()
    assert write_phantoms(tmp_path / "mine") == tmp_path / "mine"
    assert not list((tmp_path / "mine").iterdir())


@pytest.mark.parametrize("wrong", [{"patients": 8}, {"size": 16}])
def test_too_few(tmp_path, wrong):
    with pytest.raises(MedaugError, match="expected at least"):
        write_phantoms(tmp_path / "x", **wrong)
