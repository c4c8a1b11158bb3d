"""What a de-identified file may keep of the attributes that the confidentiality profile's table does not list.

Table E.1-1 of PS3.15 lists attributes that may identify. It can know neither retired attributes nor free text where
none was meant to be. So the rule here is the reverse: what is not known to describe the image goes. None of what stays
can hold a name: numbers hold none; a code string names a choice from a list in PS3.3, in sixteen capitals at most;
coded concepts stay where they are the standard's own, and in its words; four free texts are the maker's.
"""

from __future__ import annotations

import re
from functools import cache

from pydicom.dataset import Dataset
from pydicom.sr.codedict import Collection
from pydicom.sr.coding import snomed_mapping


def _listed(names: str) -> frozenset[str]:
    return frozenset(names.split())


IMAGE_GROUPS = frozenset(
    (0x0008, 0x0018, 0x0020, 0x0022, 0x0028, 0x0048, 0x0052, 0x0054, 0x0062, 0x2050, 0x3004, 0x5200, 0x7FE0)
)
"""Groups that say what an image is, how it was acquired and how it is shown. Patient (0010), trial (0012), camera
(0016), visit (0038), procedure (0040), overlays (60xx), curves (50xx), print and therapy go as a whole."""

ELSEWHERE = _listed(
    "RealWorldValueMappingSequence ReferencedImageRealWorldValueMappingSequence RealWorldValueFirstValueMapped "
    "RealWorldValueLastValueMapped DoubleFloatRealWorldValueFirstValueMapped DoubleFloatRealWorldValueLastValueMapped "
    "RealWorldValueIntercept RealWorldValueSlope RealWorldValueLUTData PixelValueMappingCodeSequence LUTLabel "
    "MeasurementUnitsCodeSequence QuantityDefinitionSequence ConceptNameCodeSequence ConceptCodeSequence "
    "ParametricMapFrameTypeSequence PurposeOfReferenceCodeSequence"
)
"""Attributes outside those groups that give the pixels' values their meaning."""

NUMBERS = frozenset(("US", "SS", "UL", "SL", "UV", "SV", "FL", "FD", "AT", "US or SS"))
DECIMALS = frozenset(("DS", "IS"))

BULK = _listed(
    "PixelData FloatPixelData DoubleFloatPixelData ExtendedOffsetTable ExtendedOffsetTableLengths LUTData "
    "RedPaletteColorLookupTableData GreenPaletteColorLookupTableData BluePaletteColorLookupTableData "
    "AlphaPaletteColorLookupTableData SegmentedRedPaletteColorLookupTableData "
    "SegmentedGreenPaletteColorLookupTableData SegmentedBluePaletteColorLookupTableData"
)
"""Bytes that the pixels cannot be read or shown without. ICC profiles go: they hold texts."""

TEXTS = frozenset(("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "ConvolutionKernel"))
"""Set in the factory, they name neither the patient nor the one machine; models confound them with diseases, so that
whoever trains on the files needs to know them."""

DUMMIES = _listed(
    "PulseSequenceName ReceiveCoilName ReceiveCoilManufacturerName TransmitCoilName MultiCoilElementName SegmentLabel "
    "SegmentAlgorithmName LUTLabel LUTExplanation"
)
"""Texts that anybody may have typed where an IOD demands a value (type 1)."""

RESCALE_TYPES = _listed("OD HU US MGML Z_EFF ED EDW HU_MOD PCT")
"""Defined terms of Rescale Type and Modality LUT Type (PS3.3 C.11.1.1.2)."""

PHOTOMETRIC = {"PALETTE COLOR"} | _listed(
    "MONOCHROME1 MONOCHROME2 RGB HSV ARGB CMYK XYB "
    "YBR_FULL YBR_FULL_422 YBR_PARTIAL_422 YBR_PARTIAL_420 YBR_ICT YBR_RCT"
)
"""Photometric interpretations (PS3.3 C.7.6.3.1.2)."""

MODALITIES = _listed(
    "ANN AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DMS DG DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL IVOCT "
    "IVUS KER KO LEN LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG "
    "RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA "
    "XA XAPROTOCOL XC AS CD CF CP CS DD DF DM DS EC FA FS LP MA MS OPR ST VF"
)
"""Modalities (PS3.3 C.7.3.1.1.1), retired ones last."""

BODY_PARTS = _listed(
    "ABDOMEN ABDOMENPELVIS ADRENAL ANKLE AORTA ARM AXILLA BACK BLADDER BRAIN BREAST BRONCHUS BUTTOCK CALCANEUS CALF "
    "CAROTID CEREBELLUM CERVIX CHEEK CHEST CHESTABDOMEN CHESTABDPELVIS CLAVICLE COCCYX COLON CORNEA CORONARYARTERY "
    "CSPINE CTSPINE DUODENUM EAR ELBOW ESOPHAGUS EXTREMITY EYE EYELID FACE FEMUR FINGER FOOT GALLBLADDER HAND HEAD "
    "HEADNECK HEART HIP HUMERUS IAC ILEUM ILIUM JAW JEJUNUM KIDNEY KNEE LARYNX LEG LIVER LSPINE LSSPINE LUNG MANDIBLE "
    "MAXILLA MEDIASTINUM MOUTH NECK NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV NOSE ORBIT OVARY PANCREAS PAROTID "
    "PATELLA PELVIS PENIS PHARYNX PROSTATE RECTUM RIB SACRUM SCALP SCAPULA SCLERA SCROTUM SHOULDER SKULL SPINE SPLEEN "
    "SSPINE STERNUM STOMACH SUBMANDIBULAR TESTIS THIGH THORAX THUMB THYMUS THYROID TLSPINE TMJ TOE TONGUE TRACHEA "
    "TSPINE UPRARM URETER URETHRA UTERUS VAGINA VULVA WHOLEBODY WRIST ZYGOMA"
)
"""Terms of PS3.16 Annex L. Body Part Examined is the code string that people type in, so that only these pass."""

_CODE_STRING = re.compile(r"[A-Z0-9 _]{1,16}", re.ASCII)
_NAMES_AND_NUMBERS = ("PatientName", "PatientID", "OtherPatientIDs", "OtherPatientNames", "PatientBirthName")


def words(text: str) -> set[str]:
    """Its words, in capitals."""
    return set(re.findall(r"[^\W_]+", text.upper()))


def identifying_words(ds: Dataset) -> frozenset[str]:
    """Words of the patient's names and numbers: what no text that is kept may hold.

    Args:
        ds: the dataset before anything is done to it.
    """
    found: set[str] = set()
    for keyword in _NAMES_AND_NUMBERS:
        try:
            found |= words(str(ds.get(keyword) or ""))
        except Exception:  # an element that does not read, which is not kept either
            continue
    return frozenset(word for word in found if len(word) >= 4)


def is_harmless(text: str, vr: str, identity: frozenset[str]) -> bool:
    """Whether one value of a kept attribute is what it should be, and names no patient.

    Args:
        text: the value.
        vr: its value representation; anything but CS, LO and SH is refused.
        identity: see :func:`identifying_words`.
    """
    if vr == "CS":
        formed = _CODE_STRING.fullmatch(text) is not None
    else:
        formed = vr in ("LO", "SH") and len(text) <= 64 and text.isprintable() and "\ufffd" not in text
    return formed and not identity & words(text)


def concept(item: Dataset) -> dict[str, str]:
    """The coded concept of an item (PS3.3 8.1) in the standard's own words; empty where it is none of PS3.16's."""
    scheme, value = (str(item.get(keyword, "")).strip() for keyword in ("CodingSchemeDesignator", "CodeValue"))
    meaning = _meanings(scheme).get(value, "")
    if not meaning:
        return {}
    return {"CodeValue": value, "CodingSchemeDesignator": scheme, "CodeMeaning": meaning[:64]}


def is_local_code(item: Dataset) -> bool:
    """Whether an item is a code of the hospital's or the vendor's own: value and meaning are anybody's words."""
    coded = any(keyword in item for keyword in ("CodeValue", "LongCodeValue", "URNCodeValue", "CodeMeaning"))
    return coded and not concept(item)


@cache
def _meanings(scheme: str) -> dict[str, str]:
    """Code → meaning of a scheme."""
    if scheme in ("SRT", "SNM3", "99SDM"):  # SNOMED's codes before 2017 (PS3.16 8.1)
        modern, old = _meanings("SCT"), snomed_mapping["SRT"]
        return {code: modern[new] for code, new in old.items() if new in modern}
    try:
        concepts = Collection(scheme).concepts.values()
    except (KeyError, ValueError):
        return {}
    # Some codes have several names, "Lung" and "Lung structure (body structure)": the last word is the shortest.
    return {code.value: code.meaning for code in sorted(concepts, key=lambda code: -len(code.meaning))}
