"""A table of cases: `case_id,image[,image2...],label[,annotated_mask][,annotated_labels]`."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from data_tools.layouts.data_set import (
    CaseSource,
    DataSet,
    check_annotated,
    check_case_ids,
    check_structures,
    inside,
    numbered,
)
from data_tools.reading import is_dicom_label, read_image
from tl3d_keras import dicom_series, regular_file
from tl3d_keras.errors import InputError

HEADER = "case_id,image[,image2...],label[,annotated_mask][,annotated_labels]"


def read(
    path: Path,
    structures: Sequence[str],
    channel_names: Sequence[str],
    series: str | None = None,
) -> DataSet:
    """Reads the table; paths in it start at its folder and stay inside.

    Args:
        path: the CSV file. An empty `label` makes an unlabelled case, an empty `annotated_mask`
            says nothing, an empty `annotated_labels` means all structures (those that a DICOM
            label names); several are separated by `;`.
        structures: names of the label values 1..K, in order. Needed unless every label is a DICOM
            SEG or RTSTRUCT, whose own names are taken then, sorted; given, they are a choice.
        channel_names: of the image columns. Needed unless the images are DICOM series, whose
            Modality is taken then.
        series: the DICOM series to read where a folder holds several.

    Raises:
        InputError: a table that cannot be read, files that are not there, missing names.
    """
    rows = _rows(path)
    check_case_ids([row["case_id"] for row in rows], path)
    if not rows:
        raise InputError(f"{path}: expected a row for each case, found none")
    columns = [name for name in rows[0] if name.startswith("image")]
    sources = [_source(row, columns, path) for row in rows]
    if not (structures or channel_names) and not _names_itself(sources):
        raise InputError(
            f"{path}: expected --channel_names such as CT and --structures, the names of the label "
            "values 1, 2, ..., found neither"
        )
    channels = tuple(channel_names) or _modality(sources, path, series)
    if len(columns) not in (1, len(channels)):
        raise InputError(
            f"--channel_names: expected {len(columns)} for the columns {', '.join(columns)} of "
            f"{path}, found {len(channels)}"
        )
    names = list(structures) or _names_inside(sources, path, series)
    check_structures(names, "--structures" if structures else path)
    cases = []
    for row, source in zip(rows, sources, strict=True):
        listed = [text.strip() for text in row.get("annotated_labels", "").split(";")]
        annotated = check_annotated([t for t in listed if t], names, source.case_id, path) or None
        if annotated is None and not is_dicom_label(source.label):
            annotated = tuple(names)
        cases.append(
            CaseSource(
                source.case_id,
                source.images,
                source.label,
                annotated,
                annotated_mask=source.annotated_mask,
            )
        )
    return DataSet(tuple(names), channels, numbered(names), tuple(cases))


def _rows(path: Path) -> list[dict[str, str]]:
    regular_file.check(path)
    try:
        # Spreadsheets start UTF-8 with a mark.
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read()
            # Where the comma is that of decimals, spreadsheets part cells by semicolons.
            comma = "," if "," in text.partition("\n")[0] else ";"
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=comma, strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in line]) for line in reader]
            # They leave empty rows at the end.
            lines = [(number, cells) for number, cells in lines if any(cells)]
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file in UTF-8: {error}") from error
    header = lines[0][1] if lines else []
    number = sum(name.startswith("image") for name in header)
    images = ["image", *(f"image{n}" for n in range(2, number + 1))]
    needed = {"case_id", "label", *images}
    if (
        needed - set(header)
        or set(header) - needed - {"annotated_mask", "annotated_labels"}
        or len(set(header)) < len(header)
    ):
        found = ",".join(header)
        raise InputError(f"{path}: expected the header {HEADER}, found {found[:200]!r}")
    for line, cells in lines[1:]:
        if len(cells) != len(header):
            raise InputError(
                f"{path}: expected {len(header)} cells in line {line}, found {len(cells)}"
            )
    order = [name for name in header if name not in images] + images
    rows = [dict(zip(header, cells, strict=True)) for _, cells in lines[1:]]
    return [{name: row[name] for name in order} for row in rows]


def _source(row: dict[str, str], columns: Sequence[str], path: Path) -> CaseSource:
    case_id = row["case_id"]
    for name in columns:
        if not row[name]:
            raise InputError(f"{path}: expected a file as {name} of {case_id}, found none")
    mask = row.get("annotated_mask")
    if mask and not row["label"]:
        raise InputError(f"{path}: expected a label beside the annotated mask of {case_id}")
    return CaseSource(
        case_id,
        tuple(inside(path.parent, row[name], path) for name in columns),
        inside(path.parent, row["label"], path) if row["label"] else None,
        None,
        annotated_mask=inside(path.parent, mask, path) if mask else None,
    )


def _names_itself(sources: Sequence[CaseSource]) -> bool:
    return any(image.is_dir() for source in sources for image in source.images) or any(
        is_dicom_label(source.label) for source in sources
    )


def _names_inside(sources: Sequence[CaseSource], path: Path, series: str | None) -> list[str]:
    """The names of all structures that the DICOM labels hold."""
    names: set[str] = set()
    for source in sources:
        if source.label is None:
            continue
        if not is_dicom_label(source.label):
            raise InputError(
                f"{path}: expected --structures, the names of the label values 1, 2, ... of "
                f"{source.label}, found none"
            )
        from data_tools import dicom_labels

        names.update(dicom_labels.read(source.label, read_image(source.images, series)))
    return sorted(names)


def _modality(sources: Sequence[CaseSource], path: Path, series: str | None) -> tuple[str, ...]:
    """The one Modality of all images, where each is a DICOM series."""
    found: set[str] = set()
    for image in (image for source in sources for image in source.images):
        if not image.is_dir():
            found.add("")
        elif series is None:
            found.update(one.modality for one in dicom_series.list_series(image))
        else:
            found.add(dicom_series.choose(image, series).modality)
    if len(found) != 1 or "" in found or len(sources[0].images) > 1:
        raise InputError(f"{path}: expected --channel_names such as CT, found none")
    return tuple(found)
