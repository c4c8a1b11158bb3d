"""De-identified copies of DICOM files: pixels and what they mean stay, the patient goes (PS3.15 Annex E).

The pseudonyms are those of the dataset artifact that was made under the same key, so that the two can be joined.
"""

from __future__ import annotations

import hashlib
import io
import logging
import shutil
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pipeline.dicom.deidentify import Keys
from pipeline.dicom.elements import text
from pipeline.dicom.profile import EDITION, Profile
from pipeline.files import SetAside, Unreadable
from pipeline.records import MedaugError, Progress

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
README = "README.txt"
UNFINISHED = "unfinished export of de-identified DICOM files; give the same command again to complete it"


@dataclass(frozen=True)
class ExportResult:
    """What became of the files.

    Attributes:
        written: files written.
        refused: reason, without patient data → number of files.
        unchecked: of those written, how many do not say that nothing is burned into their pixels.
    """

    written: int
    refused: Counter[str] = field(default_factory=Counter)
    unchecked: int = 0


def patient_identity(ds: Dataset) -> str:
    """Whom a file shows, as the ingest tells patients apart: by issuer and number, else by the study; "" if unknown."""
    patient = text(ds, "PatientID")
    return f"{text(ds, 'IssuerOfPatientID')}\0{patient}" if patient else text(ds, "StudyInstanceUID")


def deidentify(ds: Dataset, keys: Keys) -> Dataset:
    """A copy of an image without what identifies the patient, by the Basic Application Level Confidentiality Profile.

    Args:
        ds: an image as read from a file; not changed.
        keys: make pseudonyms and UIDs: the same in every file and every run, under another key others.

    Returns:
        A new dataset with new file meta information, the pixels as they were, and a preamble of zeros.

    Raises:
        SetAside: no image, or the pixels may name the patient.
        Unreadable: it lacks what no image can be without, or that does not read.
    """
    with _quiet():
        _check_pixels(ds)
        sop_class, syntax = _sop_class(ds), _transfer_syntax(ds)
        if not all(text(ds, keyword) for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")):
            raise Unreadable("no study, series or instance UID")
        clean = Profile(keys, ds).clean(ds)
        _state(clean, keys("patient", patient_identity(ds)))
        clean.SOPClassUID = sop_class
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, clean.SOPInstanceUID
        meta.TransferSyntaxUID = syntax
        clean.file_meta, clean.preamble = meta, bytes(128)
    return clean


def export_deidentified(
    files: Iterable[tuple[str, bytes]], keys: Keys, out: Path, progress: Progress | None = None
) -> ExportResult:
    """Writes de-identified copies as ``out/patient/series/instance.dcm``, all named by pseudonyms.

    Args:
        files: (name, bytes) of each file; the names are not used, since they may name patients.
        keys: see :func:`deidentify`.
        out: folder to write to; new, empty, or of an export that was broken off, which is then done anew.
        progress: told after each file.

    Raises:
        MedaugError: the folder holds something else, or cannot be written.
        OSError: the drive fails or is full.
    """
    _open_folder(out)
    total = len(files) if isinstance(files, Sized) else 0
    refused: Counter[str] = Counter()
    digests: dict[Path, str] = {}
    unchecked = done = 0
    for done, (_, data) in enumerate(files, start=1):
        try:
            clean, content = _convert(data, keys)
            path, digest = _place(clean, keys), hashlib.sha256(content).hexdigest()
            if path in digests:
                same = digests[path] == digest
                raise SetAside("a copy of a file already written" if same else "another file has its instance UID")
        except (SetAside, Unreadable) as reason:
            refused[str(reason)] += 1
        else:
            _write(out / path, content)
            digests[path] = digest
            unchecked += text(clean, "BurnedInAnnotation") != "NO"
        if progress is not None:
            progress(done, max(total, done))
    result = ExportResult(len(digests), refused, unchecked)
    _write(out / README, _datasheet(result, done, digests).encode())
    return result


def _convert(data: bytes, keys: Keys) -> tuple[Dataset, bytes]:
    """A file's bytes to the copy and its bytes."""
    # The widest net is right around one file: its bytes may lead a reader anywhere, and no file may end an export. The
    # text of a foreign error may quote the file, so that only its type is told.
    try:
        with _quiet():
            ds = dcmread(io.BytesIO(data), force=data[128:132] != b"DICM")
            clean = deidentify(ds, keys)
            stream = io.BytesIO()
            clean.save_as(stream, enforce_file_format=True)
    except (SetAside, Unreadable):
        raise
    except Exception as error:
        raise Unreadable(f"not readable ({type(error).__name__})") from None
    return clean, stream.getvalue()


@contextmanager
def _quiet() -> Iterator[None]:
    """No remarks of pydicom, which quote values: neither as warnings nor to anybody's log."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            logger.setLevel(level)


def _check_pixels(ds: Dataset) -> None:
    """Refuses what has no pixels, or such as may name the patient."""
    pixels = next(filter(None, map(ds.get, PIXELS)), None)
    if not isinstance(pixels, bytes):
        raise SetAside("no pixel data")
    if text(ds, "BurnedInAnnotation").upper() not in ("", "NO"):
        raise SetAside("burned-in annotation, which may name the patient")
    for group in range(0x6000, 0x6100, 2):
        # PS3.3 C.9.2 of 2004 and before: an overlay in bits of the pixels that the image leaves unused
        if (group, 0x0010) in ds and (group, 0x3000) not in ds:
            raise SetAside("an overlay inside the pixels, which may name the patient")
    if b"Exif\0\0" in pixels[: 2**16]:
        raise SetAside("a camera's notes (Exif) inside the pixels, which may say where and when")


def _sop_class(ds: Dataset) -> UID:
    sop_class = UID(text(ds, "SOPClassUID"))
    if sop_class.name == sop_class or sop_class.type != "SOP Class":
        raise Unreadable("no SOP class, or none of the standard's")
    return sop_class


def _transfer_syntax(ds: Dataset) -> UID:
    """What the file meta information says; files without one are in one of the native syntaxes (PS3.10 7.1)."""
    stated = UID(text(getattr(ds, "file_meta", Dataset()), "TransferSyntaxUID"))
    if not stated:
        implicit, little = ds.original_encoding
        return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    if stated.name == stated or not stated.is_transfer_syntax:
        raise Unreadable("unknown transfer syntax")
    return stated


def _state(ds: Dataset, pseudonym: str) -> None:
    """Says whose file it is now, and what was done to it (PS3.15 E.1.1, PS3.3 C.7.1.1 and C.12.1)."""
    ds.PatientID = ds.PatientName = pseudonym
    ds.SpecificCharacterSet = "ISO_IR 192"  # UTF-8: what is kept was decoded, and is written anew
    ds.PatientIdentityRemoved = "YES"
    ds.DeidentificationMethod = [
        f"DICOM PS3.15 {EDITION} Annex E, basic profile",
        f"medaug {version('medaug')}, dicom-anonymizer {version('dicom-anonymizer')}",
    ]
    profile = Dataset()
    profile.CodeValue, profile.CodingSchemeDesignator = "113100", "DCM"
    profile.CodeMeaning = "Basic Application Confidentiality Profile"
    ds.DeidentificationMethodCodeSequence = Sequence([profile])
    ds.LongitudinalTemporalInformationModified = "REMOVED"


def _place(ds: Dataset, keys: Keys) -> Path:
    """Where a copy goes; UIDs are shortened by another hash, since file systems and readers prefer short names."""
    series, instance = keys("series", ds.SeriesInstanceUID)[:16], keys("instance", ds.SOPInstanceUID)[:16]
    return Path(str(ds.PatientID), series, f"{instance}.dcm")


def _open_folder(out: Path) -> None:
    """Makes the folder ready, and marks it as unfinished; what a broken-off export wrote goes."""
    mark = out / README
    try:
        out.mkdir(parents=True, exist_ok=True)
        if mark.is_file() and mark.read_text(encoding="utf-8", errors="replace").strip() == UNFINISHED:
            for folder in out.iterdir():
                if folder.is_dir() and not folder.is_symlink():
                    shutil.rmtree(folder)
        elif next(out.iterdir(), None) is not None:
            raise MedaugError(f"{out}: is not empty; expected a new folder for the de-identified files; name another")
        mark.write_text(UNFINISHED + "\n", encoding="utf-8")
    except OSError as error:
        raise MedaugError(f"{out}: {error.strerror}; expected a folder that can be written; name another") from None


def _write(path: Path, content: bytes) -> None:
    """The whole file, or none of that name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    draft.write_bytes(content)
    draft.replace(path)


def _datasheet(result: ExportResult, files: int, places: Iterable[Path]) -> str:
    """What was done, for those who get the files."""
    parts = [path.parts for path in places]
    patients, series = len({part[0] for part in parts}), len({part[:2] for part in parts})
    refused = "".join(f"    {count} x {reason}\n" for reason, count in result.refused.most_common())
    ours, library = version("medaug"), version("dicom-anonymizer")
    return f"""De-identified DICOM files

Profile: Basic Application Level Confidentiality Profile, DICOM PS3.15 {EDITION} Annex E, without options
Made by: medaug {ours} through dicom-anonymizer {library} and its edition {EDITION} of Table E.1-1
Files: {files} read, {result.written} written ({patients} patients, {series} series), {files - result.written} refused
{refused}
Folders and files are named by pseudonyms: patient/series/instance.dcm. PatientID and PatientName are the patient's
pseudonym. Pseudonyms and UIDs are keyed hashes (HMAC-SHA256): the same for the same patient in every export and dataset
made under the same key, and not to be traced back without it. The key is not here.

Dates and times, private attributes, overlays, free text, person names and local codes are gone, in sequences as well;
so are attributes that are retired, unknown, or do not describe the image. Maker, model, software version and
reconstruction kernel are kept. Pixels are bit for bit those of the source, in its transfer syntax.

Nobody has looked at the pixels. {result.unchecked} file(s) do not say that no text is burned into them: look at
some of each series, at ultrasound and secondary captures first. A head can be recognised from thin slices, and comments
that an encoder has put into compressed pixels are still there.
"""
