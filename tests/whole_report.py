"""Is a report whole? ``python tests/whole_report.py runs/reports/quickstart``; exits 1 and says what is missing."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

FIDELITY = {"kid.domain", "fid.domain", "precision", "recall", "density", "coverage"}

PROBED = ("duplicates", "ms_ssim", "swd", "spectrum", "ppl.z", "conditional_recall", "divergence")


class _Loads(HTMLParser):
    """Everything a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.images = 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.images += tag == "img"
        source = values.get("src") or (values.get("href") if tag == "link" else None)
        if source and not source.startswith("data:"):
            self.fetched.append(source)


def faults(folder: Path, gans: set[str], arms: set[str]) -> list[str]:
    """What is missing from a report that should hold these GANs and arms; nothing where it is whole."""
    html = (folder / "report.html").read_text(encoding="utf-8")
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    rows = report["rows"]
    page = _Loads()
    page.feed(html)
    found = [f"the page loads {source[:80]}" for source in page.fetched]
    if re.search(r"url\(\s*['\"]?https?:", html):
        found.append("the style sheet loads something")
    if page.images < len(gans):
        found.append(f"{page.images} pictures for {len(gans)} GANs")
    for gan in sorted(gans):
        missing = FIDELITY - {row["metric"] for row in rows if row["gan"] == gan and row["stage"] == "score"}
        found += [f"{gan}: no {metric}" for metric in sorted(missing)]
        contrasts = {row["arm"] for row in rows if row["stage"] == "contrast" and row["gan"] == gan}
        found += [f"{gan}: no contrast {arm}" for arm in sorted({"D-B", "D-C"} - contrasts) if "D" in arms]
    classified = {row["arm"] for row in rows if row["stage"] == "classify" and row["metric"] == "auroc"}
    found += [f"no classifier for arm {arm}" for arm in sorted(arms - classified)]
    verdicts = report["limitations"]
    found += [f"{gan}: no limitation was judged" for gan in sorted(gans - {one["gan"] for one in verdicts})]
    found += [f"{one['claim']}: {one['verdict']} without a number" for one in verdicts if one["value"] is None]
    probes = {(row["gan"], row["metric"]) for row in rows if row["stage"] == "probe"}
    found += [f"{gan}: no {name}" for gan in sorted(gans) for name in PROBED if (gan, name) not in probes]
    if not any(row["metric"].startswith("floor.kid") for row in rows):
        found.append("no real-against-real floor")
    return found


if __name__ == "__main__":
    complaints = faults(Path(sys.argv[1]), {"dcgan", "pggan", "stylegan", "stylegan2"}, {"A", "B", "C", "D"})
    sys.stdout.write("".join(f"{line}\n" for line in complaints) or "the report is whole\n")
    sys.exit(bool(complaints))
