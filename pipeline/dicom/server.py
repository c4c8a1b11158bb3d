"""Talk with a DICOMweb server (PS3.18): search (QIDO-RS) and retrieval (WADO-RS), with bounded patience.

Search goes through dicomweb-client. Instances are taken as they come: the client would decode and encode them again,
and a file would no longer be what the archive holds.

Identifiers stay out of logs and errors. The addresses of this protocol hold UIDs and search values, so that the
libraries below are silenced while they talk, and of their exceptions only the kind is told.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from dicomweb_client.api import DICOMwebClient
from urllib3.exceptions import ReadTimeoutError

from pipeline.dicom.answers import BrokenOffError, first_value, only_part
from pipeline.dicom.web import UID
from pipeline.files import MAX_BYTES, SetAside, Unreadable
from pipeline.records import MedaugError

T = TypeVar("T")
Uids = tuple[str, str, str]
"""Study, series, instance."""

USER, PASSWORD, TOKEN = "MEDAUG_DICOMWEB_USER", "MEDAUG_DICOMWEB_PASSWORD", "MEDAUG_DICOMWEB_TOKEN"
STUDY, SERIES, SOP = "0020000D", "0020000E", "00080018"  # tags of their Instance UIDs
VISIBLE = re.compile(r"[!-~]+")
PAGE = 500
MOST = 1_000_000
TIMEOUT = (10.0, 60.0)
"""Seconds until there is a connection, and of silence on it."""

ATTEMPTS = 3
WAIT = 1.0
"""Seconds before the second attempt, twice as many before the third."""

DENIED = (401, 403)
BUSY = (408, 429, 502, 503, 504)
CHUNK = 2**20
ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'
AGAIN = "check the address and the server, then run again: what was fetched is kept"

_talking: ContextVar[bool] = ContextVar("talking", default=False)


def _discreet(record: logging.LogRecord) -> bool:
    return not _talking.get()


for _name in (
    *("dicomweb_client.web", "dicomweb_client.uri", "retrying", "requests", "charset_normalizer"),
    *("urllib3.connection", "urllib3.connectionpool", "urllib3.poolmanager", "urllib3.response", "urllib3.util.retry"),
):
    logging.getLogger(_name).addFilter(_discreet)


class _StatusError(Exception):
    """An HTTP status that speaks of one request."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Server:
    """A DICOMweb service.

    Args:
        url: of the service, without credentials; those come from the environment.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._session = requests.Session()
        self._session.auth, self._known = _credentials()
        self._client = DICOMwebClient(url, session=self._session, permissive_uid=True, timeout=TIMEOUT)
        self._client.set_http_retry_params(retry=False)  # its own would also repeat what cannot succeed
        self._client.host = urlsplit(url).netloc  # sent as the Host header, in which the client forgets the port

    def search(
        self, filters: Mapping[str, str], study: str | None, series: str | None, limit: int | None
    ) -> dict[str, Uids | None]:
        """The instances that fit, page by page.

        Args:
            filters: DICOM keyword → value.
            study: Study Instance UID, or None for all.
            series: Series Instance UID, or None for all.
            limit: the most instances.

        Returns:
            SOP Instance UID → UIDs, in the server's order; None where the server gives no valid ones.

        Raises:
            MedaugError: no answer, none that is understood, or more instances than can be meant.
        """
        criteria = dict(filters)
        if series is not None and study is None:  # there is no path to a series without its study
            criteria["SeriesInstanceUID"], series = series, None
        found: dict[str, Uids | None] = {}
        most, offset = limit or MOST, 0
        while len(found) < most:
            asked, before = min(PAGE, most - len(found)), len(found)
            page = self._page(study, series, asked, offset, criteria)
            for result in page:
                uids = (
                    first_value(result, STUDY) or study or "",
                    first_value(result, SERIES) or series or "",
                    first_value(result, SOP),
                )
                key = uids[2] or json.dumps(result, sort_keys=True)
                found.setdefault(key, uids if all(UID.fullmatch(uid) for uid in uids) else None)
            offset += len(page)
            if len(found) == before:
                if len(page) == asked:
                    raise self._error("sends the same page of results again and again; narrow the search by filters")
                break
        if limit is None and len(found) >= MOST:
            raise self._error(f"lists more than {MOST} instances; narrow the search by filters")
        return dict(list(found.items())[:most])

    def _page(
        self, study: str | None, series: str | None, limit: int, offset: int, criteria: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        def call() -> Any:
            return self._client.search_for_instances(
                study, series, limit=limit, offset=offset, search_filters=dict(criteria)
            )

        try:
            page = self._insist(call)
        except _StatusError as error:
            hint = "check the address (.../dicom-web) and source.dicomweb: filters, study, series"
            raise self._error(f"refused the search (HTTP {error.status}); {hint}") from None
        except (ValueError, TypeError, AttributeError) as error:
            if isinstance(error, MedaugError):
                raise
            page = None
        if not isinstance(page, list) or not all(isinstance(result, dict) for result in page):
            raise self._error("answered the search without DICOM JSON; expected the address of a DICOMweb service")
        return page

    def instance(self, uids: Uids) -> memoryview:
        """An instance as it is stored: the bytes of its file.

        Raises:
            Unreadable: the server refuses this instance.
            SetAside: it is too large.
            MedaugError: the server does not answer, or not to the end.
        """
        try:
            return self._insist(lambda: self._download(uids))
        except _StatusError as error:
            raise Unreadable(f"the server did not deliver it (HTTP {error.status})") from None

    def _download(self, uids: Uids) -> memoryview:
        study, series, instance = uids
        address = f"{self.url}/studies/{study}/series/{series}/instances/{instance}"
        body = bytearray()
        with self._session.get(address, headers={"Accept": ACCEPT}, timeout=TIMEOUT, stream=True) as response:
            response.raise_for_status()
            for chunk in response.iter_content(CHUNK):
                body += chunk
                if len(body) > MAX_BYTES + CHUNK:
                    raise SetAside(f"larger than {MAX_BYTES // 2**20} MiB")
            return only_part(response.headers.get("Content-Type", ""), body)

    def _insist(self, call: Callable[[], T]) -> T:
        """Calls, and again after failures that may pass.

        Raises:
            _StatusError: the server refuses this one request.
            MedaugError: it does not answer, not to the end, or to nobody like us.
        """
        failure = ""
        for attempt in range(ATTEMPTS):
            time.sleep(WAIT * 2 ** (attempt - 1) if attempt else 0)
            try:
                with _silence():
                    return call()
            except requests.JSONDecodeError:
                raise
            except requests.HTTPError as error:
                status = 0 if error.response is None else error.response.status_code
                failure, passing = self._status(status)
            except (requests.RequestException, BrokenOffError) as error:
                failure, passing = _told(error)
            if not passing:
                break
        raise self._error(failure) from None

    def _status(self, status: int) -> tuple[str, bool]:
        if status in BUSY:
            return f"is busy (HTTP {status}); {AGAIN}", True
        if status not in DENIED:
            raise _StatusError(status)
        if self._known:
            return f"did not accept the credentials (HTTP {status}); correct those in the environment", False
        return f"asks for credentials (HTTP {status}); set {USER} and {PASSWORD}, or {TOKEN}", False

    def _error(self, text: str) -> MedaugError:
        return MedaugError(f"dicomweb {self.url}: {text}")


def _told(error: Exception) -> tuple[str, bool]:
    """What failed in words, and whether it may pass."""
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate was not accepted; set REQUESTS_CA_BUNDLE to the authority's file", False
    if isinstance(error, requests.Timeout) or any(isinstance(cause, ReadTimeoutError) for cause in error.args):
        return f"did not answer within {TIMEOUT[1]:.0f} s; {AGAIN}", True
    if isinstance(error, requests.exceptions.ChunkedEncodingError | BrokenOffError):
        return f"broke off in the middle of an answer; {AGAIN}", True
    if isinstance(error, requests.ConnectionError):
        return f"no connection; {AGAIN}", True
    return f"the request failed ({type(error).__name__}); check the address and the credentials", False


@contextmanager
def _silence() -> Iterator[None]:
    token = _talking.set(True)
    try:
        yield
    finally:
        _talking.reset(token)


def _credentials() -> tuple[Any, bool]:
    """What requests takes for ``auth``, and whether there is any."""
    user, password, token = (os.environ.get(name, "").strip() for name in (USER, PASSWORD, TOKEN))
    if token and (user or password):
        raise MedaugError(f"{TOKEN} and {USER}: both are set; keep one of them in the environment")
    if bool(user) != bool(password):
        raise MedaugError(f"{USER} and {PASSWORD}: one of them is not set; set both in the environment")
    if token and not VISIBLE.fullmatch(token):  # the error that HTTP's library would raise quotes it
        raise MedaugError(f"{TOKEN}: holds spaces, line breaks or other letters than ASCII's; set the bare token")
    if user:
        return (user.encode(), password.encode()), True

    # A function in the other two cases as well: without one, requests would look for a password in ~/.netrc.
    def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    return sign, bool(token)
