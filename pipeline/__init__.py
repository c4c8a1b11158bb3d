"""Data in, data out: scans become immutable dataset artifacts, result rows become a report."""

from typing import Any

__all__ = ["ScanDataset"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `import pipeline.records` stays free of torch.
    if name == "ScanDataset":
        from pipeline.dataset import ScanDataset

        return ScanDataset
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
