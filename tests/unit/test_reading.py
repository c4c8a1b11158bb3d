"""What a worker makes of one file: a fault of the file is its fate, a fault of the machine ends the ingest."""

from __future__ import annotations

import io

import numpy as np
import pytest

from pipeline.codes import decode
from pipeline.files import Entry, list_entries
from pipeline.reading import look, prepare
from pipeline.scans import Rules
from tests.unit.dicom_files import as_is, make, save

RULES = Rules("dicom", as_is((0, 1000)))


def entry_of(tmp_path, pixels, **attributes):
    save(make(pixels, **attributes), tmp_path / "in" / "1.dcm")
    return list_entries(tmp_path / "in")[0]


class BrokenDisk(io.BytesIO):
    def read(self, size=-1):
        raise OSError(5, "Input/output error")


def test_a_broken_disk_is_no_fault_of_the_file(tmp_path, monkeypatch):
    entry = entry_of(tmp_path, np.zeros((16, 16), "u2"))
    found = look(entry, RULES)
    monkeypatch.setattr(Entry, "open", lambda self: BrokenDisk())
    monkeypatch.setattr(Entry, "read", lambda self: BrokenDisk().read())
    with pytest.raises(OSError, match="Input/output"):
        look(entry, RULES)
    with pytest.raises(OSError, match="Input/output"):
        prepare((entry, found), RULES, tmp_path)


def test_frames_lie_in_the_spool_one_after_the_other(tmp_path):
    frames = np.stack([np.full((16, 16), 1024 + 100 * k, "u2") for k in range(3)])
    frames[:, 0, 0] += 1  # an image of one value shows nothing
    entry = entry_of(tmp_path, frames)
    found = look(entry, RULES)
    first, second = prepare((entry, found), RULES, tmp_path), prepare((entry, found), RULES, tmp_path)
    assert first.spool == second.spool
    assert (first.position, second.position) == (0, 3)
    codes = np.fromfile(tmp_path / first.spool, "<u2").reshape(-1, 16, 16)
    assert len(codes) == 6
    np.testing.assert_allclose(decode(codes)[:, 1:].mean((1, 2)), [-1, -0.8, -0.6] * 2, atol=1e-4)
    assert [one.hash for one in first.frames] == [one.hash for one in second.frames]
    assert len({one.source for one in first.frames}) == 3


def test_large_tables_are_read_again_and_not_carried(tmp_path):
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    item = Dataset()
    item.LUTDescriptor, item.ModalityLUTType = [4096, 0, 16], "HU"
    item["LUTDescriptor"].VR = "US"
    item.add_new("LUTData", "OW", (np.arange(4096) // 2).astype("<u2").tobytes())
    pixels = np.full((16, 16), 1000, "u2")
    pixels[0] = 2000
    entry = entry_of(tmp_path, pixels, bits=12, ModalityLUTSequence=Sequence([item]))
    found = look(entry, RULES)
    assert found.display is None
    prepared = prepare((entry, found), RULES, tmp_path)
    assert prepared.status == "image", prepared.reason
    codes = np.fromfile(tmp_path / prepared.spool, "<u2")
    np.testing.assert_allclose(decode(codes)[:16], 1.0, atol=1e-4)
    np.testing.assert_allclose(decode(codes)[16:], 0.0, atol=1e-4)  # 1000 // 2 of 0 to 1000


def test_what_shows_nothing_is_no_image(tmp_path):
    blank = entry_of(tmp_path, np.full((16, 16), 5000, "u2"))
    prepared = prepare((blank, look(blank, RULES)), RULES, tmp_path)
    assert (prepared.status, prepared.reason) == ("set aside", "nothing to see under this window")
    frames = np.full((3, 16, 16), 5000, "u2")
    frames[1, :8] = 1100
    (tmp_path / "in" / "1.dcm").unlink()
    some = entry_of(tmp_path, frames)
    prepared = prepare((some, look(some, RULES)), RULES, tmp_path)
    assert [frame.number for frame in prepared.frames] == [1]
    assert any("left out" in note for note in prepared.notes)


def test_a_number_that_speaks_of_the_file_is_no_broken_disk(tmp_path):
    """A BigTIFF whose directory lies beyond what lseek takes: EINVAL, in the header pass."""
    head = b"II+\0\x08\0\0\0" + (2**62).to_bytes(8, "little") + bytes(64)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.tif").write_bytes(head)
    found = look(list_entries(tmp_path / "in")[0], Rules("images", as_is("full")))
    assert found.status in ("quarantined", "set aside")
    assert found.reason
