"""What is refused before anything starts."""

from pathlib import Path

import pytest

from flows.configuration import load_experiment
from flows.preflight import check_labels
from pipeline.records import MedaugError

QUICKSTART = Path(__file__).parents[2] / "configs/experiment/quickstart.yaml"


def experiment(*overrides: str):
    return load_experiment(QUICKSTART, list(overrides))


@pytest.mark.parametrize("arms", ["A, B, C, D", "A, E"])
def test_images_without_labels_train_no_classifier(arms: str) -> None:
    config = experiment("gans=[dcgan, gan]", f"classification.arms=[{arms}]")
    assert config.classifiers
    with pytest.raises(MedaugError, match=rf"gans: gan ignores the class.*arm {arms[-1]} could learn.*cgan is"):
        check_labels(config)


def test_a_critic_that_never_sees_the_class_teaches_none() -> None:
    with pytest.raises(MedaugError, match="gans: dcgan ignores the class"):
        check_labels(experiment("gans=[dcgan]", "gans.0.conditioning.discriminator=none"))


@pytest.mark.parametrize(
    "overrides",
    [
        ["gans=[gan]", "classification.arms=[A, B]"],
        ["gans=[gan]", "classifiers=[]"],
        ["gans=[cgan, dcgan]"],
    ],
)
def test_where_labels_are_there_or_not_asked_for_nothing_is_refused(overrides: list[str]) -> None:
    check_labels(experiment(*overrides))
