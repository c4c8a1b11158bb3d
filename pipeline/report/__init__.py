"""Result rows in, ``report.html`` and ``report.json`` out."""

from pipeline.report.build import write_report

__all__ = ["write_report"]
