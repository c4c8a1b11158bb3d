import csv

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import CTImageStorage, SecondaryCaptureImageStorage

from pipeline.dicom.read import read_dicom
from pipeline.dicom.write import TRANSFER_SYNTAXES, CtHeader, write_ct, write_synthetic
from pipeline.files import SetAside
from pipeline.records import ValueRange
from tests.unit.dicom_files import as_is, to_bytes

RANGE = ValueRange(-1000.0, 600.0, "HU")
IMAGES = np.random.default_rng(0).uniform(-1, 1, (6, 16, 16)).astype(np.float32)


def write(folder, **changes):
    arguments = {"generator_hash": "0123456789abcdef", "seed": 7, "pixel_spacing": (2.5, 2.5), **changes}
    value_range = arguments.pop("value_range", RANGE)
    count = write_synthetic(IMAGES, [0, 1, 0, 1, 0, 1], ["a", "b c"], value_range, folder, **arguments)
    assert count == 6
    with (folder / "labels.csv").open() as stream:
        return [(dcmread(folder / row["file"]), row["label"]) for row in csv.DictReader(stream)]


def test_physical_values_come_back_within_quantisation(tmp_path):
    for image, (ds, _) in zip(IMAGES, write(tmp_path / "out"), strict=True):
        hu = apply_modality_lut(ds.pixel_array, ds)
        np.testing.assert_allclose(hu, (image + 1) * 800 - 1000, atol=1600 / 65535 * 0.51)
        assert ds.RescaleType == "HU"


def test_every_file_says_that_it_is_synthetic(tmp_path):
    written = write(tmp_path / "out")
    for ds, label in written:
        assert ds[0x0008, 0x001C].value == "YES"
        assert ds.ImageType[:2] == ["DERIVED", "SECONDARY"]
        assert "SYNTHETIC" in ds.SeriesDescription
        assert label in ds.SeriesDescription
        assert "0123456789abcdef" in ds.DerivationDescription
        assert "seed 7" in ds.DerivationDescription
        assert ds.PatientID.startswith("SYNTHETIC-")
        assert ds.PatientBirthDate == ""
    assert [label for _, label in written] == ["a", "b c"] * 3
    assert len({ds.SOPInstanceUID for ds, _ in written}) == 6
    assert len({ds.PatientID for ds, _ in written}) == 6


@pytest.mark.parametrize(
    ("changes", "sop_class", "modality"),
    [
        ({}, CTImageStorage, "CT"),
        ({"pixel_spacing": None}, SecondaryCaptureImageStorage, "CT"),
        ({"modality": "MR", "value_range": ValueRange(0, 1)}, SecondaryCaptureImageStorage, "MR"),
        ({"modality": "", "value_range": ValueRange(0, 255)}, SecondaryCaptureImageStorage, "OT"),
    ],
)
def test_ct_image_storage_where_unit_and_spacing_are_known_else_secondary_capture(
    tmp_path, changes, sop_class, modality
):
    ds, _ = write(tmp_path / "out", **changes)[0]
    assert ds.SOPClassUID == ds.file_meta.MediaStorageSOPClassUID == sop_class
    assert modality == ds.Modality
    assert ("ImagePositionPatient" in ds) == (sop_class == CTImageStorage)  # Image Plane Module
    assert ("ConversionType" in ds) == (sop_class == SecondaryCaptureImageStorage)  # SC Equipment Module


def test_the_own_reader_takes_no_synthetic_file_for_a_scan_and_gets_its_values_otherwise(tmp_path):
    ds, _ = write(tmp_path / "out")[0]
    with pytest.raises(SetAside, match="a synthetic image"):
        read_dicom(to_bytes(ds), as_is("chest_wide"))
    del ds.SyntheticData
    np.testing.assert_allclose(read_dicom(to_bytes(ds), as_is("chest_wide")).images[0], IMAGES[0], atol=3e-5)


def test_equal_arguments_give_equal_files_and_other_seeds_other_uids(tmp_path):
    for name, seed in (("one", 7), ("two", 7), ("three", 8)):
        write(tmp_path / name, seed=seed)
    one, two, three = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "two", "three")
    )
    assert one == two
    assert one.keys() == three.keys()
    assert {dcmread(f).SOPInstanceUID for f in (tmp_path / "one").glob("*.dcm")}.isdisjoint(
        dcmread(f).SOPInstanceUID for f in (tmp_path / "three").glob("*.dcm")
    )


@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES)
def test_a_phantom_file_has_the_same_values_and_looks_the_same_in_either_polarity(tmp_path, syntax):
    hu = np.random.default_rng(0).uniform(-1024, 3071, (32, 32)).round()
    header = {
        "patient_id": "P1", "patient_name": "Phantom^0001", "sex": "F", "instance": 1, "spacing_mm": 1.0,
        "thickness_mm": 3.0, "position_mm": 10.0, "manufacturer": "V", "kernel": "K", "transfer_syntax": syntax,
        "uid_root": "test",
    }  # fmt: skip
    shown = []
    for inverted in (False, True):
        write_ct(tmp_path / "x.dcm", hu, CtHeader(**header, inverted=inverted))
        ds = dcmread(tmp_path / "x.dcm")
        assert ds.file_meta.TransferSyntaxUID == TRANSFER_SYNTAXES[syntax]
        assert ds.PhotometricInterpretation == ("MONOCHROME1" if inverted else "MONOCHROME2")
        values = apply_modality_lut(ds.pixel_array, ds)
        np.testing.assert_array_equal(values, hu)
        # What a viewer does (PS3.4 N.2), with pydicom's functions: VOI, then MONOCHROME1 inverted.
        screen = apply_voi_lut(values.astype("i4"), ds).astype(float)
        screen = (
            screen / 65535 if inverted else (screen + 1024) / 4095
        )  # pydicom's output range: the LUT's, the values'
        shown.append(1 - screen if inverted else screen)
        data = (tmp_path / "x.dcm").read_bytes()
        shown.append((read_dicom(data, as_is("dicom", 32)).images[0] + 1) / 2)
    np.testing.assert_allclose(shown[0], shown[2], atol=0.002)
    np.testing.assert_allclose(shown[1], shown[0], atol=0.002)
    np.testing.assert_allclose(shown[3], shown[0], atol=0.002)
    assert shown[0].std() > 0.3
