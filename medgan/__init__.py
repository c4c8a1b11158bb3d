"""Class-conditional generative adversarial networks; knows nothing of DICOM, Prefect or MLflow.

``medgan.load(path).sample(labels)`` draws images, ``medgan.SyntheticDataset(path)`` is a torch ``Dataset`` of them,
``medgan.RandSynthetic`` a transform that mixes them in, ``medgan.load_arrays(path)`` arrays for scikit-learn, and
``medgan.train.train`` trains.
"""

from medgan.arrays import Arrays, load_arrays
from medgan.config import GanConfig
from medgan.options import Augmentation, Conditioning, Optimiser, Regularisation
from medgan.random_synthetic import RandSynthetic
from medgan.sample import LoadedGenerator, load, synthesize
from medgan.synthetic import SyntheticDataset

__all__ = [
    "Arrays",
    "Augmentation",
    "Conditioning",
    "GanConfig",
    "LoadedGenerator",
    "Optimiser",
    "RandSynthetic",
    "Regularisation",
    "SyntheticDataset",
    "load",
    "load_arrays",
    "synthesize",
]
