"""Copies, near-duplicates: planted ones are found, new patients stay quiet."""

import numpy as np
import pytest
import torch

from flows.probes import excess
from medgan.metrics import copies as module
from medgan.metrics.copies import conformal_threshold, copies, copies_in_features, without_copies
from medgan.metrics.duplicates import duplicates
from medgan.metrics.duplicates import picture as duplicates_picture
from medgan.metrics.likeness import SHIFT, bands, best_matches
from medgan.metrics.measured import Measured, TooFewImagesError
from pipeline.records import MedaugError
from tests.unit.probe_images import generator, mednist, phantoms, small


def rewindowed(images, low=-0.8, high=0.7, gamma=1.3):
    inside = ((images - low) / (high - low)).clamp(0, 1)
    return 2 * inside**gamma - 1


def moved(images, down, across):
    """Moved with the border's values continued, as a shifted field of view would show it."""
    pad = torch.nn.functional.pad(images, (2, 2, 2, 2), mode="replicate")
    height, width = images.shape[2:]
    return pad[:, :, 2 - down : 2 - down + height, 2 - across : 2 - across + width]


def split():
    train, _, owners = phantoms(120, 64, seed=1)
    validation, _, held_out = phantoms(40, 64, seed=2)
    new, _, _ = phantoms(80, 64, seed=3, slices=1)
    return train, owners, validation, held_out, new


def test_matches_equal_the_slow_correlation_at_every_shift():
    x, y = torch.randn(5, 14, 11, generator=generator()), torch.randn(7, 14, 11, generator=generator(1))
    found = best_matches(x, y)
    h, w = 14 - 2 * SHIFT, 11 - 2 * SHIFT
    for i in range(5):
        alike = np.full(7, -2.0)
        for j in range(7):
            middle = y[j, SHIFT : SHIFT + h, SHIFT : SHIFT + w].double().numpy().ravel()
            for down in range(2 * SHIFT + 1):
                for across in range(2 * SHIFT + 1):
                    window = x[i, down : down + h, across : across + w].double().numpy().ravel()
                    alike[j] = max(alike[j], np.corrcoef(window, middle)[0, 1])
        assert float(found.similarity[i]) == pytest.approx(alike.max(), abs=1e-6)
        assert int(found.index[i]) == int(alike.argmax())


def test_blocks_do_not_change_matches(monkeypatch):
    x, y = torch.randn(30, 12, 12, generator=generator()), torch.randn(40, 12, 12, generator=generator(1))
    whole = best_matches(x, y)
    monkeypatch.setattr("medgan.metrics.likeness.QUERIES", 7)
    monkeypatch.setattr("medgan.metrics.likeness.GALLERY", 9)
    parts = best_matches(x, y)
    assert torch.equal(whole.index, parts.index)
    assert torch.allclose(whole.similarity, parts.similarity, atol=1e-6)


def test_images_of_one_owner_are_not_compared():
    x = torch.randn(6, 12, 12, generator=generator())
    owner = torch.tensor([0, 0, 1, 1, 2, 2])
    found = best_matches(x, x, owner, owner)
    assert bool((owner[found.index] != owner).all())
    assert float(found.similarity.max()) < 0.9


@pytest.mark.parametrize(
    "change",
    [
        lambda x: 0.6 * x - 0.2,
        lambda x: moved(x, 2, -1),
        lambda x: moved(x, -2, 2),
        rewindowed,
        lambda x: x + 0.05 * torch.randn(x.shape, generator=generator(9)),
        lambda x: torch.nn.functional.avg_pool2d(
            torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1
        ),
    ],
    ids=["brightness", "moved", "moved twice", "rewindowed", "noisy", "blurred"],
)
def test_a_changed_picture_is_more_alike_to_its_original_than_any_new_patient_is(change):
    train, _, validation, _, _ = split()
    gallery = bands(train[:, 0])
    new = best_matches(bands(validation[:, 0]), gallery).similarity
    found = best_matches(bands(change(train[:40])[:, 0]), gallery)
    assert torch.equal(found.index, torch.arange(40))
    assert float(found.similarity.min()) > float(new.max())


def test_planted_copies_are_found_and_named_and_new_patients_are_not():
    train, _, validation, held_out, new = split()
    planted = torch.cat([train[:6], moved(train[6:12], 2, 2), rewindowed(train[12:18])])
    synthetic = torch.cat([new, planted])
    found = copies(train, validation, synthetic, held_out)
    assert found.mask[len(new) :].all()
    assert found.nearest[len(new) :].tolist() == list(range(18))
    # of new patients' images about 1 % pass; 4 of 80 has a probability below 1 %
    assert int(found.mask[: len(new)].sum()) <= 4
    assert found.share.value == pytest.approx(float(found.mask.double().mean()))
    assert found.share.low <= 18 / len(synthetic) <= found.share.high
    assert {pair[0] for pair in found.pairs} == set(found.mask.nonzero()[:, 0].tolist())
    assert torch.equal(without_copies(synthetic, found), synthetic[~found.mask])
    assert found.floor is not None
    assert found.floor.value < 0.1


def test_new_patients_share_of_copies_is_what_was_promised():
    train, _, validation, held_out, new = split()
    found = copies(train, validation, new, held_out)
    assert found.expected == pytest.approx(1 / 81)
    assert found.share.low < found.expected
    assert found.share.value < 0.05


def test_a_validation_image_that_is_a_training_image_does_not_blind_the_probe():
    train, _, validation, held_out, _ = split()
    # the same pictures under other patients, as public sets have them
    spoilt = torch.cat([validation, train[:8]])
    patients = torch.cat([held_out, torch.arange(1000, 1008)])
    found = copies(train, spoilt, rewindowed(train[20:40]), patients)
    assert found.share.value == 1.0
    assert "88 validation images; 8 of them, the same picture" in found.share.note
    # a threshold from 80 others, which 8 and one more of 89 pass
    assert found.expected == pytest.approx(9 / 89)
    assert excess(found.share, found.expected, found.calibrated).low > 0.5


def doubled() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Training, validation and new images of one pool, in which every fourth picture has a double somewhere."""
    pool, _, _ = phantoms(240, 64, seed=7, slices=1)
    pool = torch.cat([pool, pool[:60] + 0.005 * torch.randn(60, 1, 64, 64, generator=generator(3))])
    pool = pool[torch.randperm(300, generator=generator(4))]
    return pool[:120], pool[120:200], pool[200:]


def test_real_images_stay_quiet_where_the_split_parts_doubles_and_copies_do_not():
    train, validation, new = doubled()
    found = copies(train, validation, new)
    quiet = excess(found.share, found.expected, found.calibrated)
    assert found.share.low > 0.03  # real pictures of which training images are doubles
    assert quiet.low < 0.01
    assert abs(quiet.value) < 0.1
    assert found.floor.low < found.floor.value < 2 * found.expected
    planted = copies(train, validation, torch.cat([new, moved(train[:50], 1, 1)]))
    assert excess(planted.share, planted.expected, planted.calibrated).low > 0.1


def test_doubles_among_real_images_are_expected_among_synthetic_ones_too():
    train, validation, new = doubled()
    found = duplicates(torch.cat([train, validation]), new)
    assert found.share.low > 0.01
    assert excess(found.share, found.expected, found.calibrated).low < 0.05
    again = duplicates(torch.cat([train, validation]), torch.cat([new, rewindowed(new)]))
    assert excess(again.share, again.expected, again.calibrated).low > 0.5


def test_an_expected_share_is_as_sure_as_its_patients_are_many():
    share = Measured(0.03, 0.01, 0.06)
    ends = [excess(share, 0.01, patients) for patients in (20, 1000)]
    assert ends[0].value == ends[1].value == pytest.approx(0.02)
    assert ends[0].low < -0.1 < 0.0 - 0.005 < ends[1].low


def test_copies_in_features_are_found_and_dense_regions_are_none():
    train, owners, validation, held_out, new = split()
    copied = small(train[:10]) + 1e-3
    found = copies_in_features(small(train), small(validation), torch.cat([small(new), copied]), owners, held_out)
    assert found.mask[len(new) :].all()
    assert found.nearest[len(new) :].tolist() == list(range(10))
    assert float(found.mask[: len(new)].double().mean()) < 0.06


def test_a_copy_of_a_training_image_that_has_a_double_is_found_in_features():
    x = torch.randn(60, 5, generator=generator(), dtype=torch.float64)
    train = torch.cat([x, x[:1]])  # the double under another patient
    validation = torch.randn(40, 5, generator=generator(1), dtype=torch.float64)
    assert bool(copies_in_features(train, validation, x[:2] + 1e-6).mask.all())


def test_the_conformal_threshold_keeps_its_promise():
    draws = torch.rand(4000, 50, generator=generator(), dtype=torch.float64)
    passed = torch.tensor([float(row[-1]) > conformal_threshold(row[:-1])[0] for row in draws]).double().mean()
    expected = conformal_threshold(draws[0, :-1])[1]
    assert expected == 1 / 50
    assert float(passed) == pytest.approx(expected, abs=4 * (expected / 4000) ** 0.5)
    assert conformal_threshold(torch.arange(500.0))[0] == 495.0  # the fifth highest of 500


def test_the_picture_shows_copies_above_their_originals():
    train, _, validation, held_out, _ = split()
    found = copies(train, validation, train[30:33], held_out)
    shown = module.picture(train, train[30:33], found)
    height = train.shape[2]
    assert shown.dtype == np.uint8
    assert shown.shape == (2 * height + 2, 3 * 64 + 4)
    assert np.array_equal(shown[:height], shown[height + 2 :])


def test_too_few_validation_images_set_no_threshold():
    train, _, validation, _, new = split()
    with pytest.raises(TooFewImagesError, match="19 validation"):
        copies(train, validation[:19], new)


def test_images_that_were_not_judged_are_not_filtered():
    train, _, validation, _, new = split()
    found = copies(train, validation, new)
    with pytest.raises(MedaugError, match="expected the 80"):
        without_copies(new[:10], found)


# ---------------------------------------------------------------- near-duplicates


def test_repeated_images_are_near_duplicates_and_new_patients_are_not():
    train, _, owners = phantoms(120, 64, seed=1)
    new, _, _ = phantoms(80, 64, seed=3, slices=1)
    quiet = duplicates(train, new, owners)
    assert quiet.share.low < quiet.expected + 0.01
    assert quiet.share.value < 0.06
    half = torch.cat([new[:40], moved(new[:40], 1, 1) + 0.02 * torch.randn(40, 1, 64, 64, generator=generator())])
    planted = duplicates(train, half, owners)
    assert planted.share.value == 1.0
    partners = dict(zip(planted.looked_at.tolist(), planted.nearest.tolist(), strict=True))
    assert all(partners[place] == (place + 40) % 80 for place in range(80))


def test_a_quarter_repeated_is_a_share_of_a_half():
    train, _, owners = phantoms(120, 64, seed=1)
    new, _, _ = phantoms(80, 64, seed=3, slices=1)
    new = new.clone()
    new[60:] = rewindowed(new[:20])
    found = duplicates(train, new, owners)
    assert 0.5 <= found.share.value <= 0.56
    sheet = duplicates_picture(train, new, found)
    assert sheet.shape == (2 * 64 + 2, 8 * 66 - 2)
    above = {sheet[:64, 66 * column : 66 * column + 64].tobytes() for column in range(8)}
    below = {sheet[66:, 66 * column : 66 * column + 64].tobytes() for column in range(8)}
    assert (len(above), above & below) == (8, set())  # two that are most alike to each other are one pair


def test_flat_images_are_duplicates_of_each_other():
    train, _, owners = phantoms(40, 64, seed=1)
    assert duplicates(train, torch.full((50, 1, 64, 64), 0.3), owners).share.value == 1.0


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["ChestCT", "CXR", "Hand"])
def test_mednist_copies_are_found_and_other_images_stay_quiet(real_data, name):
    images = mednist(real_data, name, 600)
    images = images[torch.randperm(600, generator=generator())]
    train, validation, rest = images[:300], images[300:450], images[450:]
    planted = torch.cat([moved(train[:20], 2, -2), rewindowed(train[20:40])])
    found = copies(train, validation, torch.cat([rest, planted]))
    assert float(found.mask[150:].double().mean()) >= 0.95
    # MedNIST names no patients: neighbouring slices of one person may be on both sides
    assert float(found.mask[:150].double().mean()) <= 0.05


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT"])
def test_mednist_halves_have_no_more_near_duplicates_than_real_images_and_repeats_are_found(real_data, name):
    images = mednist(real_data, name, 400)[torch.randperm(400, generator=generator())]
    real, other = images.split(200)
    quiet = duplicates(real, other)
    # neighbouring slices of one person count as doubles of other patients, on both sides alike
    assert excess(quiet.share, quiet.expected, quiet.calibrated).low < 0.0
    repeated = torch.cat([other[:150], rewindowed(other[:50])])  # a quarter is there twice: of 200, 100 have a partner
    planted = duplicates(real, repeated)
    assert excess(planted.share, planted.expected, planted.calibrated).low > 0.2
