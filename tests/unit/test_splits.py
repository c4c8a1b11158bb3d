import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.records import SPLITS, MedaugError
from pipeline.splits import SplitConfig, assign_splits, class_shares, join_groups, prefer_copy


def shares(splits, labels, label):
    return [np.mean(splits[labels == label] == side) for side in range(3)]


def test_no_group_on_two_sides_and_classes_in_proportion():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(120), rng.integers(1, 6, 120))
    labels = (groups % 3).astype(np.int64)
    config = SplitConfig()
    splits = assign_splits(groups, labels, "abc", config)
    assert all(len(set(splits[groups == group])) == 1 for group in range(120))
    for label in range(3):
        np.testing.assert_allclose(shares(splits, labels, label), config.fractions, atol=0.03)
        patients = [len(set(groups[(labels == label) & (splits == side)])) / 40 for side in range(3)]
        np.testing.assert_allclose(patients, config.fractions, atol=0.06)


def test_patients_with_several_labels():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(54), 2)
    labels = rng.integers(0, 2, 108)
    splits = assign_splits(groups, labels, ["plain", "contrast"], SplitConfig())
    assert all(len(set(splits[groups == group])) == 1 for group in range(54))
    for label in (0, 1):
        np.testing.assert_allclose(shares(splits, labels, label), (0.6, 0.15, 0.25), atol=0.05)


def test_a_rare_class_is_on_every_side():
    groups = np.arange(203)
    labels = np.zeros(203, np.int64)
    labels[[5, 80, 200]] = 1
    splits = assign_splits(groups, labels, ["common", "rare"], SplitConfig())
    assert sorted(splits[labels == 1]) == [0, 1, 2]


def test_the_seed_decides_and_repeats():
    groups, labels = np.arange(60), np.arange(60) % 2
    one, two, three = (assign_splits(groups, labels, "ab", SplitConfig(seed=seed)) for seed in (1, 1, 2))
    assert (one == two).all()
    assert (one != three).any()


@pytest.mark.parametrize("have", [1, 2])
def test_a_class_with_fewer_patients_than_splits(have):
    labels = np.zeros(20, np.int64)
    labels[:have] = 1
    with pytest.raises(MedaugError, match=rf"class 'rare': {have} patient\(s\), expected at least 3"):
        assign_splits(np.arange(20), labels, ["common", "rare"], SplitConfig())


def test_one_patient_a_class():
    groups = np.repeat([0, 1], 10)
    with pytest.raises(MedaugError, match="1 patient"):
        assign_splits(groups, groups.astype(np.int64), "ab", SplitConfig())


def test_fractions_have_to_add_up():
    with pytest.raises(ValueError, match=r"add up to 0\.9"):
        SplitConfig(train=0.5, validation=0.15, test=0.25)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whatever_the_patients_every_class_is_on_every_side_or_there_is_a_reason(data):
    count = data.draw(st.integers(3, 30))
    classes = data.draw(st.integers(1, 3))
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=count, max_size=count))
    groups = np.repeat(np.arange(count), sizes)
    labels = np.array([data.draw(st.integers(0, classes - 1)) for _ in groups])
    names = [f"c{k}" for k in range(classes)]
    if len(set(labels)) < classes:
        return
    try:
        splits = assign_splits(groups, labels, names, SplitConfig(seed=data.draw(st.integers(0, 3))))
    except MedaugError:
        holders = [len(set(groups[labels == label])) for label in range(classes)]
        assert min(holders) < 6  # with six patients a class there is a way
        return
    for group in range(count):
        assert len(set(splits[groups == group])) == 1
    for side in range(3):
        assert set(labels[splits == side]) == set(range(classes))


class TestJoin:
    def test_chains_of_shared_images(self):
        patients = ["p0", "p0", "p1", "p2", "p2", "p3", "p4"]
        hashes = [b"a", b"b", b"b", b"c", b"d", b"d", b"e"]
        # p0 and p1 share b; p2 and p3 share d; p4 is alone.
        assert join_groups(patients, hashes).tolist() == [0, 0, 0, 1, 1, 1, 2]

    def test_a_long_chain_is_one_group(self):
        patients = [f"p{k}" for k in range(50) for _ in range(2)]
        hashes = [b"%d" % (k + d) for k in range(50) for d in range(2)]
        assert set(join_groups(patients, hashes)) == {0}

    def test_against_a_slow_union(self):
        rng = np.random.default_rng(0)
        patients = [f"p{k}" for k in rng.integers(0, 40, 80)]
        hashes = [b"%d" % k for k in rng.integers(0, 60, 80)]
        slow = list(range(80))
        changed = True
        while changed:
            changed = False
            for i in range(80):
                for j in range(i):
                    if (patients[i] == patients[j] or hashes[i] == hashes[j]) and slow[i] != slow[j]:
                        slow[i] = slow[j] = min(slow[i], slow[j])
                        changed = True
        fast = join_groups(patients, hashes)
        assert {tuple(fast[i] == fast) for i in range(80)} == {tuple(slow[i] == np.array(slow)) for i in range(80)}


def test_the_first_copy_stays_and_in_an_official_split_the_test_copy():
    hashes = [b"a", b"b", b"a", b"b", b"c"]
    assert prefer_copy(hashes, None).tolist() == [True, True, False, False, True]
    sides = np.array([0, 2, 1, 0, 0], np.uint8)
    assert prefer_copy(hashes, sides).tolist() == [False, True, True, False, True]


def test_class_shares_sum_to_one():
    result = class_shares(np.array([0, 0, 1, 1, 0, 1]), np.array([0, 0, 0, 1, 1, 2], np.uint8), ["a", "b"])
    assert result["train"] == {"a": 0.6667, "b": 0.3333}
    assert set(result) == {"all", *SPLITS}
    assert all(abs(sum(share.values()) - 1) < 1e-3 for share in result.values())
