"""How the files of a case are read: what a person chooses, and the one way to an image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tl3d_keras import volume_io
from tl3d_keras.volumes import Volume

ANNOTATED = ("all", "labelled_slices")
OVERLAP = ("error", "first", "last")


@dataclass(frozen=True)
class ReadOptions:
    """What holds for every case of a data set.

    Attributes:
        partial_labels: accept a label that covers part of the image's grid; the rest is
            unannotated.
        annotated: "all" voxels of a label, or "labelled_slices": those slices alone that hold a
            structure. Slices are those of the label file, along the axis that varies slowest in it.
        overlap: what happens where binary files, or the structures of a DICOM label, overlap: an
            "error", or the "first" or "last" structure in order wins.
        series: the DICOM series to read where a folder holds several.
        channel: the volume to take of a 4D file.
    """

    partial_labels: bool = False
    annotated: str = "all"
    overlap: str = "error"
    series: str | None = None
    channel: int | None = None


def read_image(
    paths: Sequence[Path],
    series: str | None = None,
    channel: int | None = None,
    channels: int | None = None,
) -> Volume:
    """Reads the image of a case, [Z, Y, X, C].

    Args:
        paths: its files, one a channel or one with all.
        series: see `ReadOptions`.
        channel: see `ReadOptions`.
        channels: how many the data set declares; a 4D file may hold as many.
    """
    return volume_io.read_channels(paths, channels=channels, series=series, channel=channel)


def is_dicom_label(path: Path | None) -> bool:
    """Whether a label file is a DICOM SEG or RTSTRUCT, which name their structures."""
    if path is None or path.is_dir() or volume_io.has_known_suffix(path):
        return False
    from data_tools import dicom_labels

    return dicom_labels.is_dicom_label(path)
