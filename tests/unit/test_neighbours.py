"""Near-duplicates are found where they were planted, and pictures that merely resemble each other are not."""

from __future__ import annotations

import io
import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image
from scipy import ndimage

from pipeline import neighbours
from pipeline.neighbours import describe, hashes, near_pairs, similarity

SHAPE = (64, 64)


def encode(grey: np.ndarray) -> np.ndarray:
    """0 to 255 → codes [N, 1, H, W]."""
    return (np.clip(np.rint(np.asarray(grey, float)), 0, 255) * 257).astype(np.uint16)[:, None]


def pictures(count: int, seed: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Bodies that resemble each other, with details of their own, 0 to 255 [N, H, W]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    body = 120.0 * ((x / 0.9) ** 2 + (y / 0.7) ** 2 < 1) - 80.0 * (((np.abs(x) - 0.4) / 0.3) ** 2 + (y / 0.5) ** 2 < 1)
    coarse = ndimage.gaussian_filter(rng.normal(0, 1, (count, *shape)), (0, 5, 5)) * 250
    fine = ndimage.gaussian_filter(rng.normal(0, 1, (count, *shape)), (0, 1, 1)) * 70
    return np.clip(60 + body + coarse + fine, 0, 255)


def jpeg(grey: np.ndarray, quality: int) -> np.ndarray:
    images = []
    for one in grey:
        stream = io.BytesIO()
        Image.fromarray(np.clip(one, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=quality)
        images.append(np.asarray(Image.open(stream), float))
    return np.stack(images)


CHANGES = {
    "as JPEG": lambda grey: jpeg(grey, 75),
    "brighter": lambda grey: grey * 1.1 + 5,
    "windowed": lambda grey: (grey - 128) * 1.2 + 128,
    "gamma": lambda grey: 255 * (np.clip(grey, 0, 255) / 255) ** 0.85,
    "noise": lambda grey: grey + np.random.default_rng(0).normal(0, 4, grey.shape),
    "half a pixel": lambda grey: ndimage.shift(grey, (0, 0.5, 0.5), order=1, mode="nearest"),
    "much noise": lambda grey: grey + np.random.default_rng(0).normal(0, 12, grey.shape),
    "moved": lambda grey: np.roll(grey, 1, axis=1),
    "all": lambda grey: jpeg(np.roll(grey, 1, axis=2) * 1.08 + np.random.default_rng(1).normal(0, 3, grey.shape), 80),
}


@pytest.mark.parametrize("change", CHANGES)
def test_planted_copies_are_found_and_nothing_else(change):
    originals = pictures(60, 1)
    codes = np.concatenate([encode(originals), encode(CHANGES[change](originals[:10]))])
    splits = np.zeros(70, np.uint8)
    splits[60:65] = 2
    found = near_pairs(codes, np.arange(70), splits)
    assert found.status == "done"
    assert all(second == first + 60 for first, second in found.examples)
    assert found.pairs == len(found.examples) >= (8 if change in ("moved", "half a pixel", "much noise", "all") else 10)
    across = [pair for pair in found.examples if pair[0] < 5]
    assert found.examples[: len(across)] == tuple(across)
    assert (found.across_splits, found.images_across_splits) == (len(across), 2 * len(across))


def test_pictures_alike_in_their_low_frequencies_are_proposed_and_dismissed():
    rng = np.random.default_rng(2)
    coarse = ndimage.gaussian_filter(pictures(1, 3)[0], 5)
    noise = rng.normal(0, 1, (8, *SHAPE))
    fine = ndimage.gaussian_filter(noise, (0, 1, 1)) - ndimage.gaussian_filter(noise, (0, 2, 2))
    codes = encode(coarse + 60 * fine)
    words = hashes(codes)
    assert np.bitwise_count(words[0] ^ words).max() <= neighbours.DISTANCE
    first, second, _, _ = neighbours._propose(words, np.arange(8))
    assert len(first) == 28
    assert similarity(codes, first, second).max() < 0.8
    assert near_pairs(codes, np.arange(8), np.zeros(8, np.uint8)).pairs == 0


def test_copies_under_one_patient_are_none_of_its_business():
    codes = encode(np.concatenate([pictures(4, 4)] * 2))
    assert near_pairs(codes, np.tile(np.arange(4), 2), np.repeat([0, 2], 4).astype(np.uint8)).pairs == 0


def test_flat_images_are_no_copies_of_each_other():
    faint = np.random.default_rng(0).integers(0, 40, (32, 32))  # of 65,535: nothing that anybody sees
    codes = (500 + np.repeat(faint[None, None], 6, axis=0)).astype(np.uint16)
    codes[3:] = 600
    assert near_pairs(codes, np.arange(6), np.zeros(6, np.uint8)).pairs == 0


@pytest.mark.parametrize("shape", [(28, 28), (96, 48), (130, 200)])
def test_any_size(shape):
    originals = pictures(20, 5, shape)
    codes = np.concatenate([encode(originals), encode(originals[:4] * 1.1 + 5)])
    found = near_pairs(codes, np.arange(24), np.zeros(24, np.uint8))
    assert sorted(found.examples) == [(k, 20 + k) for k in range(4)]


def test_blocks_make_no_difference(monkeypatch):
    codes = encode(np.concatenate([pictures(30, 6), jpeg(pictures(30, 6), 60)]))
    words, patients = hashes(codes), np.arange(60) % 50
    slow = [
        (i, j)
        for i in range(60)
        for j in range(i + 1, 60)
        if patients[i] != patients[j] and int(words[i] ^ words[j]).bit_count() <= neighbours.DISTANCE
    ]
    monkeypatch.setattr(neighbours, "BLOCK", 7)
    np.testing.assert_array_equal(hashes(codes), words)
    first, second, distance, whole = neighbours._propose(words, patients)
    assert sorted(zip(first.tolist(), second.tolist(), strict=True)) == slow
    assert (distance, whole) == (neighbours.DISTANCE, True)
    assert len(slow) >= 20  # ten of the thirty copies have their original's patient


def test_a_hash_is_that_of_its_definition():
    grey = pictures(1, 7)[0]
    small = grey.reshape(32, 2, 32, 2).mean(axis=(1, 3))
    k = np.arange(32)
    basis = np.cos(np.pi * (2 * k[None] + 1) * k[:8, None] / 64)  # DCT-II by its formula
    low = (basis @ small @ basis.T) * np.outer(*[np.where(k[:8] == 0, np.sqrt(0.5), 1)] * 2)
    bits = low.reshape(-1)[1:] > np.median(low.reshape(-1)[1:])
    word = int(hashes((grey * 100)[None, None].astype(np.uint16))[0])
    assert [bool(word >> k & 1) for k in range(63)] == bits.tolist()
    assert word < 2**63


def test_too_many_images_are_not_looked_at():
    found = near_pairs(encode(pictures(5, 8)), np.arange(5), np.zeros(5, np.uint8), limit=4)
    assert (found.status, found.pairs, found.images) == ("not looked for", 0, 5)
    assert "up to 4 only" in found.note
    assert describe(found) == []


def test_too_many_candidates_ask_for_closer_hashes_and_then_say_so(monkeypatch):
    originals = pictures(40, 9)
    noise = np.random.default_rng(0).normal(0, 8, originals.shape)
    codes = np.concatenate([encode(originals), encode(originals + noise)])
    monkeypatch.setattr(neighbours, "CANDIDATES", 15)
    near = near_pairs(codes, np.arange(80), np.zeros(80, np.uint8))
    assert near.status == "done"
    assert near.distance < neighbours.DISTANCE
    assert 0 < near.pairs <= 15
    same = np.concatenate([encode(originals[:1])] * 20)
    part = near_pairs(same, np.arange(20), np.zeros(20, np.uint8))
    assert (part.status, part.distance, part.pairs) == ("part", 0, 15)
    assert "at least 15 pair(s)" in describe(part)[0]


def test_the_summary_is_json_with_row_numbers_only():
    codes = encode(np.concatenate([pictures(30, 10)] * 2))
    found = near_pairs(codes, np.arange(60), np.repeat([0, 2], 30).astype(np.uint8))
    assert found.pairs == found.across_splits == 30
    assert len(found.examples) == 20
    assert json.loads(json.dumps(asdict(found)))["examples"][0] == [0, 30]
    assert "30 pair(s)" in describe(found)[0]
    assert "30 of them in different splits" in describe(found)[0]


def prepared(folder, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The CT slices in a lung window as the ingest would store them, without exact copies; 0 to 255, and patients."""
    names = pd.read_csv(folder / "labels.csv")["file"]
    images, patients = [], []
    for name in names:
        ds = pydicom.dcmread(folder / "dicom" / name)
        hu = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
        images.append(np.clip((hu + 1000) / 1400, 0, 1).reshape(side, 512 // side, side, 512 // side).mean((1, 3)))
        patients.append(ds.PatientID)
    _, unique = np.unique(np.stack(images), axis=0, return_index=True)
    return np.stack(images)[unique] * 255, pd.factorize(np.array(patients)[unique])[0]


def test_ct100(real_data):
    grey, patients = prepared(real_data / "ct100", 128)
    assert len(grey) == 94
    quiet = near_pairs(encode(grey), np.arange(94), np.zeros(94, np.uint8))
    assert quiet.pairs == 0  # neither slices of one patient nor of different ones
    copies = jpeg(np.roll(grey, 1, axis=1) * 1.1 + 4, 75)
    codes = np.concatenate([encode(grey), encode(copies)])
    found = near_pairs(codes, np.concatenate([patients, 1000 + patients]), np.repeat([0, 2], 94).astype(np.uint8))
    assert found.pairs == found.across_splits
    assert found.pairs >= 92
    assert all(second == first + 94 for first, second in found.examples)


def test_mednist_chest_films_of_different_people(real_data):
    files = sorted((real_data / "mednist6000").rglob("CXR/*"))[:600]
    grey = np.stack([np.asarray(Image.open(file).convert("L"), float) for file in files])
    codes = encode(grey)
    assert near_pairs(codes, np.arange(600), np.zeros(600, np.uint8)).pairs == 0
    first, _, _, _ = neighbours._propose(hashes(codes), np.arange(600))
    assert len(first) > 100  # hashes alone would cry wolf


def test_breastmnist_has_the_same_pictures_on_several_sides_of_its_split(real_data):
    """103 pairs when this was written, 58 across sides; those looked at are one picture, with and without markers."""
    with np.load(real_data / "breastmnist" / "breastmnist.npz") as arrays:
        parts = [arrays[f"{part}_images"] for part in ("train", "val", "test")]
    grey = np.concatenate(parts)
    splits = np.repeat(np.arange(3), [len(part) for part in parts]).astype(np.uint8)
    found = near_pairs(encode(grey), np.arange(len(grey)), splits)
    assert found.pairs == pytest.approx(103, abs=10)
    assert found.across_splits == pytest.approx(58, abs=6)
    assert all(splits[first] != splits[second] for first, second in found.examples)


def shrunk(grey: np.ndarray, factor: int) -> np.ndarray:
    """Averages of blocks, [N, H, W] -> [N, H / factor, W / factor]."""
    count, height, width = grey.shape
    return grey.reshape(count, height // factor, factor, width // factor, factor).mean(axis=(2, 4))


def test_small_images_have_to_agree_more():
    """A brighter copy is found at 32 x 32; a likeness that would do at 64 x 64 is not taken for one."""
    grey = pictures(40, 11)
    blend = 0.68 * grey + 0.32 * pictures(40, 12)

    def pairs(planted: np.ndarray, factor: int) -> int:
        codes = encode(shrunk(np.concatenate([grey, planted]), factor))
        return near_pairs(codes, np.arange(80), np.zeros(80, np.uint8)).pairs

    assert pairs(grey * 1.1, 1) == pairs(grey * 1.1, 2) == 40
    assert pairs(blend, 1) >= 35
    assert pairs(blend, 2) == 0


def test_thumbnails_are_not_looked_at():
    codes = np.zeros((4, 1, 16, 64), np.uint16)
    found = near_pairs(codes, np.arange(4), np.zeros(4, np.uint8))
    assert (found.status, found.images, found.pairs) == ("not looked for", 4, 0)
    assert "16 x 64" in found.note
    assert describe(found) == []
