"""DICOM files made to measure, for tests of the readers."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from pipeline.geometry import Geometry
from pipeline.preprocess import Preparation, Window


def make(pixels: np.ndarray, bits: int = 16, **attributes: Any) -> Dataset:
    """A CT dataset around stored values [H, W], [F, H, W] or [H, W, 3]; attributes override or (None) remove."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.PatientID, ds.PatientName, ds.Modality = "patient", "Name^Some", "CT"
    ds.Manufacturer = "Vendor"
    colour = pixels.ndim == 3 and pixels.shape[2] == 3
    ds.SamplesPerPixel = 3 if colour else 1
    if colour:
        ds.PlanarConfiguration = 0
    ds.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if pixels.ndim == 3 and not colour:
        ds.NumberOfFrames = pixels.shape[0]
    ds.Rows, ds.Columns = pixels.shape[:2] if colour or pixels.ndim == 2 else pixels.shape[1:]
    ds.BitsAllocated = pixels.dtype.itemsize * 8
    ds.BitsStored, ds.HighBit = bits, bits - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    ds.PixelData = pixels.tobytes()
    for name, value in attributes.items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    return ds


def to_bytes(ds: Dataset) -> bytes:
    """The dataset as a file's bytes."""
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def save(ds: Dataset, path: Path) -> Path:
    """The dataset as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_bytes(ds))
    return path


def as_is(window: Any, size: int = 16, colour: Literal["set_aside", "grey"] = "set_aside") -> Preparation:
    """No resizing for images of this size."""
    return Preparation(Window.parse(window), Geometry(size, size), colour)
