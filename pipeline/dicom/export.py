"""De-identified copies of DICOM files: pixels and what they mean stay, the patient goes (PS3.15 Annex E).

The pseudonyms are those of the dataset artifact made under the same key, so that the two can be joined, unless a
column of the labels' file said who the patients are: an export knows the headers alone.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import warnings
from collections import Counter
from collections.abc import Iterable, Sized
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from pipeline.dicom.confidential import deidentify
from pipeline.dicom.deidentify import Keys
from pipeline.dicom.elements import text
from pipeline.dicom.profile import EDITION
from pipeline.files import SetAside, Unreadable
from pipeline.records import MedaugError, Progress

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


def export_deidentified(
    files: Iterable[tuple[str, bytes]], keys: Keys, out: Path, progress: Progress | None = None
) -> ExportResult:
    """Writes de-identified copies as ``out/patient/series/instance.dcm``, all named by pseudonyms.

    Args:
        files: (name, bytes) of each file; the names are not used, since they may name patients.
        keys: see :func:`pipeline.dicom.confidential.deidentify`.
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds = dcmread(io.BytesIO(data), force=data[128:132] != b"DICM")
            clean = deidentify(ds, keys)
            stream = io.BytesIO()
            clean.save_as(stream, enforce_file_format=True)
    except (SetAside, Unreadable):
        raise
    except Exception as error:
        raise Unreadable(f"not readable ({type(error).__name__})") from None
    return clean, stream.getvalue()


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
