"""The ``medaug`` command.

Exit codes: 0 done; 1 something failed while running; 2 the input, the configuration or the usage is wrong.
Progress and messages go to stderr; with ``--json`` one JSON object goes to stdout and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flows.environment import prepare
from pipeline.records import MedaugError, PrivateError

Result = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], Result] = options.command
    try:
        result = command(options)
    except KeyboardInterrupt:
        print("medaug: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    except PrivateError as error:
        return _fail(options, 2, error.detail)
    except MedaugError as error:
        return _fail(options, 2, str(error))
    except Exception as error:
        if os.environ.get("MEDAUG_TRACEBACK"):
            raise
        return _fail(
            options, 1, f"{_full_disk(options)}{type(error).__name__}: {error} (MEDAUG_TRACEBACK=1 shows where)"
        )
    text = result.pop("text", "")
    print(json.dumps(result) if options.json else text, flush=True)
    return 1 if result.get("status") == "failed in part" else 0


def _full_disk(options: argparse.Namespace) -> str:
    """Says so where the runs folder's disk is full: SQLite and HTTP report that in words that hide it."""
    runs = next((folder for folder in (options.runs, Path("runs"), Path()) if folder and folder.is_dir()), Path())
    full = shutil.disk_usage(runs).free < 2**24
    return f"the disk of {runs} is full; free some, and the same command goes on where it stopped. " if full else ""


def _fail(options: argparse.Namespace, code: int, message: str) -> int:
    line = " ".join(message.split())
    print(f"medaug: {line}", file=sys.stderr)
    if options.json:
        print(json.dumps({"status": "failed" if code == 1 else "refused", "error": line}), flush=True)
    return code


def _run(options: argparse.Namespace) -> Result:
    from flows.configuration import load_experiment

    config = load_experiment(options.config, options.set, options.data, options.labels, options.runs)
    prepare(config.runs)
    from flows.run import run_experiment

    return run_experiment(config, options.until)


def _ingest(options: argparse.Namespace) -> Result:
    result = _run(options)
    if options.deidentified is None:
        return result
    from flows.configuration import load_experiment
    from flows.exports.deidentified import export_scans

    config = load_experiment(options.config, options.set, options.data, options.labels, options.runs)
    exported = export_scans(config, Path(result["dataset"]), options.deidentified)
    return {**result, **exported, "text": f"{result['text']}\n{exported['text']}"}


def _synthesize(options: argparse.Namespace) -> Result:
    if options.source.endswith((".yaml", ".yml")):
        if options.out:
            raise MedaugError("--out goes with a generator; an experiment keeps its synthetic sets in its runs folder")
        options.config, options.until = Path(options.source), "synthesize"
        return _run(options)
    if not options.out:
        raise MedaugError(f"synthesize {options.source}: --out DIR is missing; the synthetic set is written there")
    runs = options.runs or Path("runs")
    prepare(runs)
    from flows.exports.export import ExportRequest, export

    return export(
        ExportRequest(
            options.source,
            options.out,
            options.format,
            options.per_class,
            options.truncation,
            options.seed,
            runs,
            options.training,
            options.copy_check,
            options.licence,
        )
    )


def _compare(options: argparse.Namespace) -> Result:
    from flows.configuration import load_experiment
    from flows.context import Context
    from flows.tables import report_tables

    config = load_experiment(options.config, options.set, options.data, options.labels, options.runs)
    report = Context(config, uri="").report_folder / "report.json"
    if not report.is_file():
        raise MedaugError(f"{report}: no report yet; run 'medaug run {options.config}' first")
    data = json.loads(report.read_text(encoding="utf-8"))
    limitations = data.get("limitations", [])  # none in a report of an earlier version
    found = {"rows": data["rows"], "limitations": limitations}
    return {"status": "done", "report": str(report), **found, "text": report_tables(data)}


def _serve(options: argparse.Namespace) -> Result:
    runs = (options.runs or Path("runs")).resolve()  # the scheduled process may start elsewhere
    prepare(runs)
    from flows.deployments import serve

    serve(options.config, runs, options.port)
    return {"status": "done", "text": ""}


def _phantom(options: argparse.Namespace) -> Result:
    from flows.progress import progress_bar
    from pipeline.phantom import write_phantoms

    if options.folder.exists():
        raise MedaugError(f"{options.folder}: exists already; give a new folder")
    with progress_bar("phantoms", "patients") as progress:
        write_phantoms(options.folder, options.patients, options.size, options.seed, progress)
    labels = options.folder / "labels.csv"
    scans = options.folder / "dicom"
    text = f"Now: medaug run EXPERIMENT.yaml --data {scans} --labels {labels}"
    return {"status": "done", "data": str(scans), "labels": str(labels), "text": text}


def _doctor(options: argparse.Namespace) -> Result:
    runs = options.runs or Path("runs")
    prepare(runs)
    from flows.doctor import examine

    return examine(runs)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="one JSON object on stdout, nothing else")
    common.add_argument(
        "--runs", type=Path, help="folder of artifacts, reports and databases (default: the YAML's, else ./runs)"
    )

    experiment = argparse.ArgumentParser(add_help=False, parents=[common])
    experiment.add_argument(
        "--data", type=Path, metavar="PATH", help="folder, zip, tar, DICOMDIR, list of files, or npz with the scans"
    )
    experiment.add_argument(
        "--labels", type=Path, metavar="FILE", help="CSV or Parquet with file (or a UID, or PatientID) and label"
    )
    experiment.add_argument(
        "--set", action="append", default=[], metavar="a.b=c", help="override one value; repeatable"
    )

    parser = argparse.ArgumentParser(
        prog="medaug", description="Class-conditional GAN augmentation for medical images."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, text: str, command: Callable[[argparse.Namespace], Result], parent: argparse.ArgumentParser
    ) -> Any:
        sub = commands.add_parser(name, help=text, description=text, parents=[parent])
        sub.set_defaults(command=command)
        return sub

    stages = {
        "run": ("the whole experiment, ending in the report", "report"),
        "ingest": ("scans to a dataset artifact", "ingest"),
        "train": ("... and train the GANs", "train"),
        "score": ("... and draw and score synthetic sets", "score"),
        "classify": ("... and train the classifiers of every arm", "classify"),
    }
    for name, (text, until) in stages.items():
        sub = add(name, text, _ingest if name == "ingest" else _run, experiment)
        sub.add_argument("config", type=Path, help="an experiment's YAML, e.g. configs/experiment/quickstart.yaml")
        sub.set_defaults(until=until)
        if name == "ingest":
            sub.add_argument(
                "--deidentified", type=Path, metavar="DIR", help="write the scans there as de-identified DICOM, too"
            )

    sub = add(
        "synthesize",
        "draw from a generator or export a synthetic set, or run an experiment up to its synthetic sets",
        _synthesize,
        experiment,
    )
    sub.add_argument(
        "source",
        help="an experiment's YAML; or a generator's or synthetic artifact's folder, or an MLflow URI "
        "(models:/NAME@best, models:/NAME/VERSION, runs:/ID/generator)",
    )
    sub.add_argument("--out", type=Path, help="where the images go; must not exist yet")
    sub.add_argument(
        "--per-class", type=int, help="images of each class (default: 100 of a generator, all of a synthetic set)"
    )
    sub.add_argument("--truncation", type=float, help="above 0, at most 1 (default 1: no truncation)")
    sub.add_argument("--seed", type=int, help="of the drawing (default 0)")
    sub.add_argument("--format", choices=("artifact", "dicom", "png", "npz", "imagefolder"), default="artifact")
    sub.add_argument(
        "--training", type=Path, metavar="DIR", help="the dataset artifact it was trained on, where --runs has it not"
    )
    sub.add_argument(
        "--no-copy-check", dest="copy_check", action="store_false", help="do not leave out copies of training images"
    )
    sub.add_argument("--licence", default="", metavar="TEXT", help="of the source data, for the datasheet")

    sub = add("compare", "the tables of a finished experiment", _compare, experiment)
    sub.add_argument("config", type=Path, help="the experiment's YAML")

    sub = add("serve", "put an experiment on a schedule", _serve, common)
    sub.add_argument("config", type=Path, help="a deployment's YAML, e.g. configs/deployment/nightly.yaml")
    sub.add_argument(
        "--port", type=int, default=4200, help="of an own Prefect server, where PREFECT_API_URL is not set"
    )

    sub = add("phantom", "write procedural CT phantoms as DICOM files", _phantom, common)
    sub.add_argument("folder", type=Path)
    sub.add_argument("--patients", type=int, default=90)
    sub.add_argument("--size", type=int, default=128, help="pixels of a side")
    sub.add_argument("--seed", type=int, default=0)

    add("doctor", "what this machine offers, and what is missing", _doctor, common)
    return parser


if __name__ == "__main__":
    sys.exit(main())
