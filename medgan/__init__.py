"""Class-conditional generative adversarial networks; knows nothing of DICOM, Prefect or MLflow.

``medgan.load(path).sample(labels)`` draws images, ``medgan.SyntheticDataset(path)`` is a torch ``Dataset`` of them, and
``medgan.train.train`` trains.
"""

from medgan.config import GanConfig
from medgan.options import Augmentation, Conditioning, Optimiser, Regularisation
from medgan.sample import LoadedGenerator, load, synthesize
from medgan.synthetic import SyntheticDataset

__all__ = [
    "Augmentation",
    "Conditioning",
    "GanConfig",
    "LoadedGenerator",
    "Optimiser",
    "Regularisation",
    "SyntheticDataset",
    "load",
    "synthesize",
]
