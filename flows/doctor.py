"""``medaug doctor``: what this machine offers, in one look."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import Any

import torch

from flows.compare import versions
from flows.preflight import check_address, check_output
from flows.tracking import tracking_uri
from pipeline.device import has_bfloat16
from pipeline.records import MedaugError


def examine(runs: Path) -> dict[str, Any]:
    """Versions, devices, disk and services; problems come last, one line each.

    Returns:
        The findings as plain data, with ``text`` for people; ``status`` is "done" where nothing is wrong.
    """
    problems: list[str] = []
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["CPU"]
    uri = tracking_uri(None, runs)
    prefect = os.environ.get("PREFECT_API_URL", "")
    checks = [lambda: check_output(runs)]
    if uri.startswith("http"):
        checks.append(lambda: check_address("MLflow", uri, "/health", "start it, or change MLFLOW_TRACKING_URI"))
    if prefect:
        checks.append(lambda: check_address("Prefect", prefect, "/health", "start it, or change PREFECT_API_URL"))
    for check in checks:
        try:
            check()
        except MedaugError as error:
            problems.append(str(error))
    findings: dict[str, Any] = {
        "versions": versions(),
        "platform": platform.platform(),
        "devices": devices,
        "threads": torch.get_num_threads(),
        "bfloat16": has_bfloat16("cuda" if torch.cuda.is_available() else "cpu"),
        "runs": str(runs.resolve()),
        "free_gib": round(shutil.disk_usage(runs if runs.is_dir() else Path()).free / 2**30, 1),
        "mlflow": uri,
        "prefect": prefect or "in this process",
        "problems": problems,
    }
    lines = [f"{name:<10} {value}" for name, value in findings.items() if name not in ("versions", "problems")]
    lines += [f"{name:<12} {version}" for name, version in findings["versions"].items()]
    lines += [f"problem: {problem}" for problem in problems] or ["nothing is wrong"]
    return {"status": "failed in part" if problems else "done", **findings, "text": "\n".join(lines)}
