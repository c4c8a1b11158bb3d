"""The tables of a finished report, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.records import Verdict
from pipeline.report.limitations import expected_false, figure_of

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
    if data := report.get("limitations"):
        parts.append(
            "Limitations: claims of the literature, each by its leading figure and its 95 % interval\n"
            + _scorecard([Verdict(**one) for one in data])
        )
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


def _scorecard(verdicts: Sequence[Verdict]) -> str:
    """Claim by claim, one line a GAN."""
    lines: list[str] = []
    told = ""
    for one in verdicts:
        if not one.leading:
            continue
        if one.claim != told:
            lines.append(f"{one.text} (shown if {one.check} is {one.side} {one.threshold:g})")
            told = one.claim
        against = f" against {one.against}" if one.against else ""
        remedy = f"; {one.remedy}" if one.remedy else ""
        lines.append(f"    {one.gan}{against}: {one.verdict}, {one.metric} {figure_of(one)}{remedy}")
    return "\n".join([*lines, *filter(None, [expected_false(verdicts)])])


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
