"""DICOM stays at the edge: only this package imports pydicom."""

import logging

# pydicom's log quotes the values that it stumbles over, which may be a patient's. What it has to say of a file comes
# back as the file's reason.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
