"""The tables of a finished report, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.claims import Concern, Criterion, Verdict
from pipeline.report.criteria import (
    concerns_of,
    expected_false,
    figure_of,
    judged,
    quantity,
    told_in_line,
    word_of,
)
from pipeline.report.words import in_words

FIDELITY = ("kid.domain", "fid.domain", "precision", "recall", "density", "coverage")
CLASSIFIER = ("auroc", "auprc", "balanced_accuracy", "sensitivity", "specificity", "brier", "ece")


def report_tables(report: Mapping[str, Any]) -> str:
    """GAN × fidelity, arm × classifier metrics (mean over seeds), and the contrasts with their intervals.

    Args:
        report: the content of ``report.json``.
    """
    rows = pd.DataFrame(report["rows"])
    parts = []
    score = rows[(rows["stage"] == "score") & rows["metric"].isin(FIDELITY)]
    if len(score):
        table = score.pivot_table(index=["gan", "gan_seed"], columns="metric", values="value")
        parts.append("Fidelity to the real training images\n" + _text(table.reindex(columns=list(FIDELITY))))
    if report.get("limitations") or report.get("unmeasured"):
        parts.append("Limitations: claims of the literature, each with its 95 % interval\n" + _scorecard(report))
    arms = rows[(rows["stage"] == "classify") & rows["metric"].isin(CLASSIFIER)].fillna({"ratio": 0, "fraction": 1})
    if len(arms):
        index = ["classifier", "fraction", "arm", "gan", "ratio", "variant"]
        table = arms.pivot_table(index=index, columns="metric", values="value")
        parts.append(
            "Classifiers on the test patients, mean over seeds\n" + _text(table.reindex(columns=list(CLASSIFIER)))
        )
    contrasts = rows[rows["stage"] == "contrast"]
    if len(contrasts):
        columns = [
            "classifier",
            "fraction",
            "gan",
            "ratio",
            "variant",
            "arm",
            "metric",
            "value",
            "low",
            "high",
            "n",
            "note",
        ]
        parts.append(
            "Contrasts over patients, 95 % intervals\n"
            + contrasts.fillna({"fraction": 1})[columns].to_string(index=False, float_format="{:.3f}".format)
        )
    return "\n\n".join(parts) or "no rows"


def _scorecard(report: Mapping[str, Any]) -> str:
    """Claim by claim: what shows it, then a line a GAN, those of which nothing can be told last."""
    verdicts = [Verdict(**one) for one in report.get("limitations", ())]
    given = [
        Concern(**{**one, "criteria": tuple(Criterion(**each) for each in one["criteria"])})
        for one in report.get("concerns", ())  # none in a report of an earlier version
    ]
    lines: list[str] = []
    for concern in concerns_of(given, verdicts):
        lines.append(f"{concern.text}\n  {judged(concern)}")
        mine = [one for one in verdicts if one.claim == concern.claim]
        lines += [f"    {_answer(one, mine)}" for one in mine if one.leading]
        untold = [one for one in report.get("unmeasured", ()) if one["claim"] == concern.claim]
        for reason in dict.fromkeys(one["reason"] for one in untold):
            names = ", ".join(one["gan"] for one in untold if one["reason"] == reason)
            lines.append(f"    {names}: not measured: {reason}")
    return "\n".join([*lines, *filter(None, [expected_false(verdicts)])])


def _answer(lead: Verdict, mine: Sequence[Verdict]) -> str:
    """A GAN's verdict with its own figure and threshold, and further checks that are shown."""
    figure = f"{quantity(lead)} {figure_of(lead)}"
    remedy = [in_words(lead.remedy)] if lead.remedy else []
    if lead.alone:
        parts = [f"{word_of(lead)}: {'; '.join(remedy)} (alone: {figure})"]
    else:
        parts = [f"{word_of(lead)}: {told_in_line(lead)}", *remedy]
    also = [told_in_line(one) for one in mine if one.gan == lead.gan and not one.leading and one.verdict == "shown"]
    return f"{lead.gan}: " + "; ".join([*parts, *(f"also shown: {one}" for one in also)])


def ingest_tables(meta: Mapping[str, Any]) -> str:
    """The sum over all files, why some were left out, which header fields go with the label, and the warnings.

    Args:
        meta: of a dataset artifact's manifest.
    """
    found = meta["found"]
    parts = ("kept", "duplicates", "quarantined", "set_aside", "unlabelled")
    listing = " + ".join(f"{found[part]} {part.replace('_', ' ')}" for part in parts)
    texts = [f"{found['files']} files = {listing}; {found['slices']} slices kept"]
    reasons = meta["quarantine"]["reasons"]
    if reasons:
        texts.append("\n".join(f"{one['count']:>7} {one['status']}: {one['reason']}" for one in reasons))
    flagged = [one for one in meta.get("audit", ()) if one["flagged"]]
    if flagged:
        table = pd.DataFrame(flagged)[["field", "auc", "low", "high", "patients"]]
        texts.append("Header fields that predict the label on their own\n" + _text(table.set_index("field")))
    texts += [f"! {warning}" for warning in meta["warnings"]]
    return "\n".join(texts)


def _text(table: pd.DataFrame) -> str:
    return str(table.to_string(float_format="{:.3f}".format, na_rep="–"))
