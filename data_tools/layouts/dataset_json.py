"""Decathlon and nnU-Net v2 folders, which a `dataset.json` describes."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_tools.layouts.data_set import (
    CaseSource,
    DataSet,
    check_annotated,
    check_case_ids,
    check_name,
    check_structures,
    inside,
)
from tl3d_keras import json_file, regular_file
from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError
from tl3d_keras.volume_io import SUFFIXES, case_name

FILE_NAME = "dataset.json"
NAMES_OF_IGNORE = ("ignore", "unannotated")
MASK_FOLDER = "annotatedTr"


def read(folder: Path) -> DataSet:
    """Reads the `dataset.json` of a Decathlon or nnU-Net v2 folder and lists its training cases.

    The Decathlon lists its pairs under `training`; nnU-Net's files are found by name. Either may
    hold `annotated_labels`, `{case: [structure, ...]}`, for cases in which not all structures were
    annotated, a label named `ignore` for voxels that nobody annotated, and a folder `annotatedTr`
    with a file for each case of which only the voxels that are not 0 there were annotated.

    Raises:
        InputError: `dataset.json` is missing, malformed or names files that do not exist.
    """
    path = folder / FILE_NAME
    content = _read_json(path)
    structures, file_values = _labels(content, path)
    nnunet = "channel_names" in content
    channels = _channels(content.get("channel_names" if nnunet else "modality"), path)
    pairs = (
        _nnunet_pairs(content, path, len(channels)) if nnunet else _decathlon_pairs(content, path)
    )
    names = [case_id for case_id, _, _ in pairs]
    check_case_ids(names, path)
    annotated = _annotated(content, path, structures)
    unlisted = sorted(annotated.keys() - set(names))
    if unlisted:
        raise InputError(
            f'{path}: "annotated_labels" names the case {unlisted[0]!r}, which is not '
            "among the training cases"
        )
    masks = _annotated_masks(folder, {name: label is not None for name, _, label in pairs})
    cases = tuple(
        CaseSource(
            case_id,
            images,
            label,
            annotated.get(case_id, structures),
            annotated_mask=masks.get(case_id),
        )
        for case_id, images, label in pairs
    )
    if not cases:
        raise InputError(f"{path}: expected training cases, found none")
    return DataSet(structures, channels, file_values, cases)


def read_labels(path: Path) -> tuple[tuple[str, ...], dict[int, int]]:
    """The structures of a `dataset.json`, and its label values as labels 0..K or IGNORE."""
    return _labels(_read_json(path), path)


def read_annotated(path: Path) -> dict[str, tuple[str, ...]]:
    """The `annotated_labels` of a `dataset.json`: the structures by case, where not all are."""
    content = _read_json(path)
    structures, _ = _labels(content, path)
    return _annotated(content, path, structures)


def _read_json(path: Path) -> dict[str, Any]:
    return json_file.read_object(path, "a Decathlon or nnU-Net folder")


def _labels(content: dict[str, Any], path: Path) -> tuple[tuple[str, ...], dict[int, int]]:
    labels = content.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise InputError(f'{path}: expected "labels", found {labels!r}')
    by_value: dict[int, str] = {}
    for key, item in labels.items():
        # The Decathlon writes {"1": "liver"}, nnU-Net {"liver": 1}.
        value, name = (key, item) if isinstance(item, str) else (item, key)
        if type(value) is not int and not (
            isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value)
        ):
            raise InputError(
                f"{path}: expected one whole number for the label {name!r}, found {value!r}"
            )
        number = int(value)
        if number in by_value:
            raise InputError(f"{path}: labels {by_value[number]!r} and {name!r} share {number}")
        by_value[number] = name
    structures, file_values = [], {0: 0, IGNORE: IGNORE}
    for number, name in sorted(by_value.items()):
        if name.lower() in NAMES_OF_IGNORE:
            file_values[number] = IGNORE
        elif number != 0:
            structures.append(name)
            file_values[number] = len(structures)
    return check_structures(structures, path), file_values


def _channels(channels: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(channels, dict) or not channels:
        raise InputError(
            f'{path}: expected "modality" or "channel_names" as {{"0": "CT"}}, found {channels!r}'
        )
    numbered = [str(number) for number in range(len(channels))]
    if set(channels) != set(numbered):
        raise InputError(
            f"{path}: expected channels numbered 0, 1, ..., found {', '.join(map(repr, channels))}"
        )
    return tuple(check_name(channels[number], "channel", path) for number in numbered)


_Pairs = list[tuple[str, tuple[Path, ...], Path | None]]


def _decathlon_pairs(content: dict[str, Any], path: Path) -> _Pairs:
    training = content.get("training")
    if not isinstance(training, list):
        raise InputError(f'{path}: expected a list "training" of image and label files')
    pairs: _Pairs = []
    for entry in training:
        listed = entry if isinstance(entry, dict) else {"image": entry}
        image, label = listed.get("image"), listed.get("label")
        names: list[Any] = image if isinstance(image, list) else [image]
        texts = names if label is None else [*names, label]
        if not names or not all(isinstance(text, str) for text in texts):
            raise InputError(f'{path}: expected {{"image": ..., "label": ...}}, found {entry!r}')
        files = [inside(path.parent, name, path) for name in names]
        name = case_name(files[0]).removesuffix("_0000") if len(files) > 1 else case_name(files[0])
        pairs.append((name, tuple(files), inside(path.parent, label, path) if label else None))
    return pairs


def _nnunet_pairs(content: dict[str, Any], path: Path, num_channels: int) -> _Pairs:
    ending = content.get("file_ending", ".nii.gz")
    if not isinstance(ending, str) or ending.lower() not in SUFFIXES:
        raise InputError(
            f'{path}: expected "file_ending" of {", ".join(SUFFIXES)}, found {ending!r}'
        )
    folder = path.parent
    pairs: _Pairs = []
    # Files that begin with a dot are what systems keep beside files.
    try:
        files = sorted(f for f in (folder / "imagesTr").iterdir() if not f.name.startswith("."))
    except FileNotFoundError:
        files = []
    except OSError as error:
        raise InputError(f"{folder / 'imagesTr'}: cannot read: {error.strerror}") from error
    firsts = [file for file in files if file.name.endswith(f"_0000{ending}")]
    if not firsts:
        raise InputError(
            f"{path}: expected files such as imagesTr/CASE_0000{ending}, found "
            f"{files[0].name if files else 'none'}"
        )
    for first in firsts:
        name = first.name.removesuffix(f"_0000{ending}")
        listed = [f"imagesTr/{name}_{channel:04d}{ending}" for channel in range(num_channels)]
        listed.append(f"labelsTr/{name}{ending}")
        for file in listed:
            regular_file.check(folder / file)
            if not (folder / file).is_file():
                raise InputError(f"{folder / file}: no such file, though {first} is there")
        *images, label = (inside(folder, file, path) for file in listed)
        pairs.append((name, tuple(images), label))
    return pairs


def _annotated(
    content: dict[str, Any], path: Path, structures: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    listed = content.get("annotated_labels", {})
    if not isinstance(listed, dict) or not all(isinstance(n, list) for n in listed.values()):
        raise InputError(f'{path}: expected "annotated_labels" as {{case: [names]}}')
    return {
        case: check_annotated(names, structures, repr(case), path) for case, names in listed.items()
    }


def _annotated_masks(folder: Path, labelled: dict[str, bool]) -> dict[str, Path]:
    """The files of `annotatedTr` by case, of which each must belong to a labelled case."""
    masks: dict[str, Path] = {}
    for file in sorted((folder / MASK_FOLDER).glob("[!.]*")):
        case_id = case_name(file)
        if case_id == file.name or case_id in masks or not labelled.get(case_id):
            raise InputError(
                f"{file}: expected the annotated mask of a labelled case, one each, such as "
                f"{next(iter(labelled), 'case')}.nii.gz"
            )
        masks[case_id] = inside(folder, f"{MASK_FOLDER}/{file.name}", folder / MASK_FOLDER)
    return masks
