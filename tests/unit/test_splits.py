import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.records import SPLITS, MedaugError
from pipeline.splits import (
    SplitConfig,
    assign_folds,
    assign_splits,
    check_given,
    class_shares,
    describe_split,
    join_groups,
    prefer_copy,
    split_by,
)  # fmt: skip


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": "folds"}, "by: folds needs their number; set folds, 3 to 20"),
        ({"folds": 5}, "folds and fold are for by: folds, which is shares"),
        ({"by": "given", "fold": 1}, "folds and fold are for by: folds, which is given"),
        ({"by": "folds", "folds": 5, "fold": 5}, "fold 5: expected 0 to 4, one of 5"),
        ({"by": "folds", "folds": 2}, "greater than or equal to 3"),
        ({"by": "folds", "folds": 21}, "less than or equal to 20"),
    ],
)
def test_settings_of_folds_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        SplitConfig(**settings)


class TestFolds:
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(60), rng.integers(1, 6, 60))
    labels = np.where((groups % 5 == 0) & (rng.random(len(groups)) < 0.5), 1, (groups % 3 == 0)).astype(np.int64)

    def sides(self, fold: int, seed: int = 0) -> np.ndarray:
        config = SplitConfig(by="folds", folds=5, fold=fold, seed=seed)
        return assign_folds(self.groups, self.labels, ["a", "b"], config)

    def test_every_patient_is_tested_once_and_validates_once(self):
        folds = [self.sides(fold) for fold in range(5)]
        for side in ("test", "validation"):
            assert (sum((splits == SPLITS.index(side)).astype(int) for splits in folds) == 1).all()
        for fold in range(5):  # the fold that validates is the next one tested
            assert ((folds[fold] == 1) == (folds[(fold + 1) % 5] == 2)).all()

    def test_patients_stay_whole_and_classes_in_proportion(self):
        for fold in range(5):
            splits = self.sides(fold)
            assert all(len(set(splits[self.groups == group])) == 1 for group in range(60))
            for label in (0, 1):
                np.testing.assert_allclose(shares(splits, self.labels, label), (0.6, 0.2, 0.2), atol=0.06)

    def test_the_seed_decides_and_repeats(self):
        assert (self.sides(0, 1) == self.sides(0, 1)).all()
        assert (self.sides(0, 1) != self.sides(0, 2)).any()

    def test_fewer_patients_of_a_class_than_folds(self):
        labels = (self.groups < 4).astype(np.int64)
        with pytest.raises(MedaugError, match=r"class 'rare': 4 patient\(s\), expected at least 5.*take fewer folds"):
            assign_folds(self.groups, labels, ["common", "rare"], SplitConfig(by="folds", folds=5))
        config = SplitConfig(by="folds", folds=4)
        splits = assign_folds(self.groups, labels, ["common", "rare"], config)
        assert [set(labels[splits == side]) for side in range(3)] == [{0, 1}] * 3

    def test_a_fold_without_a_class(self, monkeypatch):
        class Careless:
            def __init__(self, folds, shuffle, random_state):
                pass

            def split(self, _, labels, groups):
                order = np.argsort(labels, kind="stable")
                return [(None, part) for part in np.array_split(order, 5)]

        monkeypatch.setattr("pipeline.splits.StratifiedGroupKFold", Careless)
        with pytest.raises(MedaugError, match=r"split: fold 0 has no b; expected every class in each of the 5"):
            self.sides(2)


class TestGiven:
    groups = np.repeat(np.arange(9), 2)
    labels = np.tile([0, 1], 9).astype(np.int64)
    sides = np.repeat([0, 1, 2], 6).astype(np.uint8)

    def test_a_sound_one_is_taken_as_it_is(self):
        check_given(self.sides, self.groups, self.labels, "ab")
        for by in ("given", "shares"):
            splits = split_by(SplitConfig(by=by), self.groups, self.labels, "ab", self.sides)
            assert (splits == self.sides).all()

    def test_patients_on_several_sides(self):
        torn = self.sides.copy()
        torn[[0, 17]] = [1, 0]
        with pytest.raises(MedaugError, match=r"puts 2 patient\(s\) on several sides.*set split\.by: shares"):
            check_given(torn, self.groups, self.labels, "ab")

    def test_a_side_without_a_class(self):
        labels = np.where(self.sides == 1, 0, self.labels)
        with pytest.raises(MedaugError, match=r"the given one has no b in validation; expected every class there"):
            check_given(self.sides, self.groups, labels, "ab")

    def test_images_without_a_side(self):
        sides = self.sides.copy()
        sides[3:5] = 255
        with pytest.raises(MedaugError, match=r"2 image\(s\) have no side; expected one of train, validation, test"):
            check_given(sides, self.groups, self.labels, "ab")

    def test_asked_for_and_not_there(self):
        with pytest.raises(MedaugError, match=r"neither the source nor the labels' file gives sides"):
            split_by(SplitConfig(by="given"), self.groups, self.labels, "ab", None)

    def test_messages_name_no_patient_and_are_one_line(self):
        with pytest.raises(MedaugError) as caught:
            check_given(self.sides[::-1].copy() % 2, self.groups, self.labels, "ab")
        assert "\n" not in str(caught.value)


def test_split_by_follows_the_configuration():
    groups, labels, given = np.arange(30), np.arange(30) % 2, (np.arange(30) // 2 % 3).astype(np.uint8)
    folds, plain = SplitConfig(by="folds", folds=3, fold=1), SplitConfig()
    drawn = assign_folds(groups, labels, "ab", folds)
    assert (split_by(folds, groups, labels, "ab", None) == drawn).all()
    assert (split_by(folds, groups, labels, "ab", given) == drawn).all()  # who asks for folds gets them
    assert (split_by(plain, groups, labels, "ab", None) == assign_splits(groups, labels, "ab", plain)).all()
    assert (split_by(plain, groups, labels, "ab", given) == given).all()


def test_splits_in_words():
    assert describe_split(SplitConfig(seed=3), False) == "by patient, train / validation / test 60% / 15% / 25%, seed 3"
    folds = SplitConfig(by="folds", folds=5, fold=4)
    assert describe_split(folds, True) == "by patient, fold 4 of 0 to 4 tested, the next one validates, seed 0"
    assert describe_split(SplitConfig(by="given"), True) == "given by the labels' file"
    assert describe_split(SplitConfig(), True) == "the source's own"


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

    def test_any_number_of_identities_and_empty_ones_join_nothing(self):
        patients = ["p0", "p1", "p2", "p3", "", ""]
        prepared = ["a", "b", "c", "d", "e", "e"]
        decoded = [b"1", b"2", b"2", b"", b"", b"3"]
        instances = ["", "", "", "1.2", "1.3", "1.4"]
        # p1 and p2 share decoded pixels; the last two share the prepared image alone; nothing joins through "".
        assert join_groups(patients, prepared, decoded, instances).tolist() == [0, 1, 1, 2, 3, 3]
        assert join_groups(["", "", ""], ["", "", ""]).tolist() == [0, 1, 2]

    def test_values_of_different_columns_are_different(self):
        assert join_groups(["a", "b"], ["b", "c"]).tolist() == [0, 1]

    def test_no_image(self):
        assert join_groups([], []).tolist() == []


def test_the_first_copy_stays_and_in_an_official_split_the_test_copy():
    copies = np.array([0, 1, 0, 1, 2])
    assert prefer_copy(copies, None).tolist() == [True, True, False, False, True]
    sides = np.array([0, 2, 1, 0, 0], np.uint8)
    assert prefer_copy(copies, sides).tolist() == [False, True, True, False, True]


def test_images_that_share_any_key_are_copies_of_each_other():
    """A chain: the first and the second have equal pixels, the second and the third one SOPInstanceUID."""
    copies = join_groups(["h0", "h0", "h2", "h3"], ["1.1", "1.2", "1.2", "1.4"])
    assert prefer_copy(copies, None).tolist() == [True, False, False, True]
    assert prefer_copy(copies, np.array([0, 0, 2, 0], np.uint8)).tolist() == [False, False, True, True]


def test_class_shares_sum_to_one():
    result = class_shares(np.array([0, 0, 1, 1, 0, 1]), np.array([0, 0, 0, 1, 1, 2], np.uint8), ["a", "b"])
    assert result["train"] == {"a": 0.6667, "b": 0.3333}
    assert set(result) == {"all", *SPLITS}
    assert all(abs(sum(share.values()) - 1) < 1e-3 for share in result.values())
