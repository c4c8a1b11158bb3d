"""Groups of patients: coarse, only where asked for, and in the order of the scans."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipeline.config import validate
from pipeline.dataset import ScanDataset
from pipeline.fraction import take_fraction
from pipeline.ingest import DataConfig, ingest
from pipeline.records import MedaugError
from pipeline.store import Store
from pipeline.subgroups import read_subgroups, subgroup_columns

FIELDS = pd.DataFrame(
    {
        "PatientSex": ["F", "M", "", None],
        "PatientAge": [39.9, 40.0, 65.0, np.nan],
        "Manufacturer": ["GE MEDICAL SYSTEMS", "GE HEALTHCARE", "SIEMENS", ""],
        "StudyDate": [1.0, 2.0, 3.0, 4.0],
    },
    index=[3, 5, 7, 9],
)


def test_groups_are_coarse_and_nothing_else_is_kept():
    columns = subgroup_columns(FIELDS, ("sex", "age_band", "manufacturer"))
    assert columns.to_dict("list") == {
        "sex": ["F", "M", "", ""],
        "manufacturer": ["GE", "GE", "SIEMENS", ""],
        "age_band": ["under 40", "40 to 64", "65 and over", ""],
    }
    assert columns.index.tolist() == [3, 5, 7, 9]
    assert subgroup_columns(FIELDS, ("sex",)).columns.tolist() == ["sex"]
    assert subgroup_columns(FIELDS, ()).empty
    assert subgroup_columns(FIELDS[["StudyDate"]], ("sex", "age_band", "manufacturer")).empty  # ordinary images


@pytest.mark.thorough
def test_an_ingest_keeps_groups_only_where_asked_for(tmp_path):
    settings = {
        "source": {"kind": "phantom", "phantom": {"patients": 24, "size": 32}},
        "window": "chest_wide",
        "size": [16, 16],
        "reading": {"workers": 1},
    }
    store, private = Store(tmp_path / "store"), tmp_path / "private"
    plain, kept = (
        ingest(DataConfig.model_validate({**settings, "keep": keep}), store, private, lambda done, total: None)
        for keep in ([], ["sex", "age_band", "manufacturer"])
    )
    assert read_subgroups(plain.path, "test") == {}
    assert not {"sex", "age_band", "manufacturer"} & set(pd.read_parquet(plain.path / "slices.parquet"))
    groups = read_subgroups(kept.path, "test")
    test = ScanDataset(kept.path, "test")
    table = pd.read_parquet(kept.path / "slices.parquet")
    assert {len(of) for of in groups.values()} == {len(test)}
    for name, of in groups.items():
        assert of.tolist() == table.loc[table["split"] == "test", name].tolist()
    small = take_fraction(kept.path, 0.5, 0, store)
    again = read_subgroups(small.path, "test")
    assert {name: of.tolist() for name, of in again.items()} == {name: of.tolist() for name, of in groups.items()}


def test_only_known_groups_may_be_kept():
    with pytest.raises(MedaugError, match=r"keep\.0"):
        validate(DataConfig, {"keep": ["religion"]}, "x.yaml")
