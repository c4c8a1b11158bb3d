import _compression
import base64
import errno
import gzip
import io
import os
import random
import shutil
import struct
import subprocess
import tarfile
import tracemalloc
import warnings
import zipfile
import zlib

import pytest

from pipeline import archives
from pipeline.archives import safe_name
from pipeline.files import Entry, SetAside, Unreadable, list_entries
from pipeline.records import MedaugError

FILES = {"b/1.dcm": b"one" * 1000, "a/2.dcm": b"two" * 2000, "3.dcm": b"", "a/deep/4.dcm": bytes(range(256)) * 40}
NOISE = random.Random(0)
SQUEEZED = {"w:gz": ".tar.gz", "w:bz2": ".tbz", "w:xz": ".tar.xz"}

ENCRYPTED = base64.b64decode(  # zip -P pass, of a file scan.dcm that holds b"a secret scan"
    "UEsDBAoACQAAAJsweF3IIb5yGQAAAA0AAAAIABwAc2Nhbi5kY21VVAkAAwUpBWsFKQVrdXgLAAEEAAAAAAQAAAAA8Gi8lKXwbjlTSWpn7nC2D1iK"
    "+Pb0G5taTFBLBwjIIb5yGQAAAA0AAABQSwECHgMKAAkAAACbMHhdyCG+chkAAAANAAAACAAYAAAAAAABAAAApIEAAAAAc2Nhbi5kY21VVAUAAwUp"
    "BWt1eAsAAQQAAAAABAAAAABQSwUGAAAAAAEAAQBOAAAAawAAAAAA"
)


def make_zip(path, files, compression=zipfile.ZIP_DEFLATED):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of names that occur twice
        for name, content in files:
            archive.writestr(name, content)
    return path


def make_tar(path, files, mode="w", **how):
    with tarfile.open(path, mode, **how) as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def patch(path, place, content):
    data = bytearray(path.read_bytes())
    data[place : place + len(content)] = content
    path.write_bytes(data)
    return path


def fields(path, method=None, size=None, crc=None):
    """Overwrites what a zip of one member says of it, in both of its headers."""
    data = path.read_bytes()
    central = data.index(b"PK\x01\x02")
    for start, shift in ((0, 0), (central, 2)):
        if method is not None:
            patch(path, start + 8 + shift, struct.pack("<H", method))
        if crc is not None:
            patch(path, start + 14 + shift, struct.pack("<I", crc))
        if size is not None:
            patch(path, start + 22 + shift, struct.pack("<I", size))
    return path


def read_all(path):
    return {entry.name: entry.read() for entry in list_entries(path)}


def only(path):
    (entry,) = list_entries(path)
    return entry


class TestBoth:
    @pytest.fixture(params=["zip", "zip stored", "w", *SQUEEZED])
    def archive(self, request, tmp_path):
        """Recognised by what is in it: the name says nothing."""
        if request.param.startswith("zip"):
            how = zipfile.ZIP_STORED if "stored" in request.param else zipfile.ZIP_DEFLATED
            return make_zip(tmp_path / "data.bin", FILES.items(), how)
        return make_tar(tmp_path / "data.bin", FILES.items(), request.param)

    def test_reads_like_the_folder(self, archive, tmp_path):
        for name, content in FILES.items():
            file = tmp_path / "folder" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        assert read_all(archive) == read_all(tmp_path / "folder") == FILES

    def test_a_member_is_a_stream_that_can_seek(self, archive):
        entry = next(entry for entry in list_entries(archive) if entry.name == "a/deep/4.dcm")
        with entry.open() as stream:
            stream.seek(-1, io.SEEK_END)
            assert stream.read() == b"\xff"

    def test_too_large_is_not_read(self, archive, monkeypatch):
        monkeypatch.setattr("pipeline.files.MAX_BYTES", 5000)
        large = next(entry for entry in list_entries(archive) if entry.name == "a/2.dcm")
        with pytest.raises(SetAside, match="larger than"):
            large.read()

    def test_another_archive_under_the_same_name_is_no_fault_of_its_members(self, archive):
        entries = list_entries(archive)
        assert entries[0].read() == FILES[entries[0].name]
        changed = [(name, content + b"!") for name, content in FILES.items()]
        if zipfile.is_zipfile(archive):
            make_zip(archive, changed)
        else:
            make_tar(archive, changed)
        os.utime(archive, ns=(0, entries[0].modified + 1))
        with pytest.raises(OSError, match="the archive changed while it was read") as error:
            entries[1].read()
        assert error.value.errno == errno.ESTALE
        assert read_all(archive) == dict(changed)

    def test_an_archive_that_vanished_is_no_fault_of_its_members(self, archive):
        entry = list_entries(archive)[0]
        archive.unlink()
        with pytest.raises(FileNotFoundError):
            entry.read()

    def test_a_forked_process_does_not_share_the_place_in_the_file(self, archive):
        first, *_, last = list_entries(archive)
        first.read()
        before = _places(archive)
        assert before
        child = os.fork()
        if child == 0:
            os._exit(0 if last.read() == FILES[last.name] else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert _places(archive) == before

    def test_names_stay_in_the_archive_and_nothing_is_written(self, tmp_path):
        evil = ("../../escape", "/etc/passwd", "a/../../x", "..\\win\\1", "C:\\data\\2", "./dot/./3", "a//b")
        content = [(name, name.encode()) for name in evil]
        before = sorted(tmp_path.rglob("*"))
        for archive in (make_zip(tmp_path / "x.zip", content), make_tar(tmp_path / "x.tar", content)):
            assert read_all(archive) == {
                "escape": b"../../escape",
                "etc/passwd": b"/etc/passwd",
                "x": b"a/../../x",
                "win/1": b"..\\win\\1",
                "C:/data/2": b"C:\\data\\2",
                "dot/3": b"./dot/./3",
                "a/b": b"a//b",
            }
        assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "x.zip", tmp_path / "x.tar"])
        assert not (tmp_path.parent.parent / "escape").exists()

    def test_two_members_of_one_name_are_both_kept(self, tmp_path):
        content = [("x/1", b"first"), ("x/1", b"second"), ("../x/1", b"third"), ("x/1 (2)", b"by name")]
        expected = {"x/1": b"first", "x/1 (2)": b"second", "x/1 (3)": b"third", "x/1 (2) (2)": b"by name"}
        assert read_all(make_zip(tmp_path / "x.zip", content)) == expected
        assert read_all(make_tar(tmp_path / "x.tar.gz", content, "w:gz")) == expected

    def test_litter_and_folders_are_left_out_and_archives_in_archives_are_files(self, tmp_path):
        inner = make_zip(tmp_path / "inner.zip", [("1", b"one")]).read_bytes()
        content = [("__MACOSX/._1", b"x"), ("a/.DS_Store", b"x"), ("inner.zip", inner)]
        outer = make_zip(tmp_path / "outer.zip", content)
        with zipfile.ZipFile(outer, "a") as archive:
            archive.writestr("folder/", b"")
        assert read_all(outer) == {"inner.zip": inner}
        tar = make_tar(tmp_path / "outer.tar", content)  # has the marks of a zip at its end
        assert zipfile.is_zipfile(tar)
        assert read_all(tar) == {"inner.zip": inner}

    def test_an_empty_name(self):
        assert safe_name("..") == safe_name("/") == "unnamed"

    @pytest.mark.parametrize("kind", ["zip", "tar"])
    def test_a_drive_that_fails_is_not_the_members_fault(self, tmp_path, monkeypatch, kind):
        make = {"zip": make_zip, "tar": make_tar}[kind]
        entry = list_entries(make(tmp_path / "x", FILES.items()))[0]

        class Failing(io.BytesIO):
            def read(self, *_):
                raise OSError(errno.EIO, "Input/output error")

        if kind == "zip":
            monkeypatch.setattr("zipfile.ZipFile.open", lambda *_: Failing())
        else:
            monkeypatch.setattr(archives, "_uncompressed", lambda _: Failing())
        with pytest.raises(OSError, match="Input/output error") as error:
            entry.read()
        assert error.value.errno == errno.EIO


def _places(path):
    """Where this process's open files of a path stand."""
    places = {}
    for link in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            if os.readlink(f"/proc/self/fd/{link}") == str(path):  # noqa: PTH115
                places[link] = os.lseek(int(link), 0, os.SEEK_CUR)
        except OSError:
            continue
    return places


class TestZip:
    def test_an_encrypted_member(self, tmp_path):
        (tmp_path / "x.zip").write_bytes(ENCRYPTED)
        with pytest.raises(Unreadable, match=r"^encrypted in the archive$"):
            only(tmp_path / "x.zip").read()

    def test_a_wrong_checksum(self, tmp_path):
        path = make_zip(tmp_path / "x.zip", [("Doe_John", b"content"), ("good", b"good")], zipfile.ZIP_STORED)
        bad, good = list_entries(patch(path, path.read_bytes().index(b"content"), b"k"))
        with pytest.raises(Unreadable, match=r"^damaged in the archive$"):
            bad.read()
        assert good.read() == b"good"

    def test_a_damaged_stream(self, tmp_path):
        path = make_zip(tmp_path / "x.zip", [("1", NOISE.randbytes(5000))])
        with pytest.raises(Unreadable, match=r"^damaged in the archive$"):
            only(patch(path, 40, b"\xff" * 200)).read()

    def test_a_damaged_header_of_a_member(self, tmp_path):
        path = make_zip(tmp_path / "x.zip", [("1", b"content")])
        with pytest.raises(Unreadable, match=r"^damaged in the archive$"):
            only(patch(path, 0, b"XX")).read()

    def test_a_method_nobody_knows(self, tmp_path):
        path = fields(make_zip(tmp_path / "x.zip", [("1", b"content")]), method=9)
        with pytest.raises(Unreadable, match=r"^compressed by a method that cannot be read here$"):
            only(path).read()

    def test_no_more_than_the_declared_size_comes_out_nor_is_inflated(self, tmp_path):
        path = make_zip(tmp_path / "x.zip", [("1", bytes(64 * 2**20))])
        entry = only(fields(path, size=100, crc=zlib.crc32(bytes(100))))
        tracemalloc.start()
        try:
            assert entry.read() == bytes(100)
            assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
        finally:
            tracemalloc.stop()

    def test_less_than_the_declared_size(self, tmp_path):
        path = fields(make_zip(tmp_path / "x.zip", [("1", b"content")]), size=1000)
        with pytest.raises(Unreadable, match=r"^damaged in the archive$"):
            only(path).read()

    def test_a_bomb(self, tmp_path):
        path = make_zip(tmp_path / "x.zip", [("bomb", bytes(65 * 2**20)), ("small", bytes(2**20))])
        bomb, small = list_entries(path)
        with pytest.raises(Unreadable, match=r"^expands beyond reason$"):
            bomb.read()
        assert small.read() == bytes(2**20)  # as good a ratio, but harmless

    def test_a_bomb_has_both_size_and_ratio(self, tmp_path):
        path = make_zip(tmp_path / "x.zip", [("large", NOISE.randbytes(65 * 2**20))], zipfile.ZIP_STORED)
        assert len(only(path).read()) == 65 * 2**20

    def test_a_link_is_not_followed(self, tmp_path):
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        with pytest.raises(SetAside, match="no ordinary file"):
            only(make_zip(tmp_path / "x.zip", [(link, b"/etc/passwd")])).read()

    @pytest.mark.parametrize("place", [0, 30])
    def test_a_damaged_directory(self, tmp_path, place):
        path = make_zip(tmp_path / "x.zip", FILES.items())
        patch(path, path.read_bytes().index(b"PK\x01\x02") + place, b"\xff\xff")
        with pytest.raises(MedaugError, match="not a readable zip"):
            list_entries(path)

    def test_cut_short(self, tmp_path):
        path = make_zip(tmp_path / "x.zip", FILES.items())
        path.write_bytes(path.read_bytes()[:-30])
        with pytest.raises(MedaugError, match="not a readable zip"):
            list_entries(path)


class TestTar:
    @pytest.mark.parametrize("mode", SQUEEZED)
    def test_a_compressed_one_goes_by_place_and_is_read_forwards(self, tmp_path, monkeypatch, mode):
        files = [(name, NOISE.randbytes(50_000)) for name in "cab"]
        entries = list_entries(make_tar(tmp_path / f"x{SQUEEZED[mode]}", files, mode))
        assert [entry.name for entry in entries] == ["c", "a", "b"]
        assert entries == sorted(entries, key=lambda entry: entry.offset)
        rewound = []
        monkeypatch.setattr(_compression.DecompressReader, "_rewind", _counted(rewound))
        assert [entry.read() for entry in entries] == [content for _, content in files]
        assert not rewound
        assert entries[0].read() == files[0][1]
        assert rewound

    def test_a_plain_one_goes_by_name(self, tmp_path):
        entries = list_entries(make_tar(tmp_path / "x.tar", [(name, name.encode()) for name in "cab"]))
        assert [entry.name for entry in entries] == ["a", "b", "c"]

    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
    def test_links_and_devices(self, tmp_path, kind):
        with tarfile.open(tmp_path / "x.tar", "w") as archive:
            info = tarfile.TarInfo("x")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        with pytest.raises(SetAside, match="no ordinary file"):
            only(tmp_path / "x.tar").read()

    @pytest.mark.parametrize("form", ["gnu", "posix"])
    def test_a_sparse_member(self, tmp_path, form):
        if shutil.which("tar") is None:
            pytest.skip("no tar on this machine")
        with (tmp_path / "holes").open("wb") as stream:
            stream.truncate(2**20)
            stream.write(b"x" * 5000)
        how = ["tar", "--sparse", "--hole-detection=raw", f"--format={form}", "-cf", "x.tar", "holes"]
        subprocess.run(how, cwd=tmp_path, check=True)
        assert (tmp_path / "x.tar").stat().st_size < 2**19
        with pytest.raises(Unreadable, match=r"^stored with holes in the archive$"):
            only(tmp_path / "x.tar").read()

    @pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_long_names(self, tmp_path, form):
        name = "/".join(["folder" * 10] * 5) + "/ü.dcm"
        assert read_all(make_tar(tmp_path / "x.tar", [(name, b"x")], format=form)) == {name: b"x"}

    def test_a_damaged_header_ends_no_list_in_silence(self, tmp_path):
        path = make_tar(tmp_path / "x.tar", [("1", b"one"), ("2", b"two"), ("3", b"three")])
        with tarfile.open(patch(path, 1024, b"???")) as archive:
            assert archive.getnames() == ["1"]  # what tarfile makes of it
        with pytest.raises(MedaugError, match="a damaged or incomplete tar"):
            list_entries(path)

    @pytest.mark.parametrize("keep", [1024, 1024 + 512, 1024 + 100, 700])
    def test_cut_short(self, tmp_path, keep):
        path = make_tar(tmp_path / "x.tar", [("1", b"one" * 100), ("2", b"two" * 100)])
        path.write_bytes(path.read_bytes()[:keep])
        if keep == 1024:  # behind a whole member: some writers leave the blocks of zeros out
            assert read_all(path) == {"1": b"one" * 100}
            return
        with pytest.raises(MedaugError, match="a damaged or incomplete tar"):
            list_entries(path)

    @pytest.mark.parametrize("mode", SQUEEZED)
    def test_a_compressed_one_cut_short(self, tmp_path, mode):
        path = make_tar(tmp_path / "x", [(str(number), NOISE.randbytes(50_000)) for number in range(20)], mode)
        path.write_bytes(path.read_bytes()[:-20_000])
        with pytest.raises(MedaugError, match="a damaged or incomplete tar"):
            list_entries(path)

    def test_a_wrong_checksum_of_the_stream(self, tmp_path):
        path = make_tar(tmp_path / "x.tar.gz", [("1", b"one")], "w:gz")
        with pytest.raises(MedaugError, match="a damaged or incomplete tar"):
            list_entries(patch(path, path.stat().st_size - 8, b"\0\0\0\0"))

    @pytest.mark.parametrize("mode", SQUEEZED)  # EOFError, an OSError without a number, LZMAError
    def test_damage_found_while_reading(self, tmp_path, mode):
        path = make_tar(tmp_path / "x", [("1", NOISE.randbytes(50_000)), ("2", b"two")], mode)
        first, second = list_entries(path)
        whole, stamp = path.read_bytes(), path.stat().st_mtime_ns
        path.write_bytes(whole[:20_000] if mode == "w:gz" else whole[:20_000] + b"\xff" * 100 + whole[20_100:])
        os.utime(path, ns=(stamp, stamp))
        with pytest.raises(Unreadable, match=r"^damaged in the archive$"):
            first.read()
        path.write_bytes(whole)
        os.utime(path, ns=(stamp, stamp))
        assert second.read() == b"two"  # the stream that failed is not used again

    def test_a_bomb(self, tmp_path, monkeypatch):
        path = make_tar(tmp_path / "x.tar.gz", [("bomb", bytes(30 * 2**20))], "w:gz")
        assert archives.BOMB_RATIO * path.stat().st_size < 30 * 2**20
        assert only(path).size == 30 * 2**20  # below a GiB nobody minds
        monkeypatch.setattr(archives, "BOMB_TAR", 2**20)
        with pytest.raises(MedaugError, match="a tar that expands beyond reason; unpack it"):
            list_entries(path)

    def test_zeros_behind_the_end_are_a_bomb_too(self, tmp_path, monkeypatch):
        monkeypatch.setattr(archives, "BOMB_TAR", 2**20)
        plain = make_tar(tmp_path / "x.tar", [("1", b"one")]).read_bytes()
        (tmp_path / "x.tar.gz").write_bytes(gzip.compress(plain + bytes(30 * 2**20)))
        with pytest.raises(MedaugError, match="expands beyond reason"):
            list_entries(tmp_path / "x.tar.gz")

    @pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
    def test_headers_that_lie(self, tmp_path, kind):
        info = tarfile.TarInfo("x")
        info.type, info.size = kind, 2**40
        path = tmp_path / "x.tar.gz"
        path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(2**20)))
        with pytest.raises(MedaugError, match="expands beyond reason"):
            list_entries(path)


def _counted(calls):
    real = _compression.DecompressReader._rewind

    def rewind(self):
        calls.append(self)
        real(self)

    return rewind


def test_entries_of_archives_say_what_changes_with_their_content(tmp_path):
    (one,) = list_entries(make_zip(tmp_path / "x.zip", [("1", b"one")]))
    assert one == Entry("1", tmp_path / "x.zip", "1", 3, zlib.crc32(b"one"), "zip", 0)
    (two,) = list_entries(make_tar(tmp_path / "x.tar", [("2", b"two")]))
    assert two == Entry("2", tmp_path / "x.tar", "2", 3, (tmp_path / "x.tar").stat().st_mtime_ns, "tar", 512)
