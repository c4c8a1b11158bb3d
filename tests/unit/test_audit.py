"""The leak audit finds planted leaks, leaves noise alone, and says nothing that identifies anybody."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from pipeline import audit, separation
from pipeline.audit import FieldAudit, audit_headers, describe
from pipeline.separation import Trial

pytestmark = pytest.mark.thorough


def people(count: int, seed: int, most: int = 4, mixed: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Labels and patients of slices: one to ``most`` slices a patient, some with slices of both classes."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(count), rng.integers(1, most + 1, count))
    labels = np.where((rng.random(count) < mixed)[patients], rng.random(len(patients)) < 0.5, (patients % 2) == 0)
    return labels.astype(np.int64), patients


def only(fields: dict[str, object], labels: np.ndarray, patients: np.ndarray) -> FieldAudit:
    (one,) = audit_headers(pd.DataFrame(fields), labels, patients)
    return one


class TestLeaksAreFound:
    labels, patients = people(60, 1)

    def test_a_category_that_is_the_label(self):
        one = only({"Kernel": np.where(self.labels == 1, "B70f", "B30f")}, self.labels, self.patients)
        assert one.flagged
        assert one.verdict == "leak"
        assert (one.auc, one.slice_auc, one.levels, one.patients) == (1.0, 1.0, 2, 60)

    def test_a_field_that_is_filled_in_for_a_quarter_of_one_class_with_free_text(self):
        filled = (self.patients % 4 == 0) & (self.labels == 1)
        agent = np.where(filled, np.char.add("agent ", self.patients.astype(str)), "")
        one = only({"Agent": agent}, self.labels, self.patients)
        assert one.flagged
        assert one.by == "presence"
        assert one.presence_auc == one.auc
        assert one.presence_p == one.corrected_p <= 0.05
        assert 0.6 < one.auc < 0.8
        assert one.filled == pytest.approx(filled.mean(), abs=1e-4)

    def test_presence_is_asked_for_beside_values_that_say_nothing(self):
        rng = np.random.default_rng(3)
        filled = (rng.random(60)[self.patients] < np.where(self.labels == 1, 0.9, 0.2)) & (self.patients % 7 > 0)
        values = np.where(filled, rng.integers(0, 3, 60)[self.patients].astype(str), "")
        both, alone = audit_headers(pd.DataFrame({"V": values, "P": filled}), self.labels, self.patients)
        assert (both.presence_auc, alone.presence_auc) == (alone.auc, None)
        assert both.presence_p <= 0.05

    def test_a_number_that_differs_within_patients_only(self):
        patients = np.repeat(np.arange(30), 4)
        labels = np.tile([0, 0, 1, 1], 30).astype(np.int64)
        position = np.random.default_rng(4).normal(0, 1, 120) + 2 * labels
        assert only({"InstanceNumber": position}, labels, patients).flagged

    @pytest.mark.parametrize("shape", ["threshold", "band"])
    def test_a_number_with_a_threshold_or_a_band(self, shape):
        rng = np.random.default_rng(2)
        inside, outside = (4.0, 0.0) if shape == "threshold" else (0.0, 4.0)
        centre = np.where(self.labels == 1, inside, outside * np.where(rng.random(len(self.labels)) < 0.5, -1, 1))
        number = centre + rng.normal(0, 0.8, len(centre))
        one = only({"Voltage": number}, self.labels, self.patients)
        assert one.flagged
        assert one.auc > 0.85
        if shape == "band":  # which a straight line through the number cannot see
            line = LogisticRegression().fit(number[:, None], self.labels)
            assert roc_auc_score(self.labels, line.decision_function(number[:, None])) < 0.65

    def test_three_classes(self):
        labels, patients = self.patients % 3, self.patients
        one = only({"Site": np.array(["a", "b", "b"])[labels]}, labels, patients)
        assert one.flagged
        # One class is told from the others for certain (1); of each other two half of the others are, half are tied.
        assert one.auc == pytest.approx((1 + 0.75 + 0.75) / 3, abs=0.01)

    def test_among_many_patients_a_sample_is_looked_at(self):
        patients = np.repeat(np.arange(4000), 3)
        labels = (patients % 2).astype(np.int64)
        rng = np.random.default_rng(0)
        fields = pd.DataFrame({"Maker": np.where(rng.random(4000) < 0.5, labels[::3], 2).repeat(3).astype(str)})
        one = audit_headers(fields, labels, patients)[0]
        assert one.flagged
        assert one.patients == audit.MAX_PATIENTS


class TestNoiseIsLeftAlone:
    def test_constant_absent_and_unique_fields_are_not_tested(self):
        labels, patients = people(40, 3)
        fields = pd.DataFrame(
            {
                "Rows": 512,
                "Station": "",
                "Institution": [None] * len(labels),
                "StudyUID": np.char.add("1.2.", patients.astype(str)) + ".9",
                "Odd": np.where(patients == 3, "x", "y"),
            }
        )
        rows, station, institution, unique, odd = audit_headers(fields, labels, patients)
        assert [one.verdict for one in (rows, station, institution)] == ["constant"] * 3
        assert (rows.note, station.note) == ("the same in every slice", "absent from every slice")
        for one in (unique, odd):
            assert one.verdict == "cannot tell"
            assert one.note.startswith("cannot tell at this n")
        assert all(one.auc is None and not one.flagged for one in (rows, station, institution, unique, odd))

    def test_few_patients_are_not_tested_however_many_slices_they_have(self):
        patients = np.repeat(np.arange(8), 50)
        fields = pd.DataFrame({"Maker": np.where(patients % 2, "A", "B"), "Rows": 512})
        maker, rows = audit_headers(fields, (patients % 2).astype(np.int64), patients)
        assert (maker.verdict, maker.auc, maker.patients) == ("cannot tell", None, 8)
        assert rows.verdict == "constant"

    def test_a_class_of_few_patients_does_not_stop_the_others(self):
        patients = np.repeat(np.arange(44), 2)
        labels = np.where(patients >= 40, 2, patients % 2).astype(np.int64)
        one = only({"Maker": np.where(labels == 1, "A", "B")}, labels, patients)
        assert (one.flagged, one.patients, one.auc) == (True, 40, 1.0)

    def test_slices_of_one_patient_are_no_independent_evidence(self):
        """Twelve patients of forty slices: chi-squared over slices is sure of what three patients decide."""
        patients = np.repeat(np.arange(12), 40)
        labels = (patients % 2).astype(np.int64)
        maker = np.isin(patients, [0, 1, 2, 4, 6])  # four of six against one of six
        table = pd.crosstab(labels, maker).to_numpy()
        expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
        assert ((table - expected) ** 2 / expected).sum() > 100
        one = only({"Maker": maker}, labels, patients)
        assert not one.flagged
        assert one.corrected_p > 0.05

    def test_folds_do_not_make_noise_look_worse_or_better_than_chance(self, monkeypatch):
        """A pooled AUC would: it compares scores of different fits."""
        monkeypatch.setattr(separation, "RESAMPLES", 10)  # intervals are not asked for
        labels, patients = people(30, 4, mixed=0.0)
        rng = np.random.default_rng(5)
        trial = Trial(labels, patients, 0, 10)
        fields = [(rng.random(30) < 0.5)[patients].astype(np.intp) for _ in range(120)]
        ours = np.array([trial.measure(field).auc for field in fields if len(set(field)) == 2])
        pooled = np.array([self.pooled(field, labels, patients) for field in fields])
        assert abs(ours.mean() - 0.5) < 3 * ours.std() / np.sqrt(len(ours))
        assert pooled.mean() < 0.5 - 3 * pooled.std() / np.sqrt(len(pooled))

    @staticmethod
    def pooled(field: np.ndarray, labels: np.ndarray, patients: np.ndarray) -> float:
        score = np.zeros(len(labels))
        for train, test in StratifiedGroupKFold(5, shuffle=True, random_state=0).split(field, labels, patients):
            for level in np.unique(field[test]):
                same = labels[train][field[train] == level]
                score[test[field[test] == level]] = (same.sum() + labels[train].mean()) / (len(same) + 1)
        return float(roc_auc_score(labels, score))

    @pytest.mark.parametrize("varies", ["between patients", "within patients"])
    def test_false_alarms_are_as_rare_as_p_says(self, varies, monkeypatch):
        monkeypatch.setattr(separation, "RESAMPLES", 10)
        labels, patients = people(40, 6, mixed=0.5)
        rng = np.random.default_rng(7)
        trial = Trial(labels, patients, 1, 400)
        ps = []
        for _ in range(150):
            noise = rng.random(40)[patients] if varies == "between patients" else rng.random(len(patients))
            ps.append(trial.measure((noise < 0.4).astype(np.intp)).p)
        alarms = np.mean(np.asarray(ps) <= 0.05)
        assert alarms <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 150)
        assert np.mean(np.asarray(ps) <= 0.5) > 0.3  # and not because p is always large

    def test_a_field_that_cannot_tell_has_a_p_of_one(self):
        """Every patient has slices of both classes and the same maker in all of them."""
        patients = np.repeat(np.arange(20), 2)
        found = Trial(np.tile([0, 1], 20).astype(np.int64), patients, 0, 100).measure((patients % 2).astype(np.intp))
        assert (found.auc, found.p) == (0.5, 1.0)

    def test_twenty_fields_of_noise_raise_no_alarm_and_one_leak_among_them_does(self, monkeypatch):
        monkeypatch.setattr(audit, "PERMUTATIONS", 1500)
        labels, patients = people(54, 8)
        rng = np.random.default_rng(9)
        fields = {f"Noise{k}": rng.integers(0, 4, 54)[patients].astype(str) for k in range(20)}
        fields["Leak"] = np.where(rng.random(len(labels)) < 0.15, 1 - labels, labels).astype(str)
        audits = audit_headers(pd.DataFrame(fields), labels, patients)
        assert [one.field for one in audits if one.flagged] == ["Leak"]


def test_the_auc_is_that_of_scores_from_other_folds_compared_within_a_fold():
    """Against plain loops and scikit-learn's AUC, one patient-and-label unit at a time."""
    labels, patients = people(25, 10)
    rng = np.random.default_rng(11)
    field = rng.integers(0, 3, 25)[patients].astype(np.intp)
    trial = Trial(labels, patients, 3, 10)
    measured = trial.measure(field)
    units = sorted(set(zip(patients.tolist(), labels.tolist(), strict=True)))
    level = np.array([field[patients == patient][0] for patient, _ in units])
    label = np.array([one for _, one in units])
    size = np.array([((patients == patient) & (labels == one)).sum() for patient, one in units])
    sums = {"unit": [0.0, 0.0], "slice": [0.0, 0.0]}
    for fold in trial.fold:
        for number in np.unique(fold):
            train, test = fold != number, fold == number
            assert not {patient for (patient, _), out in zip(units, test, strict=True) if out} & {
                patient for (patient, _), kept in zip(units, train, strict=True) if kept
            }
            base = label[train].mean()
            share = {
                k: (label[train][level[train] == k].sum() + base) / ((level[train] == k).sum() + 1) for k in range(3)
            }
            score = np.round([share[k] for k in level[test]], 9)
            for kind, weight in (("unit", np.ones(test.sum())), ("slice", size[test].astype(float))):
                positive, negative = weight[label[test] == 1].sum(), weight[label[test] == 0].sum()
                if positive and negative:
                    auc = roc_auc_score(label[test], score, sample_weight=weight)
                    sums[kind][0] += auc * positive * negative
                    sums[kind][1] += positive * negative
    assert measured.auc == pytest.approx(sums["unit"][0] / sums["unit"][1])
    assert measured.slice_auc == pytest.approx(sums["slice"][0] / sums["slice"][1])
    assert measured.auc != measured.slice_auc


def test_the_interval_covers_what_is_true(monkeypatch):
    """A presence leak whose AUC is known: filled in for 40 % of one class, never for the other, AUC 0.7."""
    monkeypatch.setattr(separation, "RESAMPLES", 400)
    monkeypatch.setattr(separation, "REPEATS", 4)
    covered = []
    for seed in range(50):
        rng = np.random.default_rng(seed)
        patients = np.arange(80)
        labels = (patients % 2).astype(np.int64)
        field = ((rng.random(80) < 0.4) & (labels == 1)).astype(np.intp)
        found = Trial(labels, patients, seed, 10).measure(field)
        covered.append(found.low <= 0.7 <= found.high)
    assert np.mean(covered) >= 0.86  # 95 % less three standard errors


def test_fields_that_split_alike_are_corrected_for_once():
    labels, patients = people(50, 12)
    rng = np.random.default_rng(13)
    maker, other = rng.integers(0, 2, 50)[patients], rng.integers(0, 3, 50)[patients].astype(str)
    few = audit_headers(pd.DataFrame({"Maker": maker.astype(str), "Other": other}), labels, patients)
    copies = {f"Bits{k}": np.where(maker == 0, 12 + k, 16 + k) for k in range(6)}
    many = audit_headers(pd.DataFrame({"Maker": maker.astype(str), "Other": other, **copies}), labels, patients)
    assert [one.corrected_p for one in many[:2]] == [one.corrected_p for one in few]
    assert {one.corrected_p for one in many[2:]} == {few[0].corrected_p}
    assert few[0].corrected_p > min(one.p for one in few)


def test_numbers_as_text_are_numbers():
    labels, patients = people(50, 14)
    rng = np.random.default_rng(15)
    number = (rng.integers(1, 100, 50) + 0.5)[patients]
    text = [f"{value:.6E}" if k % 2 else f"{value:.3f}" for k, value in enumerate(number)]
    one, other = audit_headers(pd.DataFrame({"N": number, "T": text}), labels, patients)
    assert one.levels == 5
    assert {**asdict(other), "field": "N"} == asdict(one)


def test_holm():
    assert audit._holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_the_seed_decides_and_repeats():
    labels, patients = people(40, 16)
    fields = pd.DataFrame({"Maker": (patients % 3).astype(str)})
    assert audit_headers(fields, labels, patients, 1) == audit_headers(fields, labels, patients, 1)
    assert audit_headers(fields, labels, patients, 1) != audit_headers(fields, labels, patients, 2)


def test_results_are_json_and_hold_no_value_of_a_field():
    labels, patients = people(40, 17)
    secret = np.where(labels == 1, "Dr Strangelove", "Ward 7")
    audits = audit_headers(pd.DataFrame({"Physician": secret, "Date": 19640129 + patients}), labels, patients)
    text = json.dumps([asdict(one) for one in audits], allow_nan=False) + " ".join(describe(audits))
    assert "Physician" in text
    assert not any(word in text for word in ("Strangelove", "Ward", "19640"))


def test_warnings_name_leaks_one_by_one_and_suspects_together():
    leak = FieldAudit("Maker", auc=0.8, low=0.7, high=0.9, patients=50, flagged=True, verdict="leak")
    stronger = FieldAudit("Agent", "presence", auc=0.9, low=0.8, high=1.0, patients=50, flagged=True, verdict="leak")
    suspects = [FieldAudit(f"Suspect{k}", auc=0.6, p=0.01 * k, verdict="suspect") for k in (2, 1)]
    quiet = FieldAudit("Sex", auc=0.5, verdict="not shown")
    lines = describe([leak, quiet, stronger, *suspects])
    assert len(lines) == 3
    assert "whether Agent is filled in predicts the label" in lines[0]
    assert "AUC 0.80, 95 % interval 0.70 to 0.90, 50 patients" in lines[1]
    assert lines[2].startswith("2 of 5 header fields")
    assert lines[2].endswith("Suspect1, Suspect2")
    assert describe([quiet]) == []


NUMBERS = [
    *("Rows", "Columns", "KVP", "SliceThickness", "BitsStored", "PixelRepresentation", "RescaleIntercept"),
    *("PixelPaddingValue", "WindowCenter", "XRayTubeCurrent", "ExposureTime", "ReconstructionDiameter", "PixelSpacing"),
]
TEXTS = [
    *("Manufacturer", "ManufacturerModelName", "StationName", "InstitutionName", "SoftwareVersions"),
    *("ConvolutionKernel", "ContrastBolusAgent", "PatientSex", "PatientPosition", "BodyPartExamined"),
    *("ProtocolName", "SeriesDescription", "ScanOptions"),
]


def read_headers(folder: Path) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Header fields of ct100 as a caller would give them, labels and patients."""
    names = pd.read_csv(folder / "labels.csv")
    rows, patients = [], []
    for file in names["file"]:
        ds = pydicom.dcmread(folder / "dicom" / file, stop_before_pixels=True)
        row: dict[str, object] = {name: str(ds.get(name) or "") for name in TEXTS}
        for name in NUMBERS:
            value = ds.get(name)
            value = value[0] if isinstance(value, pydicom.multival.MultiValue) else value
            row[name] = np.nan if value in (None, "") else float(value)
        row["PatientAge"] = float(ds.PatientAge[:3]) if ds.get("PatientAge") else np.nan
        row["StudyDate"] = pd.Timestamp(ds.StudyDate).toordinal()
        rows.append(row)
        patients.append(ds.PatientID)
    labels = (names["label"] == "contrast").to_numpy(np.int64)
    return pd.DataFrame(rows), labels, pd.factorize(np.array(patients))[0].astype(np.int64)


def test_ct100(real_data):
    fields, labels, patients = read_headers(real_data / "ct100")
    audits = {one.field: one for one in audit_headers(fields, labels, patients)}
    agent, maker = audits["ContrastBolusAgent"], audits["Manufacturer"]
    assert agent.flagged
    assert agent.by == "presence"
    assert agent.filled == 0.12
    assert agent.auc == pytest.approx(0.638, abs=0.005)  # 8.5 of 31 patients with contrast, of 32 without none
    assert agent.low > 0.53
    assert agent.corrected_p < 0.05
    # The maker goes with the label over slices; over the patients (22 of 31 against 17 of 32) that is no proof.
    assert maker.verdict == "suspect"
    assert maker.slice_auc == pytest.approx(0.63, abs=0.005)
    assert maker.slice_low > 0.5 > maker.low
    assert [audits[name].verdict for name in ("StationName", "InstitutionName", "Rows")] == ["constant"] * 3
    assert audits["PatientSex"].verdict == "not shown"
    assert "Manufacturer" in describe(list(audits.values()))[-1]
