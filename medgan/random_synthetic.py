"""A transform in MONAI's style that replaces training images by synthetic ones while they are loaded."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch

from medgan.synthetic import SyntheticDataset
from pipeline.records import MedaugError


class RandSynthetic:
    """Replaces an image by a random synthetic one of its class, with a given probability.

    It stands where images are [C, H, W] in [-1, 1] as the synthetic ones are: after loading and scaling, before
    augmentation, so that synthetic images are augmented like real ones. MONAI's ``CacheDataset`` caches what comes
    before it and draws anew each time.

    Randomness comes from torch's global generator, which a ``DataLoader`` seeds differently for each worker and epoch,
    until :meth:`set_random_state` is called, as MONAI's ``Compose`` and ``DataLoader`` do: with ``Compose`` and workers
    take MONAI's ``DataLoader``, as for all of MONAI's random transforms. (``Compose`` seeds by type: made in a program
    that has imported MONAI, the transform is a ``monai.transforms.Randomizable``.)

    Args:
        synthetic: the images to take from; of every class that comes by.
        prob: of a replacement, 0 to 1.
        image_key: the dictionary's key of the image, a tensor or array.
        label_key: the dictionary's key of the class index.
        synthetic_key: set to whether the image is synthetic.

    Raises:
        MedaugError: a probability out of range.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> RandSynthetic:
        """An instance that MONAI knows how to seed, where MONAI is imported."""
        monai = sys.modules.get("monai.transforms")
        randomizable = getattr(monai, "Randomizable", None)
        if randomizable is None or issubclass(cls, randomizable):
            return super().__new__(cls)
        instance: RandSynthetic = object.__new__(_randomizable(cls, randomizable))  # type: ignore[arg-type]
        return instance

    def __init__(
        self,
        synthetic: SyntheticDataset,
        prob: float = 0.5,
        *,
        image_key: Hashable = "image",
        label_key: Hashable = "label",
        synthetic_key: Hashable = "synthetic",
    ):
        if not 0 <= prob <= 1:
            raise MedaugError(f"prob {prob}: expected 0 to 1, the part of the images that is replaced")
        self.synthetic = synthetic
        self.prob = prob
        self.image_key, self.label_key, self.synthetic_key = image_key, label_key, synthetic_key
        self.R: np.random.RandomState | None = None
        self._places = [np.flatnonzero(synthetic.labels == label) for label in range(len(synthetic.spec.classes))]

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandSynthetic:
        """MONAI's way to seed: by a number, by a state, or, with neither, unpredictably.

        Returns:
            self.
        """
        if seed is None and state is not None:
            self.R = state
        else:
            self.R = np.random.RandomState(None if seed is None else seed % 2**32)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The dictionary, its image perhaps replaced.

        Raises:
            MedaugError: no synthetic image of that class, or images of another size or type.
        """
        item = dict(data)
        if self._uniform() >= self.prob:
            item.setdefault(self.synthetic_key, False)
            return item
        label, image = int(item[self.label_key]), item[self.image_key]
        if not 0 <= label < len(self._places) or not len(self._places[label]):
            raise MedaugError(f"label {label}: no synthetic image of that class; expected one for every class")
        places = self._places[label]
        replacement = self.synthetic[int(places[int(self._uniform() * len(places))])]["image"]
        if tuple(replacement.shape) != tuple(image.shape):
            raise MedaugError(
                f"synthetic image {tuple(replacement.shape)}, training image {tuple(image.shape)}: expected one size; "
                "bring the training images to the synthetic ones' size first"
            )
        item[self.image_key] = _as_its_kind(replacement, image)
        item[self.synthetic_key] = True
        return item

    def _uniform(self) -> float:
        """A number in [0, 1)."""
        return float(torch.rand((), dtype=torch.float64)) if self.R is None else float(self.R.random_sample())

    def __reduce__(self) -> tuple[Any, ...]:
        """The class is looked up again where it is unpickled: there, MONAI may be imported or not."""
        return _restore, (self._plain(), self.__dict__)

    @classmethod
    def _plain(cls) -> type[RandSynthetic]:
        """The class as written, without MONAI's."""
        return next(base for base in cls.__mro__ if base.__dict__.get("_mixed") is None)


def _as_its_kind(replacement: torch.Tensor, image: Any) -> Any:
    """The replacement as array or tensor of the image's type, so that they go into one batch.

    MONAI's ``MetaTensor`` gets no metadata of the image that it replaces: they name the patient's file.

    Raises:
        MedaugError: an image of integers, which is not scaled yet.
    """
    array = isinstance(image, np.ndarray)
    if not (np.issubdtype(image.dtype, np.floating) if array else image.is_floating_point()):
        raise MedaugError(f"training image of {image.dtype}: expected floats in [-1, 1]; scale the images first")
    if array:
        return replacement.numpy().astype(image.dtype)
    tensor = replacement.to(image.dtype)
    return tensor if type(image) is torch.Tensor else type(image)(tensor)


@cache  # one class, so that equal transforms are of equal type
def _randomizable(cls: type[RandSynthetic], randomizable: type) -> type:
    """``cls`` that is MONAI's ``Randomizable``, too."""
    return type(
        cls.__name__, (cls, randomizable), {"__module__": cls.__module__, "__doc__": cls.__doc__, "_mixed": True}
    )


def _restore(cls: type[RandSynthetic], state: dict[str, Any]) -> RandSynthetic:
    instance = cls.__new__(cls)
    instance.__dict__.update(state)
    return instance
