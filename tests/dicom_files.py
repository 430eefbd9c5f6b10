"""Small DICOM series for tests."""

from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SHAPE = (5, 12, 10)
PIXEL_SPACING = (0.75, 1.5)  # Rows, then columns, in DICOM's order.
ORIGIN = (-20.0, 31.0, -104.5)


def ct_slice(
    pixels: np.ndarray, position, orientation=(1, 0, 0, 0, 1, 0), **attributes
) -> FileDataset:
    """A CT slice [Y, X] of uint16; `attributes` replace or add to what every slice has."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    slice_ = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    values = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "Modality": "CT",
        "PatientName": "Nobody^Here",
        "PatientID": "1",
        "StudyInstanceUID": "1.2.3",
        "FrameOfReferenceUID": "1.2.4",
        "SeriesInstanceUID": "1.2.3.1",
        "SeriesNumber": 4,
        "SeriesDescription": "thorax",
        "StudyDate": "20200101",
        "StudyTime": "120000",
        "StudyID": "1",
        "AccessionNumber": "1",
        "PatientBirthDate": "19700101",
        "PatientSex": "O",
        "ReferringPhysicianName": "",
        "PositionReferenceIndicator": "",
        "Manufacturer": "tests",
        "InstanceNumber": 1,
        "ImagePositionPatient": [float(p) for p in position],
        "ImageOrientationPatient": [float(o) for o in orientation],
        "PixelSpacing": list(PIXEL_SPACING),
        "SliceThickness": 2.0,
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "RescaleSlope": 1.0,
        "RescaleIntercept": -1024.0,
        "PixelData": pixels.astype("<u2").tobytes(),
    }
    for name, value in {**values, **attributes}.items():
        setattr(slice_, name, value)
    return slice_


def write_series(
    folder: Path,
    pixels: np.ndarray,
    step=(0.0, 0.0, 2.0),
    orientation=(1, 0, 0, 0, 1, 0),
    prefix: str = "",
    **attributes,
) -> list[FileDataset]:
    """Writes uint16 [Z, Y, X] as slices `step` mm apart, in files whose names run backwards."""
    folder.mkdir(exist_ok=True, parents=True)
    slices = []
    for z, plane in enumerate(pixels):
        position = np.array(ORIGIN) + z * np.array(step)
        slices.append(
            ct_slice(plane, position, orientation, **{"InstanceNumber": z + 1, **attributes})
        )
        slices[-1].save_as(folder / f"{prefix}{len(pixels) - z:03d}.dcm", enforce_file_format=True)
    return slices
