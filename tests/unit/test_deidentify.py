"""The key of the patients' hashes."""

import stat

import pytest

from pipeline.dicom.deidentify import Keys
from pipeline.records import MedaugError


class TestKeys:
    def test_the_key_is_private_and_stays(self, tmp_path):
        one, two = Keys.load(tmp_path / "private"), Keys.load(tmp_path / "private")
        assert one == two
        file = tmp_path / "private" / "hmac.key"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert len(list((tmp_path / "private").iterdir())) == 1
        assert Keys.load(tmp_path / "other") != one

    def test_hashes_depend_on_key_role_and_text(self):
        one, two = Keys(b"1" * 32), Keys(b"2" * 32)
        hashes = {one("patient", "a"), one("study", "a"), one("patient", "b"), two("patient", "a"), one.fingerprint}
        assert len(hashes) == 5
        assert one("patient", "a") == Keys(b"1" * 32)("patient", "a")

    def test_a_damaged_key(self, tmp_path):
        (tmp_path / "hmac.key").write_text("short")
        with pytest.raises(MedaugError, match="64 hexadecimal digits"):
            Keys.load(tmp_path)
