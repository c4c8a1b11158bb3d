"""Files that lie, break off or are noise: no crash, no hang, and every file has one fate."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from pipeline.config import validate
from pipeline.dataset import ScanDataset
from pipeline.files import list_entries
from pipeline.ingest import DataConfig, ingest
from pipeline.reading import look, prepare
from pipeline.scans import Found, Prepared, Rules
from pipeline.store import Store
from pipeline.workers import Bounds, Workers
from tests.unit.dicom_files import as_is, make, to_bytes

SECRET = "MARKER77"


def originals() -> list[bytes]:
    """One file of each kind of encoding."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 4000, (64, 64)).astype("u2")
    files = [to_bytes(make(pixels, 12, PatientID=SECRET, PatientName=SECRET, WindowCenter=40, WindowWidth=400))]
    for syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        ds = make(pixels, 12, PatientID=SECRET)
        ds.compress(syntax)
        files.append(to_bytes(ds))
    for syntax in (ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        ds = make(pixels, 12, PatientID=SECRET)
        ds.file_meta.TransferSyntaxUID = syntax
        files.append(to_bytes(ds))
    big = make(pixels.astype(">u2"), 12, PatientID=SECRET)
    big.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    big["PixelData"].VR = "OW"
    files.append(to_bytes(big))
    files.append(to_bytes(make(rng.integers(0, 255, (3, 32, 32)).astype("u1"), 8, PatientID=SECRET)))
    files.append(to_bytes(make(rng.integers(0, 255, (32, 32, 3)).astype("u1"), 8, PatientID=SECRET, Modality="US")))
    return files


ORIGINALS = originals()

Mutation = tuple[str, float, bytes]
mutations = st.lists(
    st.tuples(
        st.sampled_from(["overwrite", "cut", "insert", "repeat", "header"]),
        st.floats(0, 1),
        st.binary(min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=4,
)


def mutate(data: bytes, changes: list[Mutation]) -> bytes:
    """Applies changes at places given as shares of the length; "header" stays within the first kilobyte."""
    for what, place, junk in changes:
        at = int(place * (min(len(data), 1200) if what == "header" else len(data)))
        if what in ("overwrite", "header"):
            data = data[:at] + junk + data[at + len(junk) :]
        elif what == "cut":
            data = data[:at]
        elif what == "insert":
            data = data[:at] + junk + data[at:]
        else:
            data = data[:at] + data[at // 2 : at] + data[at:]
    return data


@pytest.fixture(scope="module")
def pool():
    with Workers(2, Bounds(seconds=20, memory=2**30)) as workers:
        yield workers


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.tuples(st.integers(0, len(ORIGINALS) - 1), mutations), min_size=8, max_size=24))
def test_every_mutated_file_has_one_fate_with_a_reason_that_tells_nothing(pool, tmp_path_factory, drawn):
    folder = tmp_path_factory.mktemp("in")
    spools = tmp_path_factory.mktemp("spools")
    for number, (which, changes) in enumerate(drawn):
        (folder / f"{number:02d}.dcm").write_bytes(mutate(ORIGINALS[which], changes))
    rules = Rules("dicom", as_is("dicom", 16, "grey"))
    entries = list_entries(folder)
    assert len(entries) == len(drawn)
    found = list(pool.map(partial(look, rules=rules), entries))
    images = [(entry, one) for entry, one in found if isinstance(one, Found) and one.status == "image"]
    prepared = [one for _, one in pool.map(partial(prepare, rules=rules, spools=spools), images)]
    others = [one for _, one in found if not (isinstance(one, Found) and one.status == "image")]
    assert len(prepared) + len(others) == len(drawn)
    for one in [*prepared, *others]:
        image = isinstance(one, Prepared) and one.status == "image"
        assert image == (one.reason == "")
        assert SECRET not in one.reason
        if image:
            assert one.frames
            codes = np.memmap(spools / one.spool, "<u2", mode="r").reshape(-1, 16, 16)
            assert len(codes) >= one.position + len(one.frames)


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(mutations, min_size=6, max_size=12))
def test_the_sum_is_right_whatever_lies_among_the_scans(tmp_path_factory, drawn):
    folder = tmp_path_factory.mktemp("mixed")
    rng = np.random.default_rng(1)
    for number in range(24):
        ds = make(rng.integers(0, 2000, (16, 16)).astype("u2"), 12, PatientID=f"P{number // 2}")
        file = folder / "data" / "xy"[number // 2 % 2] / f"{number}.dcm"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(to_bytes(ds))
    for number, changes in enumerate(drawn):
        data = mutate(ORIGINALS[number % len(ORIGINALS)], changes)
        (folder / "data" / "xy"[number % 2] / f"broken-{number}.dcm").write_bytes(data)
    config = {"window": "dicom", "size": [16, 16], "source": {"path": str(folder / "data"), "kind": "dicom"}}
    checked = validate(DataConfig, config, "data")
    artifact = ingest(checked, Store(folder / "store"), folder / "private", lambda *_: None)
    tally = artifact.meta["found"]
    parts = ("kept", "duplicates", "quarantined", "set_aside", "unlabelled")
    assert tally["files"] == 24 + len(drawn) == sum(tally[part] for part in parts)
    assert tally["kept"] >= 24
    assert tally["slices"] == len(ScanDataset(artifact.path))
    reasons = Counter()
    for entry in artifact.meta["quarantine"]["reasons"]:
        reasons[entry["status"]] += entry["count"]
    assert reasons["quarantined"] == tally["quarantined"]
    assert reasons["set aside"] == tally["set_aside"]
    assert SECRET not in json.dumps(artifact.manifest)
    assert not list(Path(artifact.path).glob("spools"))
