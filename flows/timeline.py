"""When a training had seen how many images: what "trains faster" is measured by. Kept beside its checkpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from medgan.sample import LoadedGenerator

Snapshot = Callable[[int, LoadedGenerator], Mapping[str, float]]
FILE = "timeline.json"


class Timeline:
    """Seconds of training at each snapshot.

    What the snapshots themselves take does not count. A training that was killed goes on from the time of the last
    snapshot that it does not make again; what it had done after that is not counted.

    The clock runs from here on: make it when the device is there.

    Args:
        folder: the training's scratch folder.
    """

    def __init__(self, folder: Path):
        self.file = folder / FILE
        self.points: list[tuple[float, float]] = []
        if self.file.is_file():
            self.points = [(x, y) for x, y in json.loads(self.file.read_text(encoding="utf-8"))]
        self.started = time.monotonic()
        self.resumed = bool(self.points)

    def stamped(self, measure: Snapshot) -> Snapshot:
        """The same snapshot function, which notes the time first."""

        def call(images_seen: int, generator: LoadedGenerator) -> Mapping[str, float]:
            now = time.monotonic()
            earlier = [point for point in self.points if point[0] < images_seen]  # a rollback abandons later ones
            if self.resumed and earlier:
                self.started -= earlier[-1][1]
            self.resumed = False
            self.points = [*earlier, (float(images_seen), now - self.started)]
            unfinished = self.file.with_suffix(".unfinished")
            unfinished.write_text(json.dumps(self.points), encoding="utf-8")
            unfinished.replace(self.file)
            try:
                return measure(images_seen, generator)
            finally:
                self.started += time.monotonic() - now

        return call
