import errno
import os
import pickle
from pathlib import Path

import pytest

from pipeline.files import MAX_BYTES, Entry, SetAside, Unreadable, list_entries
from pipeline.records import MedaugError


def write(path, content=b"content"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def names(path):
    return [entry.name for entry in list_entries(path)]


def only(path):
    (entry,) = list_entries(path)
    return entry


def failing(monkeypatch, number, method="open", what=None):
    """Makes a method of Path fail as the operating system would, for all paths or those of a name."""
    real = getattr(Path, method)

    def fail(self, *args, **kwargs):
        if what is None or self.name == what:
            raise OSError(number, os.strerror(number), str(self))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, method, fail)


class TestFolders:
    def test_all_files_by_name_and_nothing_of_the_file_systems_own(self, tmp_path):
        for name in ("b/2.dcm", "a/deep/1", "c.png", ".DS_Store", "a/Thumbs.db", "a/._1", "__MACOSX/x"):
            write(tmp_path / name, name.encode())
        (tmp_path / "empty").mkdir()
        entries = list_entries(tmp_path)
        assert [entry.name for entry in entries] == ["a/deep/1", "b/2.dcm", "c.png"]
        assert [entry.read() for entry in entries] == [b"a/deep/1", b"b/2.dcm", b"c.png"]
        assert [entry.size for entry in entries] == [8, 7, 5]
        assert entries[0].modified == (tmp_path / "a/deep/1").stat().st_mtime_ns

    def test_links_are_followed_once_and_a_folder_goes_by_its_own_name(self, tmp_path):
        write(tmp_path / "elsewhere" / "1")
        write(tmp_path / "data" / "z_class" / "2")
        (tmp_path / "data" / "a_link").symlink_to(tmp_path / "data" / "z_class")
        (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
        (tmp_path / "data" / "one").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "data" / "two").symlink_to(tmp_path / "elsewhere")
        assert names(tmp_path / "data") == ["one/1", "z_class/2"]

    def test_of_many_links_to_one_folder_the_first_by_name_counts(self, tmp_path):
        write(tmp_path / "elsewhere" / "1")
        (tmp_path / "data").mkdir()
        for number in reversed(range(10)):
            (tmp_path / "data" / f"link{number}").symlink_to(tmp_path / "elsewhere")
        assert names(tmp_path / "data") == ["link0/1"]

    def test_an_unreadable_folder_is_an_error_and_not_empty(self, tmp_path, monkeypatch):
        write(tmp_path / "closed" / "1")
        real = os.scandir

        def scandir(path):
            if str(path).endswith("closed"):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return real(path)

        monkeypatch.setattr("os.scandir", scandir)
        with pytest.raises(MedaugError, match=r"cannot be read \(Permission denied\)"):
            list_entries(tmp_path)

    @pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE])
    def test_a_drive_that_fails_while_it_is_listed(self, tmp_path, monkeypatch, number):
        write(tmp_path / "1")
        failing(monkeypatch, number, "stat", "1")
        with pytest.raises(OSError, match=os.strerror(number)) as error:
            list_entries(tmp_path)
        assert error.value.errno == number

    @pytest.mark.parametrize("content", [b"", b"PK nothing", b"\x1f\x8bnothing", b"nothing" * 1000])
    def test_an_ordinary_file_is_no_source(self, tmp_path, content):
        with pytest.raises(MedaugError, match="not a readable zip or tar; expected a folder, an archive, a list"):
            list_entries(write(tmp_path / "x.zip", content))

    def test_a_pipe_is_no_source_and_nobody_waits_for_it(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(MedaugError, match="not a readable zip"):
            list_entries(tmp_path / "pipe")


class TestReading:
    def test_a_stream_can_seek_and_is_not_read_as_a_whole(self, tmp_path):
        entry = only(write(tmp_path / "data" / "1", bytes(2**20)).parent)
        with entry.open() as stream:
            assert stream.seekable()
            stream.read(10)
            assert stream.raw.tell() < 2**17  # what has been asked of the operating system
        assert entry.read() == bytes(2**20)

    def test_entries_travel_and_compare(self, tmp_path):
        entry = only(write(tmp_path / "1").parent)
        assert pickle.loads(pickle.dumps(entry)) == entry
        assert len({entry, pickle.loads(pickle.dumps(entry))}) == 1

    def test_too_large_as_listed_or_as_found(self, tmp_path):
        with pytest.raises(SetAside, match="larger than 2048 MiB"):
            Entry("x", tmp_path / "absent", None, MAX_BYTES + 1, 0).read()
        with (tmp_path / "grown").open("wb") as stream:
            stream.truncate(MAX_BYTES + 1)  # sparse: takes no space
        with pytest.raises(SetAside, match="larger than 2048 MiB"):
            Entry("grown", tmp_path / "grown", None, 5, 0).open()

    @pytest.mark.parametrize("kind", ["broken link", "loop", "pipe", "folder", "device"])
    def test_what_is_no_ordinary_file(self, tmp_path, kind):
        path = tmp_path / "x"
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to({"broken link": tmp_path / "nowhere", "loop": path, "device": "/dev/null"}[kind])
        with pytest.raises(SetAside, match=r"^no ordinary file"):
            Entry("x", path, None, 0, 0).read()

    def test_a_link_to_a_file_is_read(self, tmp_path):
        write(tmp_path / "elsewhere" / "1", b"linked")
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "x").symlink_to(tmp_path / "elsewhere" / "1")
        assert only(tmp_path / "data").read() == b"linked"

    @pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
    def test_no_permission(self, tmp_path, monkeypatch, number):
        entry = only(write(tmp_path / "Doe_John").parent)
        failing(monkeypatch, number)
        with pytest.raises(Unreadable) as error:
            entry.read()
        assert str(error.value) == os.strerror(number).lower()  # which names no file

    def test_a_file_that_vanished(self, tmp_path):
        write(tmp_path / "2")
        entry = list_entries(write(tmp_path / "1").parent)[0]
        entry.path.unlink()
        with pytest.raises(Unreadable, match=r"^vanished since it was listed$"):
            entry.read()

    @pytest.mark.parametrize("left", ["nothing", "an empty folder"])
    def test_a_drive_that_vanished_is_no_fault_of_its_files(self, tmp_path, left):
        entry = only(write(tmp_path / "mount" / "1").parent)
        entry.path.unlink()
        if left == "nothing":
            entry.path.parent.rmdir()
        with pytest.raises(FileNotFoundError):
            entry.read()

    @pytest.mark.parametrize(
        "name", ["EIO", "ESTALE", "ETIMEDOUT", "ENETDOWN", "EHOSTDOWN", "EHOSTUNREACH", "EMFILE", "ENFILE", "ENOMEM"]
    )
    @pytest.mark.parametrize("method", ["open", "stat"])
    def test_errors_of_the_drive_and_of_the_machine_are_not_the_files(self, tmp_path, monkeypatch, name, method):
        entry = only(write(tmp_path / "1").parent)
        failing(monkeypatch, getattr(errno, name), method)
        with pytest.raises(OSError, match=r".") as error:
            entry.read()
        assert error.value.errno == getattr(errno, name)

    @pytest.mark.parametrize(("kind", "raised"), [("set aside", SetAside), ("unreadable", Unreadable)])
    def test_what_is_known_beforehand(self, tmp_path, kind, raised):
        entry = Entry("x", write(tmp_path / "x"), None, 7, 0, refusal=(kind, "why"))
        for method in (entry.open, entry.read):
            with pytest.raises(raised, match=r"^why$"):
                method()


class TestLists:
    def listed(self, path, *lines, encoding="utf-8", end="\n"):
        return write(path, end.join(lines).encode(encoding))

    def test_one_path_a_line_relative_to_the_lists_folder(self, tmp_path):
        write(tmp_path / "set" / "a" / "1", b"one")
        write(tmp_path / "set" / "a b" / "ü", b"two")
        write(tmp_path / "other" / "3", b"three")
        list_file = self.listed(
            tmp_path / "set" / "train.lst",
            *("# a remark", "", "a/1", "  a b/ü  ", "./a/../a/1", str(tmp_path / "set/a/1"), "../other/3"),
            encoding="utf-8-sig",
            end="\r\n",
        )
        outside = (tmp_path / "other" / "3").as_posix().lstrip("/")
        entries = list_entries(list_file)
        assert {entry.name: entry.read() for entry in entries} == {"a/1": b"one", "a b/ü": b"two", outside: b"three"}
        assert len(entries) == 3  # of one file named three times, one

    def test_listed_but_missing(self, tmp_path):
        write(tmp_path / "1", b"one")
        entries = list_entries(self.listed(tmp_path / "x.TXT", "1", "gone", "1/below_a_file"))
        assert [entry.name for entry in entries] == ["1", "1/below_a_file", "gone"]
        assert entries[0].read() == b"one"
        for entry in entries[1:]:
            with pytest.raises(Unreadable, match=r"^listed but not there$"):
                entry.read()

    def test_a_broken_link_is_there(self, tmp_path):
        (tmp_path / "x").symlink_to(tmp_path / "nowhere")
        with pytest.raises(SetAside, match="no ordinary file"):
            only(self.listed(tmp_path / "list.txt", "x")).read()

    def test_a_line_that_can_be_no_path(self, tmp_path):
        with pytest.raises(Unreadable, match="listed but not there"):
            only(self.listed(tmp_path / "list.txt", "x\0y")).read()

    def test_a_file_that_may_not_be_looked_at_is_there(self, tmp_path, monkeypatch):
        write(tmp_path / "1")
        list_file = self.listed(tmp_path / "list.txt", "1")
        for method in ("lstat", "stat"):
            failing(monkeypatch, errno.EACCES, method, "1")
        with pytest.raises(Unreadable, match=r"^permission denied$"):
            only(list_file).read()

    def test_two_files_that_would_go_by_one_name(self, tmp_path):
        absolute = tmp_path / "apart" / "y"
        write(absolute, b"apart")
        copy = write(tmp_path / "root" / absolute.as_posix().lstrip("/"), b"copy")
        entries = list_entries(self.listed(tmp_path / "root" / "list.txt", str(absolute), str(copy)))
        name = absolute.as_posix().lstrip("/")
        assert {entry.name: entry.read() for entry in entries} == {name: b"apart", f"{name} (2)": b"copy"}

    def test_no_text(self, tmp_path):
        with pytest.raises(MedaugError, match="not readable as UTF-8 text; expected one file's path a line"):
            list_entries(write(tmp_path / "list.txt", b"\xff\xfe\x00"))

    @pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
    def test_a_drive_that_fails_is_not_a_missing_file(self, tmp_path, monkeypatch, number):
        write(tmp_path / "1")
        list_file = self.listed(tmp_path / "list.txt", "1")
        failing(monkeypatch, number, "lstat", "1")
        with pytest.raises(OSError, match=os.strerror(number)):
            list_entries(list_file)
