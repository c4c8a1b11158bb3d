import csv
import itertools
import re
import time

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    SegmentationStorage,
)

from pipeline.dicom import header as header_module
from pipeline.dicom.read import read_dicom
from pipeline.files import SetAside, Unreadable, list_entries
from pipeline.geometry import Geometry
from pipeline.preprocess import Preparation, Window
from pipeline.reading import look, prepare
from pipeline.scans import Rules
from tests.unit.dicom_files import as_is, make, to_bytes

HU = np.round(np.linspace(-1000, 1500, 256)).reshape(16, 16)


def read(ds, preparation):
    return read_dicom(to_bytes(ds), preparation).images[0]


def windowed(hu, low, high):
    return (np.clip((hu - low) / (high - low), 0, 1) * 2 - 1).astype(np.float32)


@pytest.mark.parametrize(
    ("dtype", "bits", "slope", "intercept"),
    [("u2", 12, 1, -1024), ("i2", 16, 1, 0), ("i2", 16, 1, -1024), ("u2", 16, 0.5, -1200), ("u2", 12, -1, 3071)],
)
def test_equal_hounsfield_units_give_equal_arrays_in_whatever_way_they_are_stored(dtype, bits, slope, intercept):
    stored = np.round((HU - intercept) / slope).astype(dtype)
    ds = make(stored, bits, RescaleSlope=slope, RescaleIntercept=intercept)
    np.testing.assert_allclose(read(ds, as_is("chest_wide")), windowed(HU, -1000, 600), atol=1e-5)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_lossless_compression_changes_nothing(syntax):
    stored = np.kron(HU + 1024, np.ones((4, 4))).astype("u2")  # JPEG 2000 refuses tiny images
    plain, packed = make(stored, 12), make(stored, 12)
    packed.compress(syntax)
    np.testing.assert_array_equal(read(plain, as_is("lung", 64)), read(packed, as_is("lung", 64)))


def test_decimal_strings_as_siemens_writes_them():
    ds = make((HU + 1024).astype("u2"), 12, RescaleIntercept="-01.024000E+03", RescaleSlope="1.000000E+00")
    np.testing.assert_allclose(read(ds, as_is("bone")), windowed(HU, -450, 1050), atol=1e-5)


class TestPolarity:
    """PS3.3 C.7.6.3.1.2: MONOCHROME1 shows the lowest value after the VOI transform as white."""

    def test_hounsfield_units_have_no_polarity(self):
        stored = (HU + 1024).astype("u2")
        flagged = make(stored, 12, PhotometricInterpretation="MONOCHROME1")
        np.testing.assert_array_equal(read(flagged, as_is("chest_wide")), read(make(stored, 12), as_is("chest_wide")))

    @pytest.mark.parametrize(("dtype", "bits", "total"), [("u2", 12, 4095), ("u2", 16, 65535), ("i2", 16, -1)])
    def test_a_complement_under_an_ordinary_rescale_is_turned_back(self, dtype, bits, total):
        hu = np.full((16, 16), -1000.0)
        hu[4:12, 4:12] = np.linspace(-200, 400, 64).reshape(8, 8).round()
        intercept = 0 if dtype == "i2" else -1024
        stored = (hu - intercept).astype(dtype)
        twin = make(
            (total - stored).astype(dtype), bits, RescaleIntercept=intercept, PhotometricInterpretation="MONOCHROME1"
        )
        loaded = read_dicom(to_bytes(twin), as_is("mediastinum"))
        np.testing.assert_allclose(loaded.images[0], windowed(hu, -160, 240), atol=1e-5)
        assert any("turned back" in note for note in loaded.notes)

    def test_on_display_the_complement_with_a_mirrored_window_looks_the_same(self):
        stored = np.arange(256, dtype="u2").reshape(16, 16) * 16
        center, width = 1000, 1500
        one = make(
            stored, 12, RescaleIntercept=0, WindowCenter=center, WindowWidth=width, VOILUTFunction="LINEAR_EXACT"
        )
        other = make(
            (4095 - stored).astype("u2"),
            12,
            RescaleIntercept=0,
            WindowCenter=4095 - center,
            WindowWidth=width,
            VOILUTFunction="LINEAR_EXACT",
            PhotometricInterpretation="MONOCHROME1",
        )
        np.testing.assert_allclose(read(one, as_is("dicom")), read(other, as_is("dicom")), atol=1e-5)
        assert read(one, as_is("dicom")).std() > 0.5

    def test_the_display_of_one_and_the_same_values_is_inverted(self):
        attributes = {"WindowCenter": 200, "WindowWidth": 900}
        stored = (HU + 1024).astype("u2")
        shown = read(make(stored, 12, **attributes), as_is("dicom"))
        flipped = read(make(stored, 12, PhotometricInterpretation="MONOCHROME1", **attributes), as_is("dicom"))
        np.testing.assert_allclose(flipped, -shown, atol=1e-6)

    def test_a_radiograph_without_a_unit_is_inverted_under_a_numeric_window(self):
        stored = np.arange(256, dtype="u2").reshape(16, 16)
        plain = {"Modality": "CR", "RescaleSlope": None, "RescaleIntercept": None}
        one = make(stored, 8, **plain)
        other = make((255 - stored).astype("u2"), 8, PhotometricInterpretation="MONOCHROME1", **plain)
        np.testing.assert_allclose(read(one, as_is((0, 255))), read(other, as_is((0, 255))), atol=1e-6)
        np.testing.assert_allclose(read(other, as_is("full")), read(one, as_is("full")), atol=1e-6)


class TestPadding:
    def test_padding_is_black_whatever_its_value(self):
        stored = (HU + 1024).astype("i2")
        stored[:4] = 3000
        ds = make(stored, PixelPaddingValue=3000)
        image = read(ds, as_is("chest_wide"))
        assert (image[:4] == -1).all()
        np.testing.assert_allclose(image[4:], windowed(HU[4:], -1000, 600), atol=1e-5)

    def test_an_unsigned_padding_value_in_signed_data_is_what_its_bits_say(self):
        stored = (HU + 1024).astype("i2")
        stored[0] = -2000
        ds = make(stored, RescaleIntercept=1000)  # so that the padding would not be dark by itself
        ds.add_new("PixelPaddingValue", "US", 63536)  # ct100: 63536 - 65536 = -2000
        assert (read(ds, as_is((-1500, 4000)))[0] == -1).all()

    def test_a_padding_range(self):
        stored = np.full((16, 16), 2000, "u2")
        stored[0], stored[1], stored[2] = 10, 15, 20
        ds = make(stored, PixelPaddingValue=20, PixelPaddingRangeLimit=10, RescaleIntercept=0, Modality="MR")
        image = read(ds, as_is((-4000, 4000)))
        assert (image[:3] == -1).all()
        np.testing.assert_allclose(image[3:], 0.5, atol=1e-6)

    def test_padding_does_not_bleed_into_the_anatomy(self):
        stored = np.full((16, 16), 1024, "i2")
        stored[:, :8] = -2000
        ds = make(stored, PixelPaddingValue=-2000)
        image = read(ds, Preparation(Window.parse((-1000, 1000)), Geometry(8, 8)))
        np.testing.assert_allclose(image[:, 4:], 0.0, atol=1e-6)
        np.testing.assert_allclose(image[:, :4], -1.0)

    def test_padding_is_black_in_monochrome1_too(self):
        stored = np.full((16, 16), 100, "u2")
        stored[0] = 4095
        ds = make(
            stored, 12, Modality="CR", PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=4095,
            RescaleIntercept=0, WindowCenter=100, WindowWidth=400,
        )  # fmt: skip
        image = read(ds, as_is("dicom"))
        assert (image[0] == -1).all()
        assert (image[1:] > -0.1).all()


class TestVoi:
    def test_the_first_of_several_windows(self):
        ds = make((HU + 1024).astype("u2"), 12, WindowCenter=[40, -600], WindowWidth=[401, 1501])
        np.testing.assert_allclose(read(ds, as_is("dicom")), windowed(HU, -160.5 + 0, 239.5), atol=1e-5)

    def test_a_lookup_table(self):
        # What pydicom's apply_voi says on integers is the reference; 16-bit output.
        from pydicom.pixels import apply_voi

        ds = make((HU + 1024).astype("i2"), RescaleIntercept=-1024)
        item = Dataset()
        item.add_new("LUTDescriptor", "SS", [1000, -500, 16])
        item.add_new("LUTData", "OW", (np.linspace(0, 1, 1000) ** 2 * 65535).astype("<u2").tobytes())
        ds.VOILUTSequence = Sequence([item])
        expected = apply_voi(HU.astype("i4"), ds) / 65535 * 2 - 1
        np.testing.assert_allclose(read(ds, as_is("dicom")), expected, atol=1e-5)

    def test_no_window_in_the_file_takes_its_range_and_says_so(self):
        loaded = read_dicom(to_bytes(make((HU + 1024).astype("u2"), 12)), as_is("dicom"))
        np.testing.assert_allclose(loaded.images[0], windowed(HU, -1000, 1500), atol=1e-5)
        assert any("no VOI window" in note for note in loaded.notes)

    def test_empty_tables_are_no_tables(self):
        ds = make((HU + 1024).astype("u2"), 12, ModalityLUTSequence=Sequence([Dataset()]))
        np.testing.assert_allclose(read(ds, as_is("chest_wide")), windowed(HU, -1000, 600), atol=1e-5)

    def test_a_lookup_table_is_the_same_in_implicit_files(self):
        item = Dataset()
        item.add_new("LUTDescriptor", "SS", [2048, -1024, 16])
        item.add_new("LUTData", "OW", np.linspace(0, 65535, 2048).astype("<u2").tobytes())
        explicit, implicit = (make((HU + 1024).astype("u2"), 12, VOILUTSequence=Sequence([item])) for _ in range(2))
        implicit.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        shown = read(implicit, as_is("dicom"))
        np.testing.assert_array_equal(shown, read(explicit, as_is("dicom")))
        assert shown.max() > 0.9
        assert shown.min() < -0.9

    def test_a_window_of_no_width_is_no_window(self):
        loaded = read_dicom(
            to_bytes(make((HU + 1024).astype("u2"), 12, WindowCenter=40, WindowWidth=0)), as_is("dicom")
        )
        np.testing.assert_allclose(loaded.images[0], windowed(HU, -1000, 1500), atol=1e-5)
        assert any("does not know" in note for note in loaded.notes)


class TestHounsfield:
    """A window in HU looks at HU alone."""

    @pytest.mark.parametrize(
        "attributes",
        [
            {"RescaleSlope": None, "RescaleIntercept": None},
            {"RescaleType": "ED"},
            {"RescaleType": "Z_EFF"},
        ],
    )
    @pytest.mark.parametrize("window", ["chest_wide", (-1000, 600)])
    def test_a_ct_in_another_unit_is_set_aside(self, attributes, window):
        with pytest.raises(SetAside, match="CT without Hounsfield units"):
            read_dicom(to_bytes(make((HU + 1024).astype("u2"), 12, **attributes)), as_is(window))

    def test_so_is_a_rendering_in_colour(self):
        pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype("u1")
        with pytest.raises(SetAside, match="CT without Hounsfield units"):
            read_dicom(to_bytes(make(pixels, 8)), as_is("chest_wide", colour="grey"))

    def test_a_type_within_functional_groups_counts(self):
        ds = make(np.stack([(HU + 1024).astype("u2")] * 2), 12, RescaleSlope=None, RescaleIntercept=None)
        value, group = Dataset(), Dataset()
        value.RescaleSlope, value.RescaleIntercept, value.RescaleType = 1, -1024, "Z_EFF"
        group.PixelValueTransformationSequence = Sequence([value])
        ds.SharedFunctionalGroupsSequence = Sequence([group])
        with pytest.raises(SetAside, match="CT without Hounsfield units"):
            read_dicom(to_bytes(ds), as_is("chest_wide"))
        value.RescaleType = "HU"
        assert len(read_dicom(to_bytes(ds), as_is("chest_wide")).images) == 2


class TestMultiFrame:
    def test_groups_for_some_of_the_frames_are_damage(self):
        ds = make(np.stack([(HU + 1024).astype("u2")] * 2), 12)
        ds.PerFrameFunctionalGroupsSequence = Sequence([Dataset()])
        with pytest.raises(Unreadable, match="functional groups of 1 frames, expected 2"):
            read_dicom(to_bytes(ds), as_is("chest_wide"))

    def test_every_frame_is_an_image(self):
        frames = np.stack([np.full((16, 16), 1024 + 100 * k, "u2") for k in range(3)])
        loaded = read_dicom(to_bytes(make(frames, 12)), as_is((-1000, 1000)))
        assert loaded.header is not None
        assert loaded.header.frames == 3
        np.testing.assert_allclose([image.mean() for image in loaded.images], [0.0, 0.1, 0.2], atol=1e-6)

    def test_a_frame_has_its_own_rescale_and_the_shared_spacing(self):
        ds = make(np.full((2, 8, 16), 100, "u2"), 12, RescaleSlope=None, RescaleIntercept=None)
        groups = []
        for intercept in (0, 50):
            value, group = Dataset(), Dataset()
            value.RescaleSlope, value.RescaleIntercept, value.RescaleType = 1, intercept, "HU"
            group.PixelValueTransformationSequence = Sequence([value])
            groups.append(group)
        ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
        measures, shared = Dataset(), Dataset()
        measures.PixelSpacing = [2, 1]  # 8 rows of 2 mm, 16 columns of 1 mm: a square
        shared.PixelMeasuresSequence = Sequence([measures])
        ds.SharedFunctionalGroupsSequence = Sequence([shared])
        loaded = read_dicom(to_bytes(ds), as_is((0, 200)))
        np.testing.assert_allclose(loaded.images[0], 0.0, atol=1e-6)
        np.testing.assert_allclose(loaded.images[1], 0.5, atol=1e-6)


class TestSetAside:
    @pytest.mark.parametrize(
        ("attributes", "window", "reason"),
        [
            ({"SOPClassUID": SegmentationStorage}, "dicom", "a segmentation"),
            ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "dicom", "a localizer"),
            ({"Modality": "MR"}, "lung", "modality MR has no Hounsfield units"),
            ({"PixelData": None, "Rows": None}, "dicom", "no pixel data (CT Image Storage)"),
            ({"PhotometricInterpretation": "CIELAB"}, "dicom", "photometric interpretation"),
            ({"BurnedInAnnotation": "YES"}, "dicom", "burned-in annotation"),
            ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "dicom", "a picture of the scanner's screen"),
            ({"SeriesDescription": "Dose Report"}, "dicom", "dose sheet"),
            ({"SyntheticData": "YES"}, "dicom", "a synthetic image"),
        ],
    )
    def test_with_its_reason(self, attributes, window, reason):
        ds = make(np.zeros((16, 16), "u2"), **attributes)
        with pytest.raises(SetAside, match=re.escape(reason)):
            read_dicom(to_bytes(ds), as_is(window))

    def test_without_a_spacing_there_are_no_millimetres(self):
        preparation = Preparation(Window.parse("lung"), Geometry(16, 16, mm=1.0))
        with pytest.raises(SetAside, match="no pixel spacing"):
            read_dicom(to_bytes(make(np.zeros((16, 16), "u2"))), preparation)
        scaled = read_dicom(to_bytes(make(np.zeros((16, 16), "u2"), PixelSpacing=[1, 1])), preparation)
        assert scaled.images[0].shape == (16, 16)

    def test_burned_in_annotation_may_be_kept(self, tmp_path):
        (tmp_path / "in").mkdir()
        stored = (HU + 1024).astype("u2")
        (tmp_path / "in" / "1.dcm").write_bytes(to_bytes(make(stored, BurnedInAnnotation="YES")))
        (entry,) = list_entries(tmp_path / "in")
        assert fate_of(entry, Rules("dicom", as_is("lung"), burned_in="keep"), tmp_path) == ("image", "")

    @pytest.mark.parametrize("data", [b"", b"file,label\n", b"\x89PNG\r\n", b"\x08\x00nothing of the kind"])
    def test_what_is_no_dicom(self, data):
        with pytest.raises(SetAside, match="no DICOM file"):
            read_dicom(data, as_is("dicom"))

    def test_colour_unless_grey_is_asked_for(self):
        pixels = np.zeros((16, 16, 3), "u1")
        pixels[..., 1] = 255
        ds = make(pixels, 8, Modality="US", RescaleSlope=None, RescaleIntercept=None)
        with pytest.raises(SetAside, match="colour"):
            read_dicom(to_bytes(ds), as_is("dicom"))
        np.testing.assert_allclose(read(ds, as_is("dicom", colour="grey")), 0.587 * 2 - 1, atol=1e-6)


def fate_of(entry, rules, spools):
    found = look(entry, rules)
    last = prepare((entry, found), rules, spools) if found.status == "image" else found
    return last.status, last.reason


class TestQuarantine:
    def fate(self, tmp_path, data, window="dicom"):
        """Of both passes, as the worker processes make them."""
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / "file.dcm").write_bytes(data)
        return fate_of(list_entries(tmp_path / "in")[0], Rules("dicom", as_is(window)), tmp_path)

    def test_truncated_pixels(self, tmp_path):
        data = to_bytes(make((HU + 1024).astype("u2"), 12))
        status, reason = self.fate(tmp_path, data[:-100])
        assert status == "quarantined"
        assert "512" in reason
        assert "412" in reason

    def test_damaged_compression(self, tmp_path):
        ds = make(np.kron(HU + 1024, np.ones((4, 4))).astype("u2"), 12)
        ds.compress(JPEG2000Lossless)
        data = bytearray(to_bytes(ds))
        data[-60:-8] = b"\xff" * 52
        start = data.find(b"\xff\x4f\xff\x51")  # the codestream's head
        data[start + 8 : start + 40] = b"\0" * 32
        assert self.fate(tmp_path, bytes(data))[0] == "quarantined"

    @pytest.mark.parametrize(
        "size", [{"Rows": 60000, "Columns": 60000}, {"NumberOfFrames": 10**6}, {"Rows": 0}, {"Rows": None}]
    )
    def test_absurd_sizes_are_refused_before_anything_is_decoded(self, tmp_path, size):
        ds = make(np.zeros((16, 16), "u2"), **size)
        started = time.monotonic()
        status, reason = self.fate(tmp_path, to_bytes(ds))
        assert status == "quarantined"
        assert "image size" in reason
        assert time.monotonic() - started < 1

    def test_a_deflate_bomb(self, tmp_path, monkeypatch):
        from pydicom.uid import DeflatedExplicitVRLittleEndian

        pixels = np.zeros((512, 512), "u2")
        pixels[0] = 9
        ds = make(pixels)
        ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        data = to_bytes(ds)
        assert len(data) < 2**15
        assert self.fate(tmp_path, data)[0] == "image"
        monkeypatch.setattr(header_module, "MAX_BYTES", 2**18)
        assert self.fate(tmp_path, data) == ("set aside", "unpacks to more than 0 MiB")

    def test_reasons_hold_nothing_of_the_patient(self, tmp_path):
        good = make((HU + 1024).astype("u2"), 12, PatientID="SECRET77", PatientName="Secret^Person")
        data = to_bytes(good)
        rng = np.random.default_rng(0)
        for _ in range(150):
            broken = bytearray(data[: rng.integers(140, len(data))] if rng.random() < 0.3 else data)
            for position in rng.integers(132, min(len(broken), 700), 6):
                broken[position] = rng.integers(256)
            status, reason = self.fate(tmp_path, bytes(broken), "chest_wide")
            assert status in ("image", "set aside", "quarantined")
            assert "secret" not in reason.lower()
            assert (status == "image") == (reason == "")


def test_unequal_spacing_is_respected():
    # 32 rows of 1 mm and 16 columns of 2 mm: a disc of 10 mm radius is as wide as high.
    y, x = np.mgrid[:32, :16]
    disc = np.hypot((y - 15.5) * 1.0, (x - 7.5) * 2.0) < 10
    ds = make((disc * 1000 + 1024).astype("u2"), PixelSpacing=[1, 2])
    image = read(ds, Preparation(Window.parse((0, 1000)), Geometry(32, 32))) > 0
    assert abs(int(image.any(axis=0).sum()) - int(image.any(axis=1).sum())) <= 2
    ratio = make((disc * 1000 + 1024).astype("u2"), PixelAspectRatio=["1", "2"])
    np.testing.assert_array_equal(read(ratio, Preparation(Window.parse((0, 1000)), Geometry(32, 32))) > 0, image)


def test_a_file_without_preamble_or_file_meta(tmp_path):
    ds = make((HU + 1024).astype("u2"), 12)
    whole = to_bytes(ds)
    length = int.from_bytes(whole[140:144], "little")
    bare = whole[144 + length :]
    loaded = read_dicom(bare, as_is("chest_wide"))
    np.testing.assert_allclose(loaded.images[0], windowed(HU, -1000, 600), atol=1e-5)


def test_the_header_tells_patients_apart(tmp_path):
    pixels = np.zeros((16, 16), "u2")
    variants = [
        make(pixels, PatientID="1"),
        make(pixels, PatientID="1", IssuerOfPatientID="A"),
        make(pixels, PatientID="", StudyInstanceUID="1.2.3"),
        make(pixels, PatientID="", StudyInstanceUID=""),
    ]
    headers = [read_dicom(to_bytes(ds), as_is("chest_wide")).header for ds in variants]
    assert [header.patient_from for header in headers] == ["patient", "patient", "study", "file"]
    assert all(a.patient != b.patient for a, b in itertools.combinations(headers, 2))


def test_bits_that_do_not_start_at_zero_are_not_guessed_at():
    ds = make(((HU + 1024).astype("u2") << 4).astype("u2"), 12)
    ds.HighBit = 15
    with pytest.raises(Unreadable, match="High Bit"):
        read_dicom(to_bytes(ds), as_is("chest_wide"))


def test_grey_stored_as_colour_is_grey():
    grey = np.arange(256, dtype="u1").reshape(16, 16)
    ds = make(np.stack([grey] * 3, axis=-1), 8, Modality="US", RescaleSlope=None, RescaleIntercept=None)
    np.testing.assert_allclose(read(ds, as_is("dicom")), grey / 127.5 - 1, atol=1e-5)


def test_a_header_without_its_pixels_is_damaged():
    with pytest.raises(Unreadable, match="ends before its pixels"):
        read_dicom(to_bytes(make(np.zeros((16, 16), "u2"), PixelData=None)), as_is("lung"))


def test_a_rescale_that_is_no_number_is_no_unit():
    broken = to_bytes(make((HU + 1024).astype("u2"), 12, RescaleIntercept="-1024")).replace(b"-1024 ", b"-10x4 ")
    assert b"-10x4" in broken
    with pytest.raises(Unreadable, match="RescaleIntercept is no number"):
        read_dicom(broken, as_is("chest_wide"))


@pytest.mark.parametrize("largest", [2**16, pytest.param(2**40, marks=pytest.mark.slow)])
def test_every_file_of_the_zoo_has_a_fate_and_the_readable_ones_are_read(real_data, largest, tmp_path):
    # manifest.csv says what pydicom made of each; every image that it decoded must come out here.
    folder = real_data / "dicom-zoo"
    rules = Rules("dicom", Preparation(Window.parse("dicom"), Geometry(16, 16), "grey"))
    manifest = {row["file"]: row["decode"] for row in csv.DictReader((folder / "manifest.csv").open())}
    entries = [entry for entry in list_entries(folder) if entry.name in manifest and entry.size <= largest]
    fates = {entry.name: fate_of(entry, rules, tmp_path) for entry in entries}
    assert len(fates) > 50
    unread = {name: fate for name, fate in fates.items() if manifest[name] == "ok" and fate[0] != "image"}
    allowed = {"a segmentation", "a dose distribution", "a localizer"}
    assert {reason for _, reason in unread.values()} <= allowed, unread
    assert all(reason for status, reason in fates.values() if status != "image")
    for spool in tmp_path.glob("*.u16"):
        assert spool.stat().st_size % (2 * 16 * 16) == 0
