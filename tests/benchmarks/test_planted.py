"""Each planted defect is seen by the probes that are for it, and by no other; real images of other patients by none."""

from __future__ import annotations

import pytest

from tests.benchmarks.planted import images_table, is_shown
from tests.benchmarks.planted_generators import generators

pytestmark = pytest.mark.slow

SEEN = {
    "none: other patients": set(),
    "half of the images repeated": {"excess.duplicates"},
    "one class drawn as another": {
        *("excess.ndb", "floor_ratio.coverage"),
        *("worst.conditional_recall", "loss.conditional_accuracy"),
    },
    "one class absent": {"worst.conditional_recall"},
    "labels shuffled": {"loss.conditional_accuracy"},
    # two slices of each copied patient, which are alike
    "10 % training images, moved or re-windowed": {"excess.copies", "excess.duplicates"},
    "high frequencies removed": {"excess.spectrum", "floor_ratio.swd.64"},
    "checkerboard": {"spectrum.corner", "floor_ratio.swd.64"},
    "30 % mirrored": {"leak.flip"},
    "one class a single image": {"excess.ms_ssim", "excess.duplicates", "worst.conditional_recall"},
}
"""Defect -> columns in which it shows; it shows in no other."""
UNMEASURED = {"one class absent": {"floor_ratio.recall", "floor_ratio.coverage"}}
"""Defect -> columns without a figure: a set in the real proportions of classes cannot be drawn."""
QUIET_IN_W = "z swirled by the mapping, w straight"


def test_every_defect_of_images_is_seen_by_its_probes_alone():
    table = images_table()
    shown = {
        defect: {column for column, one in found.items() if is_shown(column, one)} for defect, found in table.items()
    }
    assert shown == SEEN
    for defect, found in table.items():
        missing = {column for column, one in found.items() if one is None}
        assert missing == UNMEASURED.get(defect, set()), defect


def test_every_defect_of_generators_is_seen_and_a_straight_w_is_not_blamed_for_its_z():
    rows = list(generators())
    quiet = {(row.defect, row.probe) for row in rows if not row.seen}
    assert quiet == {(QUIET_IN_W, f"{name}.w") for name in ("ppl", "separability", "edit_purity", "edit_control")}
    assert {row.probe for row in rows if row.seen} >= {"droplets", "pinning", "noise.low_pass", "ppl.w", "ppl.z"}
