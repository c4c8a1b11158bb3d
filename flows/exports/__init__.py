"""Synthetic sets for other people's programs: DICOM, PNG, npz and Hugging Face folders, each with a datasheet."""
