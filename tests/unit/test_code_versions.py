"""What an artifact's code version is taken from: every module of the library that its stage reaches."""

import gc
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows import classify, extract, filters, score, scorecard, synthesize, train_gan
from medgan.registry import NETWORKS
from pipeline import fraction, ingest
from pipeline import versions as versions_module
from pipeline.versions import CHANGES_NO_FIGURE, code_version, imports, modules_behind, source_code, source_file

REACHED = {
    "ingest": (ingest.CODE, {"pipeline.scans", "pipeline.dicom.header", "pipeline.dicom.deidentify", "pipeline.codes"}),
    "fraction": (fraction.CODE, {"pipeline.dataset", "pipeline.codes"}),
    "extractor": (classify.TRAINING_CODE, {"classifiers.augment", "classifiers.networks", "pipeline.device"}),
    "classifier": (classify.CODE, {"classifiers.details", "classifiers.transforms", "pipeline.subgroups"}),
    "generator": (train_gan.CODE, {"medgan.train", "medgan.optimise", "medgan.losses", "medgan.metrics.kid"}),
    "synthetic": (synthesize.CODE, {"medgan.styles", "medgan.config", "pipeline.dicom.write", "medgan.metrics.copies"}),
    "filter": (filters.CODE, {"medgan.metrics.precision_recall", "classifiers.trained", "pipeline.codes"}),
    "features": (extract.CODE, {"medgan.inception", "pipeline.dataset", "medgan.metrics.moments"}),
    "score": (score.CODE, {"medgan.metrics", "medgan.metrics.precision_recall", "pipeline.dataset"}),
    "scorecard": (scorecard.CODE, {"flows.probes", "medgan.metrics.droplets", "medgan.directions", "medgan.augment"}),
}


@pytest.mark.parametrize("kind", REACHED)
def test_a_stage_counts_what_it_reaches(kind):
    code, reached = REACHED[kind]
    found = set(modules_behind(*code))
    assert reached <= found
    assert not found & set(CHANGES_NO_FIGURE)
    assert {name for name in found if name.startswith("flows.")} <= set(code)


@pytest.mark.parametrize("stage", [classify, extract, filters, score, scorecard, train_gan])
def test_a_stage_counts_itself(stage):
    assert stage.__name__ in stage.CODE


def test_what_is_on_disk_later_does_not_count(monkeypatch):
    """The code that runs is that of the start, whatever an update has made of the files since."""
    file = source_file("pipeline.codes")
    code_version.cache_clear()
    before = code_version("pipeline.codes")
    for cached in (code_version, versions_module.code_of):
        cached.cache_clear()
    monkeypatch.setitem(versions_module.SOURCES, file, "x = 1\n")
    assert code_version("pipeline.codes") != before
    for cached in (code_version, versions_module.code_of):
        cached.cache_clear()


@pytest.mark.parametrize("kind", ["generator", "synthetic", "scorecard"])
def test_networks_that_are_found_by_name_count(kind):
    assert {place.partition(":")[0] for place in NETWORKS.values()} <= set(modules_behind(*REACHED[kind][0]))


def test_editing_statistics_trains_no_extractor_again():
    assert not {"classifiers", "classifiers.statistics", "classifiers.delong"} & set(
        modules_behind(*classify.TRAINING_CODE)
    )


def test_what_is_left_out_exists():
    assert all(source_file(name) for name in CHANGES_NO_FIGURE)


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Writes modules of a package ``sample_library``, which is followed; gives the version of its ``stage``."""
    package = tmp_path / "sample_library"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(versions_module, "LIBRARY", ("sample_library",))

    def version(**sources):
        for name, source in sources.items():
            (package / f"{name}.py").write_text(source)
        code_version.cache_clear()
        versions_module.code_of.cache_clear()
        return code_version("sample_library.stage")

    yield version
    code_version.cache_clear()
    versions_module.code_of.cache_clear()


def test_code_that_is_imported_by_what_is_imported_counts(library):
    stage = "def run():\n    from sample_library import (\n        near,\n    )\n    return near\n"
    near = "import sample_library.far as f\nx = f\n"
    before = library(stage=stage, near=near, far="y = 1\n", aside="z = 1\n")
    assert library(aside="z = 2\n") == before
    assert library(far='"""Words."""\n# why\ny = 1\n') == before
    assert library(far="y = 2\n") != before


def test_a_named_package_is_whole_in_every_order(library):
    library(stage="import sample_library\n", other="y = 1\n")
    whole = {"sample_library", "sample_library.stage", "sample_library.other"}
    assert set(modules_behind("sample_library", "sample_library.stage")) == whole
    assert set(modules_behind("sample_library.stage", "sample_library")) == whole


def test_modules_that_import_each_other_are_read_once(library):
    text = "from sample_library.{} import x\n"
    assert library(stage=text.format("near"), near=text.format("stage")) == library()


def test_every_form_of_import_is_seen():
    text = "import a.b, c as d\nfrom pipeline import records as r, codes\nfrom medgan.train import (train,)\nx = 1\n"
    found = list(imports(source_code(text)))
    assert found == ["a.b", "c", "pipeline.records", "pipeline.codes", "medgan.train"]


def test_only_code_counts():
    spread = 'def f(\n    x,\n):\n    """Doc."""\n\n    # why\n    return (x  +  1)\n'
    assert source_code(spread) == source_code("def f(x,):\n  return (x + 1)\n")
    deeper, shallower = "if a:\n    b()\n    c()\n", "if a:\n    b()\nc()\n"
    assert source_code(deeper) != source_code(shallower)
    assert source_code("x = 'a'\n") != source_code("x = 'b'\n")


def test_threads_may_ask_for_versions_at_once():
    """Python 3.11's ast.parse fails here: a collection in the middle of it lets another thread in (CPython 106905)."""
    source = Path(versions_module.__file__).read_text(encoding="utf-8")

    class Cycle:
        def __init__(self):
            self.me = self

        def __del__(self):
            sum(range(50))

    def more_garbage(_phase, _info):
        Cycle()

    thresholds, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.callbacks.append(more_garbage)
    gc.set_threshold(50)
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            codes = set(pool.map(source_code, [source] * 12))
    finally:
        gc.set_threshold(*thresholds)
        sys.setswitchinterval(interval)
        gc.callbacks.remove(more_garbage)
    assert codes == {source_code(source)}
