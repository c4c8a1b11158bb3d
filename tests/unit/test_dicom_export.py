"""De-identified export: known answers, and markers in every attribute that can hold a text."""

from __future__ import annotations

import copy
import hmac
import io
import struct
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import config, dcmread
from pydicom.datadict import DicomDictionary, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RLELossless,
)

from pipeline.dicom.confidential import deidentify
from pipeline.dicom.deidentify import Keys
from pipeline.dicom.elements import patient_identity
from pipeline.dicom.export import UNFINISHED, export_deidentified
from pipeline.dicom.kept import BODY_PARTS, IMAGE_GROUPS, TEXTS
from pipeline.dicom.profile import table
from pipeline.files import SetAside, Unreadable
from pipeline.records import MedaugError
from tests.unit.dicom_files import make, to_bytes
from tests.unit.identifiers import DATES, STEM, found, marker, search_folder, uid

pytestmark = pytest.mark.thorough

KEYS, OTHER_KEYS = Keys(bytes(range(32))), Keys(bytes(32))
PIXELS = np.arange(64, dtype="u2").reshape(8, 8)

TEXT_VRS = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT")
NEEDED = {"SpecificCharacterSet", "SOPClassUID", "PhotometricInterpretation", "BurnedInAnnotation", "Modality"}
"""What a file cannot be read without, or is refused for."""
TAGS = {
    vr: [tag for tag, entry in DicomDictionary.items() if entry[0] == vr and tag >> 16 >= 8 and entry[4] not in NEEDED]
    for vr in (*TEXT_VRS, "UI", "DA", "DT", "SQ")
}  # fmt: skip

# What stays, and why it cannot name the patient. Code strings: a choice from a list in PS3.3, at most 16 capitals, not
# typed by people but for Body Part Examined, of which only PS3.16's terms stay; a word of the patient's name or number
# is dropped even so. The four texts: the maker's words for its product, with the same exception.
KEPT_CODES = {
    tag
    for tag in TAGS["CS"]
    if tag >> 16 in IMAGE_GROUPS
    and tag not in table()
    and not DicomDictionary[tag][3]
    and keyword_for_tag(tag) not in ("BodyPartExamined", "LongitudinalTemporalInformationModified")
}
KEPT = KEPT_CODES | {tag for vr in ("LO", "SH") for tag in TAGS[vr] if keyword_for_tag(tag) in TEXTS}


CODES = {0x00080100, 0x00080104, 0x00080119, 0x00080120}
"""Code Value, Code Meaning, Long Code Value, URN Code Value: what makes an item a code."""


@pytest.fixture(autouse=True)
def _no_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Markers go where writers would not let them."""
    monkeypatch.setattr(config.settings, "writing_validation_mode", config.IGNORE)
    monkeypatch.setattr(config.settings, "reading_validation_mode", config.IGNORE)


def element(tag: int, vr: str, value: object) -> DataElement:
    return DataElement(tag, vr, value, validation_mode=config.IGNORE)


def planted(tag: int, vr: str) -> object:
    """A marked value that the value representation can hold."""
    if vr == "UI":
        return uid(tag)
    if vr in ("DA", "DT"):
        return DATES[0]
    if vr == "UR":
        return f"http://{marker('X')}.example/{marker('y')}"
    return marker("CODE") if vr == "CS" else f"{marker('Text')} {tag}"


def plant(ds: Dataset, without: set[int] = frozenset()) -> Dataset:
    """Marks every attribute that can hold a text, a date or a UID, at the top level of a dataset or item."""
    for vr, tags in TAGS.items():
        for tag in tags:
            if vr != "SQ" and tag not in without:
                ds.add(element(tag, vr, planted(tag, vr)))
    block = ds.private_block(0x0011, marker("VENDOR"), create=True)
    block.add_new(0x01, "LO", marker("private"))
    block.add_new(0x02, "UN", marker("private").encode())
    inner = Dataset()
    inner.PatientName = marker("private")
    block.add_new(0x03, "SQ", Sequence([inner]))
    for group in (0x6000, 0x6002, 0x5000):
        for number, vr in ((0x0022, "LO"), (0x1500, "LO"), (0x4000, "LT")):
            ds.add(element(group << 16 | number, vr, marker("overlay")))
        ds.add(element(group << 16 | 0x3000, "OW", (marker("overlay") * 2).encode()))
    ds.add(element(0x0008FFF0, "LO", marker("unknown")))
    ds.add(element(0x00280FF0, "OB", marker("unknown bytes").encode() + b"\0"))
    ds.add(element(0xFFFCFFFC, "OB", (marker("padding") * 2).encode()))
    return ds


def mark_sequences(ds: Dataset) -> None:
    """Adds every sequence there is, but for the functional groups, with marks on two levels."""
    for tag in TAGS["SQ"]:
        if keyword_for_tag(tag) not in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
            item, inner = Dataset(), Dataset()
            for of in (item, inner):
                of.PatientName = of.TextValue = marker("Item")
                of.ReferencedSOPInstanceUID, of.StudyDate = uid(tag), DATES[0]
            item.SourceImageSequence = Sequence([inner])
            ds.add(element(tag, "SQ", Sequence([item])))


def plant_everywhere(ds: Dataset, without: set[int]) -> Dataset:
    """Marks the top level, two levels within a sequence that is kept, the file meta information and the preamble."""
    plant(ds, without)
    inner, outer = plant(Dataset(), without | CODES), plant(Dataset(), without | CODES)
    outer.PixelMeasuresSequence = Sequence([inner])
    ds.SourceImageSequence = Sequence([outer])
    for name in ("SourceApplicationEntityTitle", "SendingApplicationEntityTitle", "ReceivingApplicationEntityTitle"):
        setattr(ds.file_meta, name, marker("META"))
    ds.file_meta.PrivateInformationCreatorUID = uid(2)
    ds.file_meta.PrivateInformation = marker("meta").encode() + b"\0"
    ds.preamble = marker("preamble").encode().ljust(128, b"\0")
    return ds


def levels(ds: Dataset) -> Iterator[DataElement]:
    """All elements, those of items included."""
    for part in ds:
        yield part
        if part.VR == "SQ":
            for item in part.value:
                yield from levels(item)


def reread(source: Dataset | bytes, keys: Keys = KEYS) -> tuple[Dataset, bytes]:
    """The export of a file, as a reader gets it, and its bytes."""
    stream = io.BytesIO()
    data = source if isinstance(source, bytes) else to_bytes(source)
    deidentify(dcmread(io.BytesIO(data)), keys).save_as(stream, enforce_file_format=True)
    return dcmread(io.BytesIO(stream.getvalue())), stream.getvalue()


def image(**changes: object) -> Dataset:
    return make(
        PIXELS, 12, **{"FrameOfReferenceUID": uid(9), "StudyDate": "20200203", "SeriesDate": "20200203", **changes}
    )


def enhanced() -> Dataset:
    """An Enhanced MR image as far as its functional groups matter."""
    ds = make(np.arange(128, dtype="u2").reshape(2, 8, 8), 12, SOPClassUID=EnhancedMRImageStorage, Modality="MR")
    ds.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    shared, measures, frames = Dataset(), Dataset(), []
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.5], 2
    shared.PixelMeasuresSequence = Sequence([measures])
    for number in range(2):
        frame, content = Dataset(), Dataset()
        content.StackID, content.InStackPositionNumber = marker("stack"), number + 1
        content.FrameAcquisitionDateTime, content.FrameComments = DATES[0], marker("frame")
        frame.FrameContentSequence = Sequence([content])
        frames.append(frame)
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = Sequence([shared]), Sequence(frames)
    ds.ContentDate, ds.ContentTime, ds.AcquisitionDateTime = DATES[0], "101112", DATES[0]
    ds.DeviceSerialNumber, ds.PulseSequenceName, ds.PatientBirthDate = marker("SN"), marker("pulse"), DATES[0]
    return ds


@pytest.mark.parametrize(
    ("keyword", "code"),
    [
        # PS3.15 2024b Table E.1-1, copied by hand
        ("AccessionNumber", "Z"), ("StudyID", "Z"), ("PatientID", "Z/D"), ("PatientName", "Z"), ("PatientSex", "Z"),
        ("PatientAge", "X"), ("PatientWeight", "X"), ("IssuerOfPatientID", "X"), ("OtherPatientIDs", "X"),
        ("OtherPatientIDsSequence", "X"), ("PatientComments", "X"), ("PatientAddress", "X"), ("EthnicGroup", "X"),
        ("InstitutionName", "X/Z/D"), ("ReferringPhysicianName", "Z"), ("OperatorsName", "X/Z/D"),
        ("DeviceSerialNumber", "X/Z/D"), ("StationName", "X/Z/D"), ("GantryID", "X"), ("DetectorID", "X/D"),
        ("RequestAttributesSequence", "X"), ("ImageComments", "X"), ("ProtocolName", "X/D"),
        ("StudyDescription", "X"), ("SeriesDescription", "X"), ("OriginalAttributesSequence", "X"),
        ("ReferencedImageSequence", "X/Z/U*"), ("SourceImageSequence", "X/Z/U*"), ("ReferencedStudySequence", "X/Z"),
        ("DigitalSignaturesSequence", "X"), ("IconImageSequence", "X"), ("ContentSequence", "D"),
        ("ClinicalTrialSubjectID", "D"), ("ClinicalTrialSiteName", "Z"), ("ClinicalTrialSeriesID", "X"),
        ("StudyDate", "Z"), ("SeriesDate", "X/D"), ("AcquisitionDate", "X/Z"), ("ContentDate", "Z/D"),
        ("AcquisitionDateTime", "X/Z/D"), ("TimezoneOffsetFromUTC", "X"), ("FrameOfReferenceUID", "U"),
        ("ReferencedSOPInstanceUID", "U"), ("DeviceUID", "U"), ("IrradiationEventUID", "U"),
        ("DataSetTrailingPadding", "X"),
    ],
)  # fmt: skip
def test_the_librarys_table_is_the_standards(keyword: str, code: str) -> None:
    tag = next(tag for tag, entry in DicomDictionary.items() if entry[4] == keyword)
    assert table()[tag] == code


def sources() -> list[str]:
    return ["ct", "mr", "enhanced mr", "us multiframe", "pydicom-data/693_UNCR.dcm",
            "pydicom-data/OBXXXX1A_rle_2frame.dcm", "pydicom-data/emri_small.dcm",
            "pydicom-data/MR-SIEMENS-DICOM-WithOverlays.dcm"]  # fmt: skip


def open_source(name: str, request: pytest.FixtureRequest) -> Dataset:
    if name.endswith(".dcm"):
        return dcmread(request.getfixturevalue("real_data") / "dicom-zoo" / name)
    if name == "enhanced mr":
        return enhanced()
    if name == "us multiframe":
        frames = np.random.default_rng(0).integers(0, 255, (3, 8, 8)).astype("u1")
        return make(frames, 8, SOPClassUID="1.2.840.10008.5.1.4.1.1.3.1", Modality="US")
    return image() if name == "ct" else image(SOPClassUID=MRImageStorage, Modality="MR")


@pytest.mark.parametrize("name", sources())
def test_no_planted_text_survives(name: str, request: pytest.FixtureRequest) -> None:
    ds = open_source(name, request)
    before = ds.pixel_array.copy()
    if name in ("ct", "enhanced mr"):
        mark_sequences(ds)
    plant_everywhere(ds, without=KEPT)
    source = to_bytes(ds)
    assert len(found(source)) >= 3, "texts, UIDs and dates are planted"
    clean, content = reread(source)
    assert found(content) == []
    np.testing.assert_array_equal(clean.pixel_array, before)
    assert clean.file_meta.TransferSyntaxUID == ds.file_meta.TransferSyntaxUID
    assert clean.PixelData == ds.PixelData
    assert clean.preamble == bytes(128)
    assert not any(part.tag.is_private or part.tag.group >> 8 in (0x50, 0x60) for part in levels(clean))
    times = {str(part.value) for part in levels(clean) if part.VR in ("DA", "DT", "TM")}
    assert times <= {"", "None", "00010101", "000000.00", "00010101010101.000000+0000"}
    free = ("AE", "AS", "LT", "PN", "ST", "UC", "UN", "UR", "UT")
    texts = {str(part.value) for part in levels(clean) if part.VR in free}
    assert texts <= {"", "None", "ANONYMIZED", "000Y", "http://anonymized.invalid", clean.PatientID}


def test_of_kept_attributes_the_patients_own_words_are_dropped() -> None:
    ds = plant(image(PatientName=f"{marker('CODE')}^{marker('TEXT')}"))
    for keyword in TEXTS:
        setattr(ds, keyword, f"{marker('Text')} of the maker")
    ds.PatientName = f"{marker('CODE')}^{marker('TEXT')}"
    assert found(reread(ds)[1]) == []


def test_what_stays_is_the_keep_set_and_nothing_else() -> None:
    names = {tag for tag in TAGS["PN"] + TAGS["LO"] if tag >> 16 == 0x0010}
    clean, content = reread(plant(image(PatientName="Other^Name"), without=names))
    assert found(content) != []
    stayed = {part.tag for part in levels(clean) if part.VR != "SQ" and STEM in str(part.value).upper()}
    assert stayed == KEPT
    assert {part.VR for part in levels(clean) if part.tag in stayed} == {"CS", "LO", "SH"}
    named = [keyword_for_tag(tag) for tag in KEPT - KEPT_CODES]
    assert sorted(named) == ["ConvolutionKernel", "Manufacturer", "ManufacturerModelName", "SoftwareVersions"]


LATIN = st.text(st.characters(codec="latin-1", exclude_categories=["C"], exclude_characters="\\"), max_size=20)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_random_texts_in_random_attributes_do_not_leak(data: st.DataObject) -> None:
    """In any public attribute, at any depth, under any value representation: a marker leaves the keep set alone."""
    written: set[int] = set()
    unknown: set[bytes] = set()
    ds = level = image(SpecificCharacterSet="ISO_IR 100")
    for _ in range(data.draw(st.integers(0, 2), label="depth")):
        inner = Dataset()
        level.add(element(data.draw(st.sampled_from(TAGS["SQ"])), "SQ", Sequence([inner])))
        level = inner
    for _ in range(data.draw(st.integers(1, 8), label="attributes")):
        vr = data.draw(st.sampled_from(TEXT_VRS))
        tag, shown = data.draw(st.sampled_from(TAGS[vr])), data.draw(st.sampled_from([vr, vr, "UN", "OB", "LO", "UT"]))
        text = data.draw(LATIN) + STEM + data.draw(LATIN)
        level.add(
            element(tag, "OB" if shown == "UN" else shown, text.encode("latin-1") if shown in ("UN", "OB") else text)
        )
        written.add(tag)
        if shown == "UN":  # pydicom would not write it
            unknown.add(struct.pack("<HH", tag >> 16, tag & 0xFFFF))
    # What the characters really are, a file need not say; what it says may be the marker.
    charset = data.draw(st.sampled_from([b"ISO_IR 100", b"ISO_IR 192", b"ISO 2022 I", STEM.encode() + b"_IR "]))
    source = to_bytes(ds).replace(b"ISO_IR 100", charset)
    for tag_bytes in unknown:
        source = source.replace(tag_bytes + b"OB\0\0", tag_bytes + b"UN\0\0")
    assert found(source)
    refusal = ""
    try:
        clean, content = reread(source)
    except Unreadable as error:  # an attribute of the pixels under a foreign value representation
        refusal = str(error)
    if refusal:
        assert any(tag >> 16 == 0x0028 for tag in written)
        assert not found(refusal.encode())
        return
    stayed = {part.tag for part in levels(clean) if part.VR != "SQ" and STEM in str(part.value).upper()}
    assert stayed <= KEPT & written
    assert bool(stayed) == bool(found(content)), "what the elements do not show may not be in the bytes"


def test_a_pseudonym_is_the_keyed_hash_of_issuer_and_number() -> None:
    clean, _ = reread(image(PatientID=" 42 ", IssuerOfPatientID="Ward", PatientName="Doe^Jane"))
    expected = hmac.new(KEYS.secret, b"patient\0Ward\0" + b"42", "sha256").hexdigest()[:20]
    assert clean.PatientID == clean.PatientName == expected == KEYS("patient", "Ward\0" + "42")
    assert reread(image(PatientID="42", IssuerOfPatientID="Else"))[0].PatientID != expected
    unnamed = image(PatientID="", StudyInstanceUID=uid(1))
    assert patient_identity(unnamed) == uid(1), "without a number the study stands for the patient, as in the ingest"
    assert reread(unnamed)[0].PatientID == KEYS("patient", uid(1))


def test_a_uid_is_a_keyed_uuid_of_version_eight() -> None:
    digest = int.from_bytes(hmac.new(KEYS.secret, b"uid\0" + b"1.2.3", "sha256").digest()[:16], "big")
    number = uuid.UUID(int=int(KEYS.uid("1.2.3").removeprefix("2.25.")))
    assert (number.version, number.variant) == (8, uuid.RFC_4122)
    assert bin(number.int ^ digest).count("1") <= 6, "the other bits are the hash's"
    assert len({KEYS.uid(f"1.2.{n}") for n in range(1000)}) == 1000
    assert all(len(KEYS.uid(f"1.2.{n}")) <= 64 for n in range(1000))


def test_references_hold_between_files_and_runs() -> None:
    first = image(SOPInstanceUID=uid(3, 1), StudyInstanceUID=uid(1), SeriesInstanceUID=uid(2))
    second = image(SOPInstanceUID=uid(3, 2), StudyInstanceUID=uid(1), SeriesInstanceUID=uid(2))
    reference, inner, purpose = Dataset(), Dataset(), Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = CTImageStorage, uid(3, 1)
    inner.SourceImageSequence = Sequence([copy.deepcopy(reference)])
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = "121311", "DCM", marker("Localizer")
    reference.PurposeOfReferenceCodeSequence = Sequence([purpose])
    second.ReferencedImageSequence, second.DerivationImageSequence = Sequence([reference]), Sequence([inner])
    second.IrradiationEventUID = [uid(5, 1), uid(3, 1)]
    one, two = reread(first)[0], reread(second)[0]
    assert one.SOPInstanceUID == one.file_meta.MediaStorageSOPInstanceUID == KEYS.uid(uid(3, 1))
    assert two.ReferencedImageSequence[0].ReferencedSOPInstanceUID == one.SOPInstanceUID
    assert two.ReferencedImageSequence[0].ReferencedSOPClassUID == CTImageStorage
    assert two.ReferencedImageSequence[0].PurposeOfReferenceCodeSequence[0].CodeMeaning == "Localizer"
    assert two.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID == one.SOPInstanceUID
    assert list(two.IrradiationEventUID) == [KEYS.uid(uid(5, 1)), one.SOPInstanceUID]
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        assert one[keyword].value == two[keyword].value
        assert str(one[keyword].value).startswith("2.25.")
    assert one.SOPInstanceUID != two.SOPInstanceUID
    assert len({one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID, one.SOPInstanceUID}) == 4
    assert (one.SOPClassUID, one.file_meta.MediaStorageSOPClassUID) == (CTImageStorage, CTImageStorage)
    assert reread(first)[1] == reread(first)[1], "runs under one key write the same bytes"
    other = reread(first, OTHER_KEYS)[0]
    for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"):
        assert other[keyword].value != one[keyword].value


def test_what_was_done_is_stated() -> None:
    earlier = Dataset()
    earlier.CodeValue, earlier.CodingSchemeDesignator, earlier.CodeMeaning = "1", "99X", marker("Earlier")
    clean, _ = reread(
        image(DeidentificationMethod=marker("Method"), DeidentificationMethodCodeSequence=Sequence([earlier]))
    )
    assert clean.PatientIdentityRemoved == "YES"
    assert clean.LongitudinalTemporalInformationModified == "REMOVED"
    (code,) = clean.DeidentificationMethodCodeSequence
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("113100", "DCM")
    assert code.CodeMeaning == "Basic Application Confidentiality Profile"
    assert any("PS3.15" in line for line in clean.DeidentificationMethod)
    assert all(len(line) <= 64 for line in clean.DeidentificationMethod)
    assert clean.SpecificCharacterSet == "ISO_IR 192"


def test_codes_choose_what_the_iod_needs() -> None:
    """Type 2 is emptied, type 3 removed; type 1, in enhanced images and PET, gets a dummy value."""
    dates = {
        "StudyDate": DATES[0], "StudyTime": "101112", "SeriesDate": DATES[0], "AcquisitionDate": DATES[0],
        "ContentDate": DATES[0], "ContentTime": "101112", "AcquisitionDateTime": DATES[0],
        "InstanceCreationDate": DATES[0],
        "PatientBirthDate": DATES[0], "PatientSex": "F", "PatientAge": "050Y", "AccessionNumber": "1", "StudyID": "1",
        "ReferringPhysicianName": "A^B", "OperatorsName": "A^B", "DeviceSerialNumber": "1", "StationName": "A",
        "InstitutionName": "A", "ProtocolName": "A", "ContrastBolusAgent": "A", "PositionReferenceIndicator": "A",
    }  # fmt: skip
    plain, _ = reread(image(**dates))
    emptied = ["StudyDate", "StudyTime", "AcquisitionDate", "ContentDate", "ContentTime", "PatientBirthDate",
               "PatientSex",               "AccessionNumber", "StudyID", "ReferringPhysicianName", "ContrastBolusAgent",
               "PositionReferenceIndicator"]  # fmt: skip
    assert [keyword for keyword in dates if keyword in plain] == emptied
    assert all(not plain[keyword].value for keyword in emptied)
    pet, _ = reread(image(SOPClassUID=PositronEmissionTomographyImageStorage, Modality="PT", **dates))
    assert (pet.SeriesDate, pet.AcquisitionDate) == ("00010101", "")
    multi, _ = reread(enhanced())
    assert (multi.ContentDate, multi.ContentTime) == ("00010101", "000000.00")
    assert multi.AcquisitionDateTime == "00010101010101.000000+0000"
    assert (multi.DeviceSerialNumber, multi.PulseSequenceName) == ("ANONYMIZED", "ANONYMIZED")
    assert multi.PatientBirthDate == ""


def test_sequences_go_are_emptied_or_cleaned() -> None:
    def items() -> Sequence:
        item = Dataset()
        item.SpecificCharacterSet, item.ReferencedSOPInstanceUID, item.ReferencedFrameNumber = "ISO_IR 100", uid(7), 3
        item.PatientName, item.SeriesDescription = "Doe^Jane", marker("inner")
        return Sequence([item])

    keywords = ["ContentSequence", "InstitutionCodeSequence", "ReferencedPerformedProcedureStepSequence",
                "RequestAttributesSequence", "AcquisitionContextSequence", "ReferencedStudySequence",
                "SourceImageSequence", "ReferencedSeriesSequence"]  # fmt: skip
    clean, _ = reread(image(**{keyword: items() for keyword in keywords}))
    emptied, cleaned = keywords[4:6], keywords[6:]
    assert [keyword for keyword in keywords if keyword in clean] == emptied + cleaned
    assert all(len(clean[keyword].value) == 0 for keyword in emptied)
    for keyword in cleaned:
        (item,) = clean[keyword].value
        assert {part.keyword: part.value for part in item} == {
            "ReferencedSOPInstanceUID": KEYS.uid(uid(7)),
            "ReferencedFrameNumber": 3,
            "PatientName": "",
        }


@pytest.mark.parametrize(("value", "kept"), [("HU", "HU"), ("", ""), ("Smith", "US"), (marker("T"), "US")])
def test_what_values_mean_stays(value: str, kept: str) -> None:
    lut = Dataset()
    lut.LUTDescriptor, lut.ModalityLUTType, lut.LUTData = [2, 0, 16], value, bytes(4)
    lut.LUTExplanation = marker("explained")
    clean, _ = reread(image(RescaleType=value, ModalityLUTSequence=Sequence([lut])))
    (table_item,) = clean.ModalityLUTSequence
    assert (clean.RescaleType, table_item.ModalityLUTType, table_item.LUTExplanation) == (kept, kept, "ANONYMIZED")
    assert (table_item.LUTDescriptor, table_item.LUTData) == ([2, 0, 16], bytes(4))
    assert (clean.RescaleSlope, clean.RescaleIntercept) == (1, -1024)


def test_functional_groups_stay_one_for_each_frame() -> None:
    multi, _ = reread(enhanced())
    assert multi.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing == [0.5, 0.5]
    frames = [group.FrameContentSequence[0] for group in multi.PerFrameFunctionalGroupsSequence]
    assert [frame.InStackPositionNumber for frame in frames] == [1, 2]
    assert {frame.StackID for frame in frames} == {KEYS("text", marker("stack"))[:16]}
    assert {frame.FrameAcquisitionDateTime for frame in frames} == {"00010101010101.000000+0000"}
    assert all("FrameComments" not in frame for frame in frames)


@pytest.mark.parametrize(
    ("scheme", "value", "meaning"),
    [("SCT", "39607008", "Lung"), ("SRT", "T-28000", "Lung"), ("DCM", "121327", "Full fidelity image"),
     ("UCUM", "[hnsf'U]", "Hounsfield unit")],
)  # fmt: skip
def test_public_codes_stay_in_the_standards_words(scheme: str, value: str, meaning: str) -> None:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, marker("Meaning")
    item.CodingSchemeVersion = marker("1")
    clean, content = reread(image(AnatomicRegionSequence=Sequence([item])))
    (kept,) = clean.AnatomicRegionSequence
    assert (kept.CodeValue, kept.CodingSchemeDesignator) == (value, scheme)
    assert kept.CodeMeaning.casefold() == meaning.casefold()
    assert "CodingSchemeVersion" not in kept
    assert found(content) == []


@pytest.mark.parametrize(
    ("scheme", "value"), [("99HOSPITAL", "1"), ("SCT", "12345678901"), ("", "39607008"), ("DCM", "")]
)
def test_codes_of_the_hospitals_own_go(scheme: str, value: str) -> None:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, marker("Meaning")
    clean, content = reread(image(AnatomicRegionSequence=Sequence([item])))
    assert "AnatomicRegionSequence" not in clean
    assert found(content) == []


def test_values_that_are_none_of_their_kind_go() -> None:
    ds = image(SliceThickness="1.2345678901", KVP="120", AcquisitionNumber="000000000001")
    data = to_bytes(ds).replace(b"1.2345678901", b"ZQMARK^SMITH").replace(b"000000000001", b"ZQMARK^JONES")
    clean, content = reread(data)
    assert found(content) == []
    assert "SliceThickness" not in clean
    assert "AcquisitionNumber" not in clean
    assert clean.KVP == 120


@pytest.mark.parametrize(("value", "kept"), [("CHEST", "CHEST"), ("SMITH", None), ("Chest of Smith", None)])
def test_body_parts_are_the_standards(value: str, kept: str | None) -> None:
    assert reread(image(BodyPartExamined=value))[0].get("BodyPartExamined") == kept
    assert "CHEST" in BODY_PARTS


@pytest.mark.parametrize(("value", "kept"), [("US", "US"), ("SMITH", "OT"), ("Smith", "OT")])
def test_modalities_are_the_standards(value: str, kept: str) -> None:
    assert reread(image(Modality=value))[0].Modality == kept


def test_code_strings_that_are_none_go_one_by_one() -> None:
    clean, _ = reread(image(PatientName="Doe^Jane", PatientID="MRN12345", ImageType=[
        "ORIGINAL", "PRIMARY", "AXIAL", "Jane Doe", "MRN12345", "JANE", "NORM", "SEVENTEEN LETTERS"]))  # fmt: skip
    assert list(clean.ImageType) == ["ORIGINAL", "PRIMARY", "AXIAL", "", "", "", "NORM", ""]


@pytest.mark.parametrize(
    ("written", "kept"),
    [(b"Maker Inc., 2.0", "Maker Inc., 2.0"), ("Hersteller Süd".encode(), "Hersteller Süd"), (b"bell \x07", None),
     (b"not UTF-8 \xff", None), (b"x" * 65, None)],
)  # fmt: skip
def test_texts_that_are_kept_are_texts(written: bytes, kept: str | None) -> None:
    length = len(written) + len(written) % 2
    data = to_bytes(image(SpecificCharacterSet="ISO_IR 192", Manufacturer="#" * length))
    clean, _ = reread(data.replace(b"#" * length, written.ljust(length)))
    assert clean.get("Manufacturer") == kept


def test_the_input_stays_as_it_was() -> None:
    ds = plant_everywhere(image(), without=set())
    ds = dcmread(io.BytesIO(to_bytes(ds)))
    before = to_bytes(copy.deepcopy(ds))
    deidentify(ds, KEYS)
    assert to_bytes(ds) == before


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEG2000Lossless],
)
def test_pixels_and_transfer_syntax_stay(syntax: str) -> None:
    pixels = np.arange(64 * 64, dtype="u2").reshape(64, 64)
    ds = make(pixels, 12, WindowCenter=["-40.50", "+1.0E1"], WindowWidth=["400", "1500"], SmallestImagePixelValue=7)
    if syntax in (RLELossless, JPEG2000Lossless):
        ds.compress(syntax, generate_instance_uid=False)
    else:
        ds.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            ds.PixelData = pixels.astype(">u2").tobytes()
            ds["PixelData"].VR = "OW"
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    source = dcmread(io.BytesIO(stream.getvalue()))
    clean, _ = reread(stream.getvalue())
    assert clean.file_meta.TransferSyntaxUID == syntax
    assert clean.PixelData == source.PixelData
    np.testing.assert_array_equal(clean.pixel_array, pixels)
    assert [str(value) for value in clean.WindowCenter] == ["-40.50", "+1.0E1"], "decimals keep their digits"
    assert clean.SmallestImagePixelValue == 7


def exif() -> Dataset:
    ds = image(PixelData=encapsulate([b"\xff\xd8\xff\xe1\x00\x22Exif\0\0MM" + bytes(40)]))
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    return ds


def overlay_in_pixels() -> Dataset:
    ds = image()
    for number, value in ((0x0010, 8), (0x0011, 8), (0x0100, 16), (0x0102, 12)):
        ds.add_new(0x60000000 | number, "US", value)
    return ds


def in_syntax(syntax: str) -> Dataset:
    ds = image()
    ds.file_meta.TransferSyntaxUID = syntax
    return ds


REFUSED = {
    "unknown transfer syntax": (lambda: in_syntax(uid(5)), Unreadable, "unknown transfer syntax"),
    "a SOP class for a transfer syntax": (lambda: in_syntax(CTImageStorage), Unreadable, "unknown transfer syntax"),
    "burned-in": (lambda: image(BurnedInAnnotation="YES"), SetAside, "burned-in"),
    "burned-in as anybody writes it": (lambda: image(BurnedInAnnotation="Yes "), SetAside, "burned-in"),
    "overlay": (overlay_in_pixels, SetAside, "overlay inside the pixels"),
    "exif": (exif, SetAside, "Exif"),
    "no pixels": (lambda: image(PixelData=None), SetAside, "no pixel data"),
    "no photometric interpretation": (lambda: image(PhotometricInterpretation=None), Unreadable, "photometric"),
    "unknown photometric interpretation": (
        lambda: image(PhotometricInterpretation=marker("P")),
        Unreadable,
        "photometric",
    ),
    "cut": (lambda: image(PixelData=PIXELS.tobytes()[:-2]), Unreadable, "fewer pixels"),
    "private kind": (lambda: image(SOPClassUID=uid(8)), Unreadable, "no SOP class"),
    "no series": (lambda: image(SeriesInstanceUID=None), Unreadable, "no study, series or instance UID"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_refused(why: str) -> None:
    make_it, kind, reason = REFUSED[why]
    with pytest.raises(kind, match=reason) as caught:
        deidentify(make_it(), KEYS)
    assert not found(str(caught.value).encode())


@pytest.mark.parametrize("value", ["NO", "no", ""])
def test_not_refused_without_burned_in_text(value: str) -> None:
    assert "PixelData" in reread(image(BurnedInAnnotation=value))[0]


def test_pixels_that_mean_something_else_are_refused() -> None:
    data = to_bytes(image(RescaleSlope="1.2345678901")).replace(b"1.2345678901", b"ZQMARK^SMITH")
    with pytest.raises(Unreadable, match="attribute of the pixels does not read"):
        deidentify(dcmread(io.BytesIO(data)), KEYS)


def files() -> list[tuple[str, bytes]]:
    """Three slices of two patients, a copy, a clash of UIDs, and what cannot be exported; marked names."""
    slices = [
        image(PatientID=marker("P", patient), StudyInstanceUID=uid(1, patient), SeriesInstanceUID=uid(2, patient),
              SOPInstanceUID=uid(3, patient, number), InstanceNumber=number, BurnedInAnnotation="NO")
        for patient, number in ((1, 1), (1, 2), (2, 1))
    ]  # fmt: skip
    del slices[0].BurnedInAnnotation
    clash = copy.deepcopy(slices[2])
    clash.InstanceNumber = 77
    broken = to_bytes(image(RescaleSlope="1.2345678901")).replace(b"1.2345678901", b"ZQMARK^SMITH")
    contents = [*map(to_bytes, slices), to_bytes(slices[1]), to_bytes(clash), broken, b"", marker("Letter").encode(),
                to_bytes(slices[0])[:200], to_bytes(image(BurnedInAnnotation="YES"))]  # fmt: skip
    return [(f"{marker('folder')}/{marker('file', number)}.dcm", content) for number, content in enumerate(contents)]


def test_an_export_is_named_by_pseudonyms(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    result = export_deidentified(files(), KEYS, tmp_path / "out", lambda *step: told.append(step))
    assert result.written == 3
    assert result.unchecked == 1
    assert result.written + sum(result.refused.values()) == len(files())
    assert result.refused["a copy of a file already written"] == 1
    assert result.refused["another file has its instance UID"] == 1
    assert result.refused["an attribute of the pixels does not read"] == 1
    assert result.refused["burned-in annotation, which may name the patient"] == 1
    assert told == [(number, len(files())) for number in range(1, len(files()) + 1)]
    written = sorted((tmp_path / "out").rglob("*.dcm"))
    assert {path.relative_to(tmp_path / "out").parts[0] for path in written} == {
        KEYS("patient", f"\0{marker('P', patient)}") for patient in (1, 2)
    }
    for path in written:
        ds = dcmread(path)
        assert path.parent.parent.name == ds.PatientID
        assert path.parent.name == KEYS("series", ds.SeriesInstanceUID)[:16]
        assert path.stem == KEYS("instance", ds.SOPInstanceUID)[:16]
    assert search_folder(tmp_path / "out") == []
    assert {path.suffix for path in (tmp_path / "out").rglob("*") if path.is_file()} == {".dcm", ".txt"}


def test_the_datasheet_says_what_was_done(tmp_path: Path) -> None:
    export_deidentified(files(), KEYS, tmp_path / "out")
    text = (tmp_path / "out" / "README.txt").read_text()
    for part in ("Basic Application Level Confidentiality Profile", "dicom-anonymizer 2.", "10 read, 3 written",
                 "2 patients, 2 series", "7 refused", "1 x burned-in annotation", "1 file(s) do not say"):  # fmt: skip
        assert part in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_same_key_writes_the_same_files(tmp_path: Path) -> None:
    for name, keys in (("one", KEYS), ("two", KEYS), ("other", OTHER_KEYS)):
        export_deidentified(iter(files()), keys, tmp_path / name)
    one, two, other = (
        {path.relative_to(tmp_path / name).as_posix(): path.read_bytes() for path in (tmp_path / name).rglob("*.dcm")}
        for name in ("one", "two", "other")
    )
    assert one == two
    assert not one.keys() & other.keys()


def test_a_folder_in_use_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "kept.dcm").write_bytes(b"mine")
    with pytest.raises(MedaugError, match=r"is not empty; expected a new folder .*; name another$"):
        export_deidentified(files(), KEYS, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.dcm"]
    export_deidentified(files(), KEYS, tmp_path / "out")
    with pytest.raises(MedaugError, match="is not empty"):
        export_deidentified(files(), KEYS, tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(MedaugError, match="expected a folder that can be written"):
        export_deidentified(files(), KEYS, tmp_path / "file")


def test_an_export_that_was_broken_off_is_done_anew(tmp_path: Path) -> None:
    def broken_off() -> Iterator[tuple[str, bytes]]:
        yield files()[2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_deidentified(broken_off(), KEYS, tmp_path)
    assert (tmp_path / "README.txt").read_text().strip() == UNFINISHED
    assert len(list(tmp_path.rglob("*.dcm"))) == 1
    export_deidentified(files()[:2], KEYS, tmp_path)
    assert len(list(tmp_path.rglob("*.dcm"))) == 2, "what the broken one wrote of others is gone"
    assert UNFINISHED not in (tmp_path / "README.txt").read_text()


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_no_bytes_end_an_export(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    source = bytearray(files()[0][1])
    for _ in range(data.draw(st.integers(1, 12))):
        source[data.draw(st.integers(132, len(source) - 1))] = data.draw(st.integers(0, 255))
    source = source[: data.draw(st.integers(0, len(source)))]
    result = export_deidentified([("name", bytes(source))], KEYS, tmp_path_factory.mktemp("out"))
    assert result.written + sum(result.refused.values()) == 1
    assert not any(found(reason.encode()) for reason in result.refused)


def test_of_a_foreign_error_only_the_kind_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(ds: Dataset, keys: Keys) -> Dataset:
        raise LookupError(marker("quoted"))

    monkeypatch.setattr("pipeline.dicom.export.deidentify", fail)
    result = export_deidentified(files()[:1], KEYS, tmp_path / "out")
    assert result.refused == {"not readable (LookupError)": 1}
    assert search_folder(tmp_path / "out") == []


@pytest.mark.parametrize("fault", ["character set", "number", "encoding"])
def test_an_export_is_silent(
    fault: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(config.settings, "reading_validation_mode", config.WARN)
    data = to_bytes(image(SpecificCharacterSet="ISO_IR 100", AcquisitionNumber="000000000001"))
    start = data.index(b"\x08\x00\x05\x00CS")
    odd = {
        "character set": data.replace(b"ISO_IR 100", b"ZQMARK_IR "),
        "number": data.replace(b"000000000001", b"ZQMARK^JONES"),
        "encoding": data[:start]
        + data[start : start + 4]
        + b"\x0a\0\0\0"
        + data[start + 8 :],  # implicit, not explicit
    }[fault]
    with caplog.at_level(0), warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        str(dcmread(io.BytesIO(odd)))
        assert remarks or caplog.records, "pydicom does remark on it"
        remarks.clear()
        caplog.clear()
        export_deidentified([(marker("name"), odd)], KEYS, tmp_path / "out")
        assert (remarks, caplog.records) == ([], [])
    assert capfd.readouterr() == ("", "")


def test_every_file_of_the_zoo_is_exported_or_refused(real_data: Path, tmp_path: Path) -> None:
    zoo = sorted((real_data / "dicom-zoo").rglob("*.dcm"))
    result = export_deidentified(((path.name, path.read_bytes()) for path in zoo), KEYS, tmp_path / "out")
    assert result.written + sum(result.refused.values()) == len(zoo)
    # Many are one image in several transfer syntaxes, under one UID.
    same = result.refused["another file has its instance UID"] + result.refused["a copy of a file already written"]
    assert result.written + same >= 140
    assert result.written >= 60
