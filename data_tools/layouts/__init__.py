"""Data sets as people keep them: Decathlon, nnU-Net v2, TotalSegmentator, or a CSV table."""

from collections.abc import Sequence
from pathlib import Path

from data_tools.layouts import csv_table, dataset_json, totalsegmentator
from data_tools.layouts.data_set import CaseSource, DataSet
from data_tools.layouts.dataset_json import read_annotated, read_labels
from tl3d_keras.errors import InputError

__all__ = ["CaseSource", "DataSet", "read_annotated", "read_labels", "read_layout"]


def read_layout(
    source: str | Path,
    structures: Sequence[str] = (),
    channel_names: Sequence[str] = (),
    series: str | None = None,
) -> DataSet:
    """Lists the cases of a data set, whose layout is recognised by what is there.

    A `.csv` file is a table of cases. Of a folder, what comes first decides: its `dataset.json`
    (Decathlon, nnU-Net v2), folders with `ct.nii.gz` or `mri.nii.gz` (TotalSegmentator), its only
    CSV file.

    Args:
        source: the folder or the CSV file.
        structures: for TotalSegmentator a choice and its order, for a CSV file the names of the
            label values 1..K; a `dataset.json` names its own.
        channel_names: names of the image channels where no `dataset.json` gives them.
        series: the DICOM series to read where a folder holds several.

    Raises:
        InputError: no known layout, or one that is malformed or names files that do not exist.
    """
    path = Path(source)
    if path.suffix.lower() == ".csv" and not path.is_dir():
        return csv_table.read(path, structures, channel_names, series)
    if (path / dataset_json.FILE_NAME).exists():
        for flag, values in (("structures", structures), ("channel_names", channel_names)):
            if values:
                raise InputError(
                    f"--{flag}: {path / dataset_json.FILE_NAME} names them; expected none, "
                    f"found {','.join(values)}"
                )
        return dataset_json.read(path)
    if totalsegmentator.is_here(path):
        return totalsegmentator.read(path, structures, channel_names)
    tables = sorted(path.glob("*.csv"))
    if len(tables) == 1:
        return csv_table.read(tables[0], structures, channel_names, series)
    raise InputError(
        f"{path}: expected a Decathlon or nnU-Net folder (dataset.json), a TotalSegmentator folder "
        f"or one CSV file, found {f'{len(tables)} CSV files' if tables else 'none of them'}"
    )
