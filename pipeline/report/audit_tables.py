"""Which header fields give the label away, and which pictures lie there twice: from a dataset's ``meta`` to words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.numbers import MISSING, count, finite, interval, many, number, probability
from pipeline.report.tables import Cell, Group, Line, Table

VERDICTS = {
    "leak": "predicts the label",
    "suspect": "may predict it",
    "cannot tell": "cannot tell at this n",
    "not shown": "not shown",
}
"""Words for the verdicts of :mod:`pipeline.audit`, in the order of the table."""

NOTES = (
    "AUC of the field as the only input, cross-validated by patient: 1 is certainty, 0.5 chance, and less than 0.5 is "
    "no better than chance. Over patients, each counts once; over slices, each slice does.",
    "Intervals are 95 %, over patients; Holm p is a permutation's, corrected over all tests of the audit.",
    "“May predict it”: an interval excludes 0.5, but the corrected p does not exclude chance; about one field in ten "
    "is there by chance alone. “Not shown”: the interval over patients ends below 0.65.",
)


@dataclass(frozen=True)
class AuditView:
    """What the report says about header fields.

    Attributes:
        summary: the audit in a sentence or two; "" where there was none.
        worrying: fields that predict the label, or may, the surest first; None where there are none.
        rest: the others that were tested.
        notes: how to read the tables.
        untested: a sentence on the fields that could not be tested, or "".
    """

    summary: str
    worrying: Table | None
    rest: Table | None
    notes: tuple[str, ...]
    untested: str


def audit_view(dataset: Mapping[str, Any]) -> AuditView:
    """Reads ``audit`` of a dataset artifact's ``meta``, a list of :class:`pipeline.audit.FieldAudit` as mappings."""
    listed = dataset.get("audit")
    fields = [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list | tuple) else []
    tested = [one for one in fields if one.get("verdict") in VERDICTS and finite(_figure(one, "auc")) is not None]
    tested.sort(key=lambda one: (list(VERDICTS).index(one["verdict"]), _figure(one, "p") or 0.0, str(one.get("field"))))
    worrying = [one for one in tested if one["verdict"] in ("leak", "suspect")]
    rest = tested[len(worrying) :]
    return AuditView(
        summary=_summary(tested),
        worrying=_table(worrying) if worrying else None,
        rest=_table(rest) if rest else None,
        notes=NOTES if tested else (),
        untested=_untested([one for one in fields if not any(one is known for known in tested)]),
    )


def _summary(tested: Sequence[Mapping[str, Any]]) -> str:
    if not tested:
        return ""
    leaks, suspects = (sum(one["verdict"] == verdict for one in tested) for verdict in ("leak", "suspect"))
    fields = many(len(tested), "header field")
    if not leaks:
        may = f"; {suspects} may" if suspects else ""
        return f"None of {fields} was shown to predict the label without a look at the image{may}."
    may = f" {suspects} more may." if suspects else ""
    return (
        f"{leaks} of {fields} {'predicts' if leaks == 1 else 'predict'} the label without a look at the image.{may} "
        "A classifier or a GAN may learn what they stand for instead of the finding: a result is safe only where it "
        "also holds among scans that agree in them."
    )


def _table(fields: Sequence[Mapping[str, Any]]) -> Table:
    lines = []
    for one in fields:
        patients = one.get("patients")
        verdict = str(one["verdict"])
        reason = str(one.get("note", "")).removeprefix("cannot tell at this n: ")
        cells = (
            _auc(one, ""),
            _auc(one, "slice_"),
            Cell(
                probability(_figure(one, "corrected_p")),
                (f"{probability(_figure(one, 'p'))} alone",),
                why="not recorded",
            ),
            Cell(count(patients) if isinstance(patients, int) else MISSING, why="not recorded"),
            Cell(VERDICTS[verdict], (reason,) if reason else (), lead=verdict == "leak"),
        )
        about = "whether it is filled in" if one.get("by") == "presence" else ""
        lines.append(Line(str(one.get("field", MISSING)), cells, about, kind=verdict.replace(" ", "-")))
    columns = (("AUC", "over patients"), ("AUC", "over slices"), ("Holm p", ""), ("patients", ""), ("verdict", ""))
    return Table("Header field", columns, (Group("", tuple(lines)),))


def _auc(entry: Mapping[str, Any], prefix: str) -> Cell:
    auc, low, high = (_figure(entry, prefix + key) for key in ("auc", "low", "high"))
    ends = interval(low, high, 2)
    return Cell(number(auc, 2), (ends,) if ends else (), why="not recorded")


def _untested(fields: Sequence[Mapping[str, Any]]) -> str:
    same = [str(one.get("field", MISSING)) for one in fields if one.get("verdict") == "constant"]
    few = [str(one.get("field", MISSING)) for one in fields if one.get("verdict") != "constant"]
    parts = [f"the same in every slice, or absent: {', '.join(same)}"] if same else []
    parts += [f"no value with enough patients on either side: {', '.join(few)}"] if few else []
    return f"Not tested: {'; '.join(parts)}." if parts else ""


def near_sentence(dataset: Mapping[str, Any]) -> str:
    """Reads ``near_duplicates`` of ``meta``, a :class:`pipeline.neighbours.NearDuplicates` as a mapping."""
    found = dataset.get("near_duplicates")
    if not isinstance(found, Mapping):
        return ""
    status, pairs, across = (found.get(key) for key in ("status", "pairs", "across_splits"))
    if status == "not looked for":
        return f"Near-duplicates were not looked for: {found.get('note', MISSING)}."
    if not isinstance(pairs, int) or not isinstance(across, int):
        return ""
    images = found.get("images")
    among = f" among {count(images)} images" if isinstance(images, int) else ""
    if not pairs:
        return f"Near-duplicates: none{among}; no two patients show almost the same picture."
    shown = [one for one in found.get("examples", ()) if isinstance(one, list | tuple) and len(one) == 2][:3]
    more = ", …" if pairs > len(shown) else ""
    rows = (
        f" (rows {', '.join(f'{first} and {second}' for first, second in shown)}{more} of images.npy)" if shown else ""
    )
    return (
        f"Near-duplicates: {'at least ' if status == 'part' else ''}{many(pairs, 'pair')}{among} show almost the same "
        f"picture under different patients, {count(across) if across else 'none'} of them across splits{rows}."
    )


def _figure(entry: Mapping[str, Any], key: str) -> float | None:
    value = entry.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
