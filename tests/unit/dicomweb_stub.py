"""A DICOMweb server in this process that misbehaves on demand; just enough of PS3.18 for the mirror."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

BOUNDARY = "between-the-parts"


def attribute(*values: Any) -> dict[str, Any]:
    """An attribute of the DICOM JSON model."""
    return {"vr": "UI", "Value": list(values)}


@dataclass
class Stub:
    """What the server holds and does.

    Attributes:
        files: SOP Instance UID → bytes.
        most: the most results it sends at once.
        pages: whether it heeds offset.
        limits: whether it heeds limit.
        search: replaces the answer to a search.
        fetch: SOP Instance UID → replaces the answer to a retrieval.
        always: replaces all answers.
        requests: (path, query, headers) of what came.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    most: int = 1000
    pages: bool = True
    limits: bool = True
    search: Callable[[Answer], None] | None = None
    fetch: dict[str, Callable[[Answer], None]] = field(default_factory=dict)
    always: Callable[[Answer], None] | None = None
    requests: list[tuple[str, dict[str, str], dict[str, str]]] = field(default_factory=list)
    url: str = ""

    @property
    def fetched(self) -> list[str]:
        """SOP Instance UIDs of the retrievals that came, in order."""
        return [path.rsplit("/", 1)[1] for path, _, _ in self.requests if not path.endswith("/instances")]


class Answer(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    stub: Stub

    def log_message(self, *_: Any) -> None:
        """Stays quiet."""

    def do_GET(self) -> None:
        """Answers."""
        parts = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.stub.requests.append((parts.path, self.query, dict(self.headers)))
        if self.stub.always is not None:
            self.stub.always(self)
        elif parts.path.endswith("/instances"):
            (self.stub.search or Answer.results)(self)
        else:
            uid = parts.path.rsplit("/", 1)[1]
            self.stub.fetch.get(uid, Answer.file)(self)

    def results(self) -> None:
        """A page of results."""
        offset = int(self.query.get("offset", 0)) if self.stub.pages else 0
        limit = min(int(self.query["limit"]) if self.stub.limits else 10**6, self.stub.most)
        page = [
            {"0020000D": attribute("1.2.1"), "0020000E": attribute("1.2.2"), "00080018": attribute(uid)}
            for uid in list(self.stub.files)[offset : offset + limit]
        ]
        self.send("application/dicom+json", json.dumps(page).encode())

    def file(self) -> None:
        """An instance in its one part."""
        self.send(*multipart(self.stub.files[self.path.rsplit("/", 1)[1]]))

    def send(self, kind: str, body: bytes, status: int = 200, length: int | None = -1) -> None:
        """Sends an answer; of a given length other than the body's, or (None) of none, up to the connection's end."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(len(body) if length < 0 else length))
        if length is None or length >= 0:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body)


def multipart(content: bytes) -> tuple[str, bytes]:
    """Content type and body of an answer with one part."""
    body = (
        f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode() + content + f"\r\n--{BOUNDARY}--".encode()
    )
    return f'multipart/related; type="application/dicom"; boundary={BOUNDARY}', body


def status(number: int) -> Callable[[Answer], None]:
    """An answer that is nothing but a status."""
    return lambda answer: answer.send("text/plain", b"no", number)


@contextmanager
def serving() -> Iterator[Stub]:
    """A server on a free port of this machine."""
    stub = Stub()
    handler = type("Handler", (Answer,), {"stub": stub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    stub.url = f"http://127.0.0.1:{server.server_address[1]}/dicom-web"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
