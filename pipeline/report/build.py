"""Writes ``report.html`` (one file, no network, no scripts) and ``report.json``."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from pipeline.records import MedaugError, ReportInput
from pipeline.report.answers import Answer, answers
from pipeline.report.arm_tables import classifier_tables, contrast_table
from pipeline.report.contrasts import Comparison, Contrast, comparisons
from pipeline.report.curves import fidelity_panels, training_panels
from pipeline.report.data_tables import data_view
from pipeline.report.detail_tables import confusion_table, subgroup_table, variation_table
from pipeline.report.estimates import FLOOR, RATIO, Estimate, Evidence
from pipeline.report.gains import forest_panels, fraction_panels, reliability_panels, worth_panels
from pipeline.report.images import sources
from pipeline.report.limitations import scorecard, unmeasured
from pipeline.report.numbers import MINUS, MISSING, plain
from pipeline.report.sentences import sentence
from pipeline.report.tables import class_tables, fidelity_bases, gan_table
from pipeline.report.words import ARMS, GLOSSARY, family_of, metric_of, metric_order, split_class

SCHEMA = 1
HTML = "report.html"
JSON = "report.json"
TEMPLATES = ("report.html.jinja", "limitations.html.jinja", "macros.html.jinja")
STYLES = ("style.css", "limitations.css")


def write_report(data: ReportInput, folder: Path) -> None:
    """Writes the report; each of its two files is replaced whole or not at all.

    The output depends on ``data`` alone: equal input, equal bytes.

    Args:
        data: everything that the report shows. Missing parts leave a dash and its reason.
        folder: where ``report.html`` and ``report.json`` go; made if need be.

    Raises:
        MedaugError: the folder cannot be written to.
    """
    html, facts = render_html(data), json.dumps(report_facts(data), indent=1, ensure_ascii=False, allow_nan=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / HTML, html)
        _replace(folder / JSON, facts + "\n")
    except OSError as error:
        raise MedaugError(f"report folder {folder}: {error.strerror}; give a folder that can be written to") from None


def _replace(file: Path, text: str) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}.{os.urandom(3).hex()}")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def render_html(data: ReportInput) -> str:
    """The page as text."""
    evidence = Evidence(data)
    found = comparisons(data.rows, evidence.endpoint)
    here = resources.files("pipeline.report")
    environment = Environment(
        loader=DictLoader({name: (here / name).read_text(encoding="utf-8") for name in TEMPLATES}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = unbroken
    return environment.get_template(TEMPLATES[0]).render(
        style=Markup("".join((here / name).read_text(encoding="utf-8") for name in STYLES)),
        data=data,
        evidence=evidence,
        endpoint=metric_of(evidence.endpoint).label,
        answers=answers(evidence, found),
        warnings=warnings_of(data),
        gan_table=gan_table(evidence),
        class_tables=class_tables(evidence),
        sources=sources(evidence),
        scorecard=scorecard(evidence),
        fidelity=fidelity_panels(evidence),
        training=training_panels(evidence),
        classifiers=classifier_tables(evidence),
        forests=forest_panels(evidence, found),
        fractions=fraction_panels(evidence, found),
        worth=worth_panels(evidence),
        reliability=reliability_panels(evidence),
        variation=variation_table(evidence),
        subgroups=subgroup_table(evidence),
        confusions=confusion_table(evidence),
        contrasts=contrast_table(evidence, found),
        arms={arm: text for arm, text in ARMS.items() if any(row.arm == arm for row in data.rows)},
        dataset=data_view(data.dataset),
        config=_as_yaml(data.config) if data.config else "",
        glossary=_glossary(evidence),
        json_name=JSON,
        missing=MISSING,
    )


def _as_yaml(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)


def unbroken(text: str) -> str:
    """Keeps an interval and a p-value on one line: ``(0.1 to 0.2)``, ``Holm p = 0.62``, ``23 test patients``."""
    pattern = rf"\(?[{MINUS}+\d.,]+ to [{MINUS}+\d.,]+\)|Holm p [=<] [\d.]+|\d+ × floor|\d+ test (?:patient|image)s?"
    return re.sub(pattern, lambda found: found[0].replace(" ", "\u00a0"), text)


def warnings_of(data: ReportInput) -> tuple[str, ...]:
    """The run's warnings, then the dataset's own that are not among them."""
    own = data.dataset.get("warnings", ())
    listed = [str(one) for one in own] if isinstance(own, list | tuple) else []
    return tuple(dict.fromkeys([*data.warnings, *listed]))


def _glossary(evidence: Evidence) -> tuple[tuple[str, str], ...]:
    """Every metric of the run once: parts, floors and classes of one are explained with it."""
    bases = {
        split_class(row.metric.removeprefix(FLOOR).removeprefix(RATIO), evidence.classes)[0]
        for row in evidence.data.rows
    }
    families = {base if family_of(base) in ("fid", "kid") else family_of(base) for base in bases}
    known = [metric_of(base) for base in sorted(filter(None, families), key=metric_order)]
    return (*((one.label, one.meaning) for one in known if one.meaning), *GLOSSARY)


def report_facts(data: ReportInput) -> dict[str, Any]:
    """The report as JSON data; NaN and infinities are null."""
    evidence = Evidence(data)
    found = comparisons(data.rows, evidence.endpoint)
    facts = {
        "schema": SCHEMA,
        "title": data.title,
        "headline": data.headline,
        "primary_endpoint": evidence.endpoint,
        "answers": [_answer(one) for one in answers(evidence, found)],
        "warnings": warnings_of(data),
        "classes": evidence.classes,
        "gans": [_gan(evidence, gan.name) for gan in evidence.gans],
        "floor": {
            metric: _estimate(evidence.floor(*split_class(metric, evidence.classes))) for metric in _metrics(evidence)
        },
        "verdicts": [_comparison(one) for one in found],
        "contrasts": [_contrast(one) for comparison in found for one in comparison.contrasts],
        "limitations": [asdict(one) for one in data.verdicts],
        "concerns": [asdict(one) for one in data.concerns],
        "unmeasured": unmeasured(evidence),
        "rows": [asdict(row) for row in data.rows],
        "dataset": {key: value for key, value in data.dataset.items() if "hash" not in str(key)},
        "config": data.config,
        "provenance": data.provenance,
        "links": data.links,
    }
    cleaned: dict[str, Any] = plain(facts)
    return cleaned


def _answer(one: Answer) -> dict[str, Any]:
    return {
        "question": one.question,
        "answer": one.short,
        "plain": list(one.plain),
        "points": [asdict(point) for point in one.points],
    }


def _metrics(evidence: Evidence) -> list[str]:
    overall = list(fidelity_bases(evidence))
    return overall + [f"{base}.{name}" for base in fidelity_bases(evidence, by_class=True) for name in evidence.classes]


def _estimate(one: Estimate | None) -> dict[str, Any] | None:
    return None if one is None else asdict(one)


def _gan(evidence: Evidence, name: str) -> dict[str, Any]:
    gan = evidence.gan(name)
    assert gan is not None, name
    metrics = {}
    for metric in _metrics(evidence):
        base, of_class = split_class(metric, evidence.classes)
        one = evidence.score(name, base, of_class)
        if one is not None:
            metrics[metric] = {**asdict(one), "lead": evidence.leader(base, of_class) == name}
            if base.startswith("fid."):
                metrics[metric]["ratio_to_floor"] = evidence.ratio(name, base, of_class)
    trainings = [
        {key: value for key, value in asdict(one).items() if key not in ("gan", "curves", "samples", "timeline")}
        for one in gan.trainings
    ]
    return {"gan": name, "status": gan.status, "trainings": trainings, "metrics": metrics}


def _comparison(one: Comparison) -> dict[str, Any]:
    return {
        "gan": one.gan,
        "gan_seed": one.gan_seed,
        "ratio": one.ratio,
        "classifier": one.classifier,
        "fraction": one.fraction,
        "variant": one.variant,
        "plain": sentence(one),
        "verdict": one.verdict,
        "told": one.told,
    }


def _contrast(one: Contrast) -> dict[str, Any]:
    return {
        **asdict(one.row),
        "p": one.p,
        "holm_p": one.holm,
        "smallest": one.smallest,
        "verdict": one.verdict,
        "why": one.why,
    }
