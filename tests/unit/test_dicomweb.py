import base64
import hashlib
import json
import logging
import os
import socket
import stat
import subprocess
import sys
import time

import pytest
import requests

from pipeline.dicom import server
from pipeline.dicom.answers import BrokenOffError, only_part
from pipeline.dicom.web import DicomWebConfig, mirror
from pipeline.files import SetAside, Unreadable
from pipeline.records import MedaugError
from pipeline.sources import SourceConfig, open_source
from tests.unit.dicomweb_stub import BOUNDARY, attribute, multipart, serving, status

pytestmark = pytest.mark.thorough

A, B, C = "1.2.3.1", "1.2.3.2", "1.2.3.3"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(server, "WAIT", 0.0)
    monkeypatch.setattr(server, "TIMEOUT", (2.0, 2.0))
    for name in (server.USER, server.PASSWORD, server.TOKEN, "NETRC"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def stub():
    with serving() as stub:
        stub.files = {uid: f"file {uid}".encode() for uid in (A, B, C)}
        yield stub


def name_of(uid):
    return hashlib.sha256(uid.encode()).hexdigest()


def fetch(stub, private, **config):
    """Mirrors, and what the entries read as."""
    stub.requests.clear()
    _, entries = mirror(DicomWebConfig(url=stub.url, **config), private, lambda *_: None)
    read = {}
    for entry in entries:
        try:
            read[entry.name] = entry.read()
        except (Unreadable, SetAside) as reason:
            read[entry.name] = f"{type(reason).__name__}: {reason}"
    return read


def failure(stub, private, **config):
    with pytest.raises(MedaugError) as error:
        fetch(stub, private, **config)
    assert "\n" not in str(error.value)
    assert stub.url in str(error.value)
    return str(error.value)


class TestMirror:
    def test_files_as_they_are_stored_in_a_private_folder(self, stub, tmp_path):
        told = []
        config = DicomWebConfig(url=stub.url)
        folder, entries = mirror(config, tmp_path / "private", lambda done, total: told.append((done, total)))
        assert {entry.name: entry.read() for entry in entries} == {name_of(u): f"file {u}".encode() for u in (A, B, C)}
        assert [entry.name for entry in entries] == sorted(map(name_of, (A, B, C)))
        assert told == [(1, 3), (2, 3), (3, 3)]
        assert sorted(file.name for file in folder.iterdir()) == [entry.name for entry in entries]
        assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
        for each in (folder, folder.parent, tmp_path / "private"):
            assert stat.S_IMODE(each.stat().st_mode) == 0o700
        accept = [headers["Accept"] for path, _, headers in stub.requests if not path.endswith("/instances")]
        assert set(accept) == {'multipart/related; type="application/dicom"; transfer-syntax=*'}

    def test_folders_that_others_could_read_are_closed(self, stub, tmp_path):
        folder, _ = mirror(DicomWebConfig(url=stub.url), tmp_path, lambda *_: None)
        for each in (folder, folder.parent):
            each.chmod(0o755)
        fetch(stub, tmp_path)
        assert {stat.S_IMODE(each.stat().st_mode) for each in (folder, folder.parent)} == {0o700}

    def test_only_what_is_new_is_fetched_and_what_is_gone_is_not_listed(self, stub, tmp_path):
        assert len(fetch(stub, tmp_path)) == 3
        assert sorted(stub.fetched) == [A, B, C]
        assert len(fetch(stub, tmp_path)) == 3
        assert stub.fetched == []
        stub.files["1.2.3.4"] = b"new"
        del stub.files[A]
        assert set(fetch(stub, tmp_path)) == set(map(name_of, (B, C, "1.2.3.4")))
        assert stub.fetched == ["1.2.3.4"]

    def test_an_interrupted_one_goes_on(self, stub, tmp_path):
        stub.fetch[C] = lambda answer: answer.connection.shutdown(socket.SHUT_RDWR)
        failure(stub, tmp_path)
        kept = [file for file in tmp_path.rglob("*") if file.is_file()]
        assert {file.name for file in kept} == {name_of(A), name_of(B)}
        stub.fetch.clear()
        assert len(fetch(stub, tmp_path)) == 3
        assert stub.fetched == [C]

    def test_a_disk_that_fails_leaves_nothing_half_written(self, stub, tmp_path, monkeypatch):
        def full(descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            fetch(stub, tmp_path)
        assert [file for file in tmp_path.rglob("*") if file.is_file()] == []

    def test_what_a_killed_run_left_is_cleared_after_a_day(self, stub, tmp_path):
        folder, _ = mirror(DicomWebConfig(url=stub.url), tmp_path, lambda *_: None)
        old, new = folder / ".a.part", folder / ".b.part"
        for file in (old, new):
            file.write_bytes(b"half")
        os.utime(old, (time.time() - 90_000,) * 2)
        fetch(stub, tmp_path)
        assert not old.exists()
        assert new.exists()

    def test_two_servers_do_not_mix(self, stub, tmp_path):
        with serving() as other:
            other.files = {A: b"another"}
            fetch(stub, tmp_path)
            assert fetch(other, tmp_path) == {name_of(A): b"another"}

    @pytest.mark.parametrize("number", [404, 406, 500, 400, 410])
    def test_an_instance_that_is_refused_is_unreadable_and_asked_for_again(self, stub, tmp_path, number):
        stub.fetch[B] = status(number)
        read = fetch(stub, tmp_path)
        assert read[name_of(B)] == f"Unreadable: the server did not deliver it (HTTP {number})"
        assert read[name_of(C)] == b"file 1.2.3.3"
        assert sorted(stub.fetched) == [A, B, C]  # once each: to ask again at once would not help
        stub.fetch.clear()
        assert fetch(stub, tmp_path)[name_of(B)] == b"file 1.2.3.2"
        assert stub.fetched == [B]

    def test_an_instance_that_is_too_large_is_set_aside(self, stub, tmp_path, monkeypatch):
        monkeypatch.setattr(server, "MAX_BYTES", 2**20)
        stub.files[B] = bytes(3 * 2**20)
        read = fetch(stub, tmp_path)
        assert read[name_of(B)] == "SetAside: larger than 1 MiB"
        assert read[name_of(C)] == b"file 1.2.3.3"

    def test_an_answer_that_is_no_dicom_file(self, stub, tmp_path):
        stub.fetch[B] = lambda answer: answer.send("text/html", b"<p>log in</p>")
        assert fetch(stub, tmp_path)[name_of(B)] == "Unreadable: the server delivered something else than a DICOM file"

    def test_private_folder_that_cannot_be_made(self, stub, tmp_path):
        (tmp_path / "private").write_bytes(b"")
        with pytest.raises(MedaugError, match="expected a folder that can be written"):
            fetch(stub, tmp_path / "private")


class TestSearch:
    def queries(self, stub):
        return [query for path, query, _ in stub.requests if path.endswith("/instances")]

    def test_filters_are_sent_and_pages_are_turned(self, stub, tmp_path, monkeypatch):
        monkeypatch.setattr(server, "PAGE", 2)
        assert len(fetch(stub, tmp_path, filters={"Modality": "CT", "PatientName": "Doe^J & co"})) == 3
        common = {"Modality": "CT", "PatientName": "Doe^J & co", "limit": "2"}
        assert self.queries(stub) == [common | {"offset": offset} for offset in "023"]

    def test_a_server_that_sends_less_than_asked(self, stub, tmp_path):
        stub.most = 1
        assert len(fetch(stub, tmp_path)) == 3

    def test_a_server_that_knows_no_limit(self, stub, tmp_path, monkeypatch):
        monkeypatch.setattr(server, "PAGE", 2)
        stub.pages = stub.limits = False
        assert len(fetch(stub, tmp_path)) == 3

    def test_a_server_that_knows_no_pages_is_not_believed(self, stub, tmp_path, monkeypatch):
        monkeypatch.setattr(server, "PAGE", 2)
        stub.pages = False
        assert "the same page of results again and again" in failure(stub, tmp_path)

    def test_a_server_that_lists_for_ever(self, stub, tmp_path, monkeypatch):
        monkeypatch.setattr(server, "MOST", 100)

        def more(answer):
            first = int(answer.query["offset"])
            answer.send(
                "application/dicom+json",
                json.dumps([{"00080018": attribute(f"1.{first + number}")} for number in range(30)]).encode(),
            )

        stub.search = more
        assert "lists more than 100 instances" in failure(stub, tmp_path)
        assert len(stub.requests) < 10

    @pytest.mark.parametrize("limit", [1, 2, 3, 4])
    def test_no_more_than_the_limit(self, stub, tmp_path, limit):
        assert len(fetch(stub, tmp_path, limit=limit)) == min(limit, 3)
        stub.limits = False
        assert len(fetch(stub, tmp_path, limit=limit)) == min(limit, 3)

    @pytest.mark.parametrize(
        ("config", "path", "query"),
        [
            ({"study": "1.9"}, "/dicom-web/studies/1.9/instances", {}),
            ({"study": "1.9", "series": "1.8"}, "/dicom-web/studies/1.9/series/1.8/instances", {}),
            ({"series": "1.8"}, "/dicom-web/instances", {"SeriesInstanceUID": "1.8"}),
            ({}, "/dicom-web/instances", {}),
        ],
    )
    def test_a_study_or_a_series_alone(self, stub, tmp_path, config, path, query):
        stub.search = lambda answer: answer.send(
            "application/dicom+json",
            json.dumps([{"00080018": attribute(A)}] if answer.query["offset"] == "0" else []).encode(),
        )
        read = fetch(stub, tmp_path, **config)
        assert stub.requests[0][:2] == (path, {"limit": "500", "offset": "0", **query})
        if "study" in config and "series" in config:  # what the result leaves out is known
            assert stub.requests[-1][0] == f"/dicom-web/studies/1.9/series/1.8/instances/{A}"
        else:
            assert read == {name_of(A): "Unreadable: the server lists it without valid UIDs"}

    @pytest.mark.parametrize("evil", ["../../admin", "1.2/../x", "", "1.2?x=1", "1" * 65, None, 5.5])
    def test_uids_that_are_none_are_never_asked_for(self, stub, tmp_path, evil):
        result = {"0020000D": attribute("1.2.1"), "0020000E": attribute("1.2.2"), "00080018": attribute(evil)}
        good = result | {"00080018": attribute(A)}
        stub.search = lambda answer: answer.send(
            "application/dicom+json", json.dumps([result, good] if answer.query["offset"] == "0" else []).encode()
        )
        read = fetch(stub, tmp_path)
        assert sorted(map(str, read.values())) == ["Unreadable: the server lists it without valid UIDs", f"b'file {A}'"]
        assert stub.fetched == [A]

    def test_an_empty_answer_is_an_empty_list(self, stub, tmp_path):
        stub.search = lambda answer: answer.send("application/dicom+json", b"", 204)
        assert fetch(stub, tmp_path) == {}

    @pytest.mark.parametrize("body", [b"<html>", b"null", b'"x"', b"[1]", b'{"error": 1, "00080018": 3}'])
    def test_an_answer_that_is_no_dicom_json(self, stub, tmp_path, body):
        stub.search = lambda answer: answer.send("text/html", body if answer.query["offset"] == "0" else b"")
        if b"error" in body:  # taken for one result without UIDs, as the client does
            assert list(fetch(stub, tmp_path).values()) == ["Unreadable: the server lists it without valid UIDs"]
        else:
            assert "answered the search without DICOM JSON" in failure(stub, tmp_path)

    @pytest.mark.parametrize("number", [400, 404, 500])
    def test_a_search_that_is_refused(self, stub, tmp_path, number):
        stub.search = status(number)
        assert f"refused the search (HTTP {number}); check the address" in failure(stub, tmp_path)
        assert len(stub.requests) == 1


class TestFailures:
    @pytest.mark.parametrize("number", [401, 403])
    @pytest.mark.parametrize("when", ["search", "fetch"])
    def test_no_credentials(self, stub, tmp_path, number, when):
        if when == "search":
            stub.search = status(number)
        else:
            stub.fetch[A] = status(number)
        text = failure(stub, tmp_path)
        assert f"asks for credentials (HTTP {number}); set MEDAUG_DICOMWEB_USER and MEDAUG_DICOMWEB_PASSWORD" in text
        assert len(stub.requests) == (1 if when == "search" else 3)  # not asked again

    def test_wrong_credentials(self, stub, tmp_path, monkeypatch):
        monkeypatch.setenv(server.USER, "somebody")
        monkeypatch.setenv(server.PASSWORD, "s3cret")
        stub.search = status(401)
        text = failure(stub, tmp_path)
        assert "did not accept the credentials (HTTP 401); correct those in the environment" in text
        assert "s3cret" not in text
        assert "somebody" not in text

    @pytest.mark.parametrize("number", server.BUSY)
    def test_a_busy_server_is_asked_again_and_not_for_ever(self, stub, tmp_path, number):
        stub.fetch[A] = status(number)
        assert f"is busy (HTTP {number})" in failure(stub, tmp_path)
        assert stub.fetched == [A] * 3

    def test_a_server_that_is_busy_for_a_moment(self, stub, tmp_path):
        def once(answer):
            del stub.fetch[A]
            status(503)(answer)

        stub.fetch[A] = once
        assert fetch(stub, tmp_path)[name_of(A)] == b"file 1.2.3.1"

    def test_the_wait_grows(self, stub, tmp_path, monkeypatch):
        waited = []
        monkeypatch.setattr(server, "WAIT", 1.0)
        monkeypatch.setattr("time.sleep", waited.append)
        stub.search = status(503)
        failure(stub, tmp_path)
        assert waited == [0, 1, 2]

    @pytest.mark.parametrize("when", ["search", "fetch", "middle"])
    def test_silence(self, stub, tmp_path, monkeypatch, when):
        monkeypatch.setattr(server, "TIMEOUT", (0.3, 0.3))

        def nothing(answer):
            time.sleep(0.8)

        def half(answer):
            answer.send(multipart(b"x")[0], b"x", length=1000)
            answer.wfile.flush()
            time.sleep(0.8)

        if when == "search":
            stub.search = nothing
        else:
            stub.fetch[A] = nothing if when == "fetch" else half
        start = time.monotonic()
        assert "did not answer within 0 s; check the address and the server" in failure(stub, tmp_path)
        assert time.monotonic() - start < 5
        assert len(stub.requests) == (3 if when == "search" else 5)

    def test_nobody_there(self, tmp_path):
        with serving() as stub:
            pass
        assert "no connection; check the address" in failure(stub, tmp_path)

    def test_no_such_host(self, tmp_path):
        with pytest.raises(MedaugError, match=r"dicomweb http://nowhere\.invalid/x: no connection"):
            mirror(DicomWebConfig(url="http://nowhere.invalid/x"), tmp_path, lambda *_: None)

    @pytest.mark.parametrize("how", ["with a length", "without one", "chunked", "bare"])
    def test_a_connection_that_breaks_off_in_the_middle(self, stub, tmp_path, how):
        kind, body = multipart(bytes(5000))

        def broken(answer):
            if how == "chunked":
                answer.send_response(200)
                answer.send_header("Content-Type", kind)
                answer.send_header("Transfer-Encoding", "chunked")
                answer.end_headers()
                answer.wfile.write(b"800\r\n" + body[:1000])
                answer.close_connection = True
            elif how == "bare":
                answer.send("application/dicom", bytes(500), length=5000)
            else:
                answer.send(kind, body[:3000], length=len(body) if how == "with a length" else None)

        stub.fetch[B] = broken
        assert "broke off in the middle of an answer" in failure(stub, tmp_path)
        assert stub.fetched == [A, B, B, B]
        assert {file.name for file in tmp_path.rglob("*") if file.is_file()} == {name_of(A)}

    def test_a_certificate_that_is_not_accepted(self, stub, tmp_path, monkeypatch):
        def refuse(*_, **__):
            raise requests.exceptions.SSLError("certificate of 1.2.3.1")

        monkeypatch.setattr("requests.Session.get", refuse)
        assert "its certificate was not accepted; set REQUESTS_CA_BUNDLE" in failure(stub, tmp_path)

    def test_redirected_for_ever(self, stub, tmp_path):
        def elsewhere(answer):
            answer.send_response(302)
            answer.send_header("Location", answer.path)
            answer.send_header("Content-Length", "0")
            answer.end_headers()

        stub.search = elsewhere
        assert "the request failed (TooManyRedirects)" in failure(stub, tmp_path)


class TestSecrets:
    def sent(self, stub):
        return {headers.get("Authorization") for _, _, headers in stub.requests}

    def test_user_and_password(self, stub, tmp_path, monkeypatch):
        monkeypatch.setenv(server.USER, "somebody")
        monkeypatch.setenv(server.PASSWORD, "pässwörd€")
        fetch(stub, tmp_path)
        assert self.sent(stub) == {"Basic " + base64.b64encode("somebody:pässwörd€".encode()).decode()}

    def test_token(self, stub, tmp_path, monkeypatch):
        monkeypatch.setenv(server.TOKEN, " t0ken\n")
        fetch(stub, tmp_path)
        assert self.sent(stub) == {"Bearer t0ken"}

    def test_a_token_that_can_be_none_is_not_told(self, stub, tmp_path, monkeypatch):
        monkeypatch.setenv(server.TOKEN, "t0\nken")
        with pytest.raises(MedaugError, match="MEDAUG_DICOMWEB_TOKEN: holds spaces, line breaks or other") as error:
            fetch(stub, tmp_path)
        assert "t0" not in str(error.value)

    def test_passwords_that_lie_about_are_not_taken(self, stub, tmp_path, monkeypatch):
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password s3cret")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        fetch(stub, tmp_path)
        assert self.sent(stub) == {None}

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ((server.USER,), "MEDAUG_DICOMWEB_USER and MEDAUG_DICOMWEB_PASSWORD: one of them is not set"),
            ((server.PASSWORD,), "MEDAUG_DICOMWEB_USER and MEDAUG_DICOMWEB_PASSWORD: one of them is not set"),
            ((server.USER, server.PASSWORD, server.TOKEN), "both are set; keep one of them"),
        ],
    )
    def test_half_of_them_or_too_many(self, stub, tmp_path, monkeypatch, given, message):
        for name in given:
            monkeypatch.setenv(name, "s3cret")
        with pytest.raises(MedaugError, match=message) as error:
            fetch(stub, tmp_path)
        assert "s3cret" not in str(error.value)
        assert stub.requests == []

    @pytest.mark.parametrize(
        "url",
        [
            "https://somebody:s3cret@pacs.example/dicom-web",
            "https://s3cret@pacs.example",
            "https://somebody:s3/cret@pacs.example/x",
            "somebody:s3cret@pacs.example",
        ],
    )
    def test_a_password_in_the_address_is_refused_and_never_kept(self, tmp_path, url):
        config = DicomWebConfig(url=url)
        assert "s3" not in config.model_dump_json() + repr(config)
        with pytest.raises(MedaugError, match=r"MEDAUG_DICOMWEB_USER and MEDAUG_DICOMWEB_PASSWORD") as error:
            mirror(config, tmp_path, lambda *_: None)
        assert "s3" not in str(error.value)

    @pytest.mark.parametrize("url", ["https://pacs.example/x?key=s3cret", "https://pacs.example/x#s3cret"])
    def test_a_key_behind_the_address(self, tmp_path, url):
        config = DicomWebConfig(url=url)
        assert "s3" not in config.model_dump_json()
        with pytest.raises(MedaugError, match="and nothing behind it"):
            mirror(config, tmp_path, lambda *_: None)

    def test_no_identifiers_in_logs_or_errors(self, stub, tmp_path, caplog, monkeypatch):
        secrets = ["1.2.3.1", "1.9.9", "Doe", "1.2.1", "s3cret"]
        caplog.set_level(logging.DEBUG)
        monkeypatch.setenv(server.USER, "somebody")
        monkeypatch.setenv(server.PASSWORD, "s3cret")
        filters = {"PatientName": "Doe^John"}
        fetch(stub, tmp_path / "1", filters=filters, study="1.9.9")
        for broken in (status(503), lambda answer: answer.connection.shutdown(socket.SHUT_RDWR), status(401)):
            stub.always = broken
            text = failure(stub, tmp_path / "2", filters=filters, study="1.9.9")
            assert not [secret for secret in secrets if secret in text]
        assert not [secret for secret in secrets if secret in caplog.text]
        # That the libraries do say them, were they not silenced: or this test would prove nothing.
        with pytest.raises(Exception, match=r"."):
            server.Server(stub.url)._client.search_for_instances("1.9.9", search_filters=filters)
        assert "1.9.9" in caplog.text
        assert "Doe" in caplog.text


class TestConfiguration:
    @pytest.mark.parametrize(
        "url", ["", "pacs.example/dicom-web", "ftp://pacs.example", "http://", "http://x:99999/y", "file:///etc/passwd"]
    )
    def test_addresses_that_are_none(self, tmp_path, url):
        with pytest.raises(MedaugError, match=r"source\.dicomweb\.url: expected http\(s\)://HOST") as error:
            mirror(DicomWebConfig(url=url), tmp_path, lambda *_: None)
        assert "\n" not in str(error.value)

    def test_a_slash_at_the_end(self, stub, tmp_path):
        first, _ = mirror(DicomWebConfig(url=stub.url), tmp_path, lambda *_: None)
        second, _ = mirror(DicomWebConfig(url=stub.url + "/"), tmp_path, lambda *_: None)
        assert first == second
        assert all("//" not in path for path, _, _ in stub.requests)

    def test_an_unknown_keyword_names_the_nearest(self, stub, tmp_path):
        with pytest.raises(MedaugError, match=r"unknown keyword 'PatientsSex'; did you mean 'PatientSex'\?"):
            fetch(stub, tmp_path, filters={"Modality": "CT", "PatientsSex": "F"})
        assert stub.requests == []

    @pytest.mark.parametrize("keyword", ["limit", "00080060&x", "", "ModalitiesInStudy.Nothing", "99990010"])
    def test_keywords_that_are_none(self, stub, tmp_path, keyword):
        with pytest.raises(MedaugError, match=r"source\.dicomweb\.filters: unknown keyword"):
            fetch(stub, tmp_path, filters={keyword: "x"})

    @pytest.mark.parametrize("keyword", ["Modality", "00080060", "RequestAttributesSequence.ScheduledProcedureStepID"])
    def test_keywords_that_are_some(self, stub, tmp_path, keyword):
        fetch(stub, tmp_path, filters={keyword: "CT"})
        assert stub.requests[0][1][keyword] == "CT"

    @pytest.mark.parametrize("name", ["study", "series"])
    @pytest.mark.parametrize("uid", ["../x", "Doe", "1.2/3", "", "1" * 65])
    def test_uids_that_are_none(self, stub, tmp_path, name, uid):
        with pytest.raises(MedaugError, match=rf"source\.dicomweb\.{name}: no UID; expected digits and dots") as error:
            fetch(stub, tmp_path, **{name: uid})
        assert not uid or uid not in str(error.value)
        assert stub.requests == []

    def test_all_fields_are_described(self):
        assert all(field.description for field in DicomWebConfig.model_fields.values())

    def test_light_to_import(self):
        code = "import sys, pipeline.dicom.web; print(*{'pydicom', 'requests', 'dicomweb_client'} & set(sys.modules))"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert found.stdout.strip() == ""


class TestSource:
    def open(self, stub, tmp_path, **config):
        config = SourceConfig.model_validate({"dicomweb": {"url": stub.url, **config}})
        return open_source(config, tmp_path / "work", tmp_path / "private", None, lambda *_: None)

    def test_a_server_is_a_dicom_source(self, stub, tmp_path):
        source = self.open(stub, tmp_path)
        assert source.kind == "dicom"
        assert source.labels_file is None
        assert len(source.entries) == 3

    def test_the_fingerprint_is_of_what_is_listed(self, stub, tmp_path):
        before = self.open(stub, tmp_path).fingerprint
        assert self.open(stub, tmp_path).fingerprint == before
        assert self.open(stub, tmp_path / "a new mirror").fingerprint == before
        stub.files["1.2.3.4"] = b"new"
        more = self.open(stub, tmp_path).fingerprint
        stub.fetch["1.2.3.5"] = status(406)
        stub.files["1.2.3.5"] = b"refused"
        refused = self.open(stub, tmp_path).fingerprint
        stub.fetch["1.2.3.5"] = status(500)  # the reason is told in the dataset
        failing = self.open(stub, tmp_path).fingerprint
        stub.fetch.clear()
        delivered = self.open(stub, tmp_path).fingerprint
        assert len({before, more, refused, failing, delivered}) == 5
        del stub.files["1.2.3.4"], stub.files["1.2.3.5"]
        assert self.open(stub, tmp_path).fingerprint == before

    def test_nothing_listed(self, stub, tmp_path):
        stub.files.clear()
        with pytest.raises(MedaugError, match=r"lists no instance; check source\.dicomweb: filters, study, series"):
            self.open(stub, tmp_path)


class TestParts:
    def test_one_part_with_whatever_is_in_it(self):
        content = b"\r\n--\r\n\r\n" + bytes(range(256)) + b"\r\n--between"
        kind, body = multipart(content)
        assert bytes(only_part(kind, bytearray(body))) == content

    @pytest.mark.parametrize("quoted", [f'"{BOUNDARY}"', BOUNDARY])
    def test_a_preamble_and_an_epilogue(self, quoted):
        _, body = multipart(b"content")
        body = bytearray(b"preamble\r\n" + body + b"\r\nepilogue")
        assert bytes(only_part(f"Multipart/Related; boundary={quoted}", body)) == b"content"

    @pytest.mark.parametrize("kind", ["application/dicom", "application/dicom; transfer-syntax=*", "multipart/related"])
    def test_bare(self, kind):
        assert bytes(only_part(kind, bytearray(b"content"))) == b"content"

    @pytest.mark.parametrize("keep", [0, 5, 30, 70, -1])
    def test_without_its_end(self, keep):
        kind, body = multipart(b"content")
        short = bytearray(body[:keep] if keep >= 0 else body[: body.rindex(b"\r\n--") + 5])
        with pytest.raises(BrokenOffError):
            only_part(kind, short)

    def test_without_the_end_of_its_header(self):
        with pytest.raises(BrokenOffError):
            only_part(multipart(b"")[0], bytearray(f"--{BOUNDARY}\r\nContent-Type: x\r\n--{BOUNDARY}--".encode()))

    @pytest.mark.parametrize("kind", ["text/html", "", "application/json", f"multipart/mixed; boundary={BOUNDARY}"])
    def test_something_else(self, kind):
        with pytest.raises(Unreadable, match="something else than a DICOM file"):
            only_part(kind, bytearray(b"content"))
