"""What becomes of each attribute under the Basic Application Level Confidentiality Profile (PS3.15 Annex E).

The library dicom-anonymizer brings Table E.1-1 as a list of tags for each action code, dummy values, and the loop that
applies a rule to each tag. The table agrees with the standard. What the library does not do is added here:

* It looks at the top level alone. Here the items of sequences go through the same rules.
* It replaces UIDs at random, anew in each process. Here they are keyed hashes, so that references hold between files
  and runs; and all are replaced that the standard does not register, whether the table lists them or not.
* It writes 00010101 where a date is to be removed (X) or emptied (Z). Here X and Z do as they say.
* It fills the items of a sequence that is to get dummy values (D) with texts that most of its attributes may not hold.
  Such sequences belong to documents, not to images, and are removed.
* It has one answer to a compound code (X/Z/D and the like). Here a dummy stands where the IOD demands a value, that is
  in enhanced multi-frame images and PET; elsewhere such attributes are type 2 and emptied, or type 3 and removed.
* It passes on what the table does not list. Here :mod:`pipeline.dicom.kept` says what may stay.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector
from dicomanonymizer.simpledicomanonymizer import anonymize_dataset, keep, replace
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import UID

from pipeline.dicom.deidentify import Keys
from pipeline.dicom.elements import text
from pipeline.dicom.kept import (
    BODY_PARTS,
    BULK,
    DECIMALS,
    DUMMIES,
    ELSEWHERE,
    IMAGE_GROUPS,
    MODALITIES,
    NUMBERS,
    RESCALE_TYPES,
    TEXTS,
    concept,
    identifying_words,
    is_harmless,
    is_local_code,
)
from pipeline.files import Unreadable

EDITION = "2026c"
"""The newest edition of Table E.1-1 that the library brings."""

Tag = tuple[int, int]
Action = Callable[[Dataset, Tag], None]


@cache
def table() -> dict[int, str]:
    """Tag → action code of Table E.1-1: "X", "Z", "D", "U", "X/Z", "Z/D", "X/D", "X/Z/D" or "X/Z/U*"."""
    lists = dicom_anonymization_database_selector(f"dicomfields_{EDITION}")
    return {
        group << 16 | element: name.removesuffix("_TAGS").replace("_STAR", "*").replace("_", "/").replace("/*", "*")
        for name, tags in lists.items()
        if name != "ALL_TAGS"
        for group, element, *masks in tags
        if not masks  # overlays and curves, whose groups go as a whole
    }


class Profile:
    """The profile as it applies to one dataset.

    Args:
        keys: hides UIDs.
        ds: the dataset that is to be cleaned.
    """

    def __init__(self, keys: Keys, ds: Dataset):
        self.keys = keys
        self.identity = identifying_words(ds)
        enhanced = "SharedFunctionalGroupsSequence" in ds or "Enhanced" in UID(text(ds, "SOPClassUID")).name
        self.demanding = enhanced or text(ds, "Modality") == "PT"

    def clean(self, ds: Dataset) -> Dataset:
        """A new dataset with what the profile leaves of this one.

        Args:
            ds: the dataset, or an item of one of its sequences; not changed.

        Raises:
            Unreadable: an attribute that the pixels depend on does not read.
        """
        left = Dataset()
        for tag in list(ds.keys()):  # iterating over the dataset would stop at the first value that does not read
            element = None if tag.is_private or table().get(tag) == "X" else self._copy(ds, tag)
            if element is not None:
                left.add(element)
        rules = {(element.tag.group, element.tag.element): self._rule(element) for element in left}
        anonymize_dataset(left, rules, delete_private_tags=True, base_rules_gen=dict)
        for keyword, value in concept(ds).items():
            setattr(left, keyword, value)
        return left

    def _copy(self, ds: Dataset, tag: BaseTag) -> DataElement | None:
        """An element of its own, its items cleaned; None where the bytes are no value of its kind."""
        expected = DicomDictionary.get(tag, ("",))[0]
        try:
            element = copy.copy(ds[tag])
            sound = _is_sound(element, expected)
        except Exception:  # pydicom raises whatever the bytes lead to, in texts that quote them
            sound = False
        if not sound:
            if tag.group in (0x0028, 0x7FE0) and expected not in ("", "LO", "SH", "LT", "ST", "UT"):
                raise Unreadable("an attribute of the pixels does not read")
            return None
        if element.VR == "SQ":
            items = [self.clean(item) for item in element.value if not is_local_code(item)]
            return DataElement(tag, "SQ", Sequence(items)) if items or not element.value else None
        return element

    def _rule(self, element: DataElement) -> Action:
        code, vr = table().get(element.tag), element.VR
        if code is None:
            return self._unlisted(element)
        if vr == "UI":
            return self._hash_uids
        if vr == "SQ":
            return keep if code == "X/Z/U*" else _empty if code in ("Z", "X/Z") else _remove
        return {"X": _remove, "Z": _empty, "D": replace}[self._simple(code, vr)]

    def _simple(self, code: str, vr: str) -> str:
        """The one action that a compound code comes to."""
        options = code.split("/")
        if len(options) == 1:
            return code
        if "D" in options and self.demanding and vr != "PN":  # no IOD demands a name
            return "D"
        return "X" if options[0] == "X" and options[-1] == "D" else "Z"

    def _unlisted(self, element: DataElement) -> Action:
        """The rule for a tag that the table does not list."""
        *_, retired, keyword = DicomDictionary[element.tag]  # _copy lets no unknown tag through
        vr = element.VR
        if retired or (element.tag.group not in IMAGE_GROUPS and keyword not in ELSEWHERE):
            return _remove
        match keyword:
            case "SpecificCharacterSet" | "LongitudinalTemporalInformationModified":  # said anew
                return _remove
            case "StackID":
                return self._hash_text
            case "PositionReferenceIndicator":  # type 2 in every image with a frame of reference
                return _empty
            case "RescaleType" | "ModalityLUTType":  # type 1 where it counts; US: not specified
                return _only(RESCALE_TYPES, otherwise="US")
            case "Modality":  # type 1; OT: other
                return _only(MODALITIES, otherwise="OT")
            case "BodyPartExamined":
                return _only(BODY_PARTS)
        if keyword in DUMMIES:
            return replace
        if vr in NUMBERS or vr in DECIMALS or vr == "SQ" or keyword in BULK:
            return keep
        if vr == "UI":
            return self._hash_uids
        return self._without_names if vr == "CS" or keyword in TEXTS else _remove

    def _hash_uids(self, ds: Dataset, tag: Tag) -> None:
        _set(ds, tag, [hidden_uid(str(value), self.keys) for value in _values(ds[tag])])

    def _hash_text(self, ds: Dataset, tag: Tag) -> None:
        """Equal texts stay equal: the frames of a stack are told by its name."""
        _set(ds, tag, [self.keys("text", str(value))[:16] for value in _values(ds[tag])])

    def _without_names(self, ds: Dataset, tag: Tag) -> None:
        texts = [str(value).strip(" \0") for value in _values(ds[tag])]
        _set(ds, tag, [text if is_harmless(text, ds[tag].VR, self.identity) else "" for text in texts])


def hidden_uid(uid: str, keys: Keys) -> str:
    """The UID itself where the standard registers it (SOP classes, transfer syntaxes), else its keyed stand-in."""
    uid = uid.strip(" \0")
    return uid if not uid or UID(uid).name != uid else keys.uid(uid)


def _is_sound(element: DataElement, expected: str) -> bool:
    """Whether the value is of the kind that the standard says: pydicom hands on as a text what is no number.

    Args:
        element: as read.
        expected: the tag's value representation in the standard, e.g. "LO" or "US or SS"; "" for an unknown tag.
    """
    numeric = NUMBERS | DECIMALS
    if element.VR not in expected and not {element.VR, expected} <= numeric:
        return False
    if element.VR in DECIMALS:
        return all(isinstance(value, int | float) or value in ("", None) for value in _values(element))
    if element.VR in NUMBERS and isinstance(element.value, bytes | str):
        return len(element.value) <= 6  # up to three numbers whose sign is not known yet
    return True


def _only(terms: frozenset[str], otherwise: str = "") -> Action:
    """Lets defined terms pass, and what is empty."""

    def action(ds: Dataset, tag: Tag) -> None:
        texts = [str(value).strip() for value in _values(ds[tag])]
        _set(ds, tag, [text if text in terms or not text else otherwise for text in texts])

    return action


def _remove(ds: Dataset, tag: Tag) -> None:
    del ds[tag]


def _empty(ds: Dataset, tag: Tag) -> None:
    ds[tag].value = [] if ds[tag].VR == "SQ" else None


def _set(ds: Dataset, tag: Tag, values: list[str]) -> None:
    """New values in place of the old; an element that lost all it had goes."""
    if any(values):
        ds[tag].value = values if len(values) > 1 else values[0]
    elif _values(ds[tag]) not in ([], [""]):
        del ds[tag]


def _values(element: DataElement) -> list[Any]:
    value = element.value
    return list(value) if isinstance(value, MultiValue | list) else [] if value is None else [value]
