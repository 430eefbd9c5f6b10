"""Data sets as people keep them: Medical Segmentation Decathlon and nnU-Net v2 folders."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tl3d_keras.annotation import IGNORE, MAX_STRUCTURES
from tl3d_keras.errors import InputError
from tl3d_keras.volume_io import SUFFIXES, case_name

NAMES_OF_IGNORE = ("ignore", "unannotated")


@dataclass(frozen=True)
class CaseSource:
    """The files of one case.

    Attributes:
        case_id: the case's name.
        images: one file a channel, or one with all.
        label: its label file, or None for an unlabelled case.
        annotated: names of the structures annotated in it.
    """

    case_id: str
    images: tuple[Path, ...]
    label: Path | None
    annotated: tuple[str, ...]


@dataclass(frozen=True)
class DataSet:
    """A data set before it is read.

    Attributes:
        structures: names of labels 1..K, in order.
        channels: names of the image channels, in order.
        file_values: label value in the files -> label 0..K or IGNORE.
        cases: in the data set's order.
    """

    structures: tuple[str, ...]
    channels: tuple[str, ...]
    file_values: Mapping[int, int]
    cases: tuple[CaseSource, ...]


def read_layout(folder: str | Path) -> DataSet:
    """Reads the `dataset.json` of a Decathlon or nnU-Net v2 folder and lists its training cases.

    The Decathlon lists its pairs under `training`; nnU-Net's files are found by name. Either may
    hold `annotated_labels`, `{case: [structure, ...]}`, for cases in which not all structures were
    annotated, and a label named `ignore` for voxels that nobody annotated.

    Raises:
        InputError: `dataset.json` is missing, malformed or names files that do not exist.
    """
    path = Path(folder) / "dataset.json"
    content = _read_json(path)
    structures, file_values = _labels(content, path)
    nnunet = "channel_names" in content
    channels = _channels(content.get("channel_names" if nnunet else "modality"), path)
    pairs = (
        _nnunet_pairs(content, path, len(channels)) if nnunet else _decathlon_pairs(content, path)
    )
    annotated = _annotated(content, path, structures)
    unlisted = sorted(annotated.keys() - {case_id for case_id, _, _ in pairs})
    if unlisted:
        raise InputError(
            f'{path}: "annotated_labels" names the case {unlisted[0]!r}, which is not '
            "among the training cases"
        )
    cases = tuple(
        CaseSource(case_id, images, label, annotated.get(case_id, structures))
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
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot read; expected a Decathlon or nnU-Net folder") from error
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def _labels(content: dict[str, Any], path: Path) -> tuple[tuple[str, ...], dict[int, int]]:
    labels = content.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise InputError(f'{path}: expected "labels", found {labels!r}')
    by_value: dict[int, str] = {}
    for key, item in labels.items():
        # The Decathlon writes {"1": "liver"}, nnU-Net {"liver": 1}.
        value, name = (key, item) if isinstance(item, str) else (item, key)
        try:
            number = int(value)
        except (TypeError, ValueError):
            raise InputError(
                f"{path}: expected one whole number for the label {name!r}, found {value!r}"
            ) from None
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
    if not 0 < len(structures) <= MAX_STRUCTURES:
        raise InputError(
            f"{path}: expected 1 to {MAX_STRUCTURES} structures, found {len(structures)}"
        )
    if len(set(structures)) < len(structures):
        raise InputError(f"{path}: expected structures of different names, found {structures}")
    return tuple(structures), file_values


def _channels(channels: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(channels, dict) or not channels:
        raise InputError(
            f'{path}: expected "modality" or "channel_names" as {{"0": "CT"}}, found {channels!r}'
        )
    try:
        return tuple(str(channels[key]) for key in sorted(channels, key=int))
    except ValueError:
        raise InputError(
            f"{path}: expected channels numbered 0, 1, ..., found {', '.join(channels)}"
        ) from None


_Pairs = list[tuple[str, tuple[Path, ...], Path | None]]


def _decathlon_pairs(content: dict[str, Any], path: Path) -> _Pairs:
    training = content.get("training")
    if not isinstance(training, list):
        raise InputError(f'{path}: expected a list "training" of image and label files')
    pairs: _Pairs = []
    for entry in training:
        listed = entry if isinstance(entry, dict) else {"image": entry}
        image, label = listed.get("image"), listed.get("label")
        if not image or not isinstance(image, str | list):
            raise InputError(f'{path}: expected {{"image": ..., "label": ...}}, found {entry!r}')
        files = [
            _inside(path.parent, name, path)
            for name in ([image] if isinstance(image, str) else image)
        ]
        name = case_name(files[0]).removesuffix("_0000") if len(files) > 1 else case_name(files[0])
        pairs.append((name, tuple(files), _inside(path.parent, label, path) if label else None))
    names = [name for name, _, _ in pairs]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise InputError(f"{path}: the case {sorted(twice)[0]} is listed twice")
    return pairs


def _nnunet_pairs(content: dict[str, Any], path: Path, num_channels: int) -> _Pairs:
    ending = content.get("file_ending", ".nii.gz")
    if ending not in SUFFIXES:
        raise InputError(
            f'{path}: expected "file_ending" of {", ".join(SUFFIXES)}, found {ending!r}'
        )
    folder = path.parent
    pairs: _Pairs = []
    for first in sorted((folder / "imagesTr").glob(f"*_0000{ending}")):
        name = first.name.removesuffix(f"_0000{ending}")
        images = tuple(
            folder / "imagesTr" / f"{name}_{channel:04d}{ending}" for channel in range(num_channels)
        )
        label = folder / "labelsTr" / f"{name}{ending}"
        for file in (*images, label):
            if not file.is_file():
                raise InputError(f"{file}: no such file, though {first} is there")
        pairs.append((name, images, label))
    return pairs


def _inside(folder: Path, name: str, listed_in: Path) -> Path:
    file = folder / name
    if not file.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{listed_in}: expected files inside {folder}, found {name!r}")
    if not file.exists():
        raise InputError(f"{file}: no such file, though {listed_in} lists it")
    return file


def _annotated(
    content: dict[str, Any], path: Path, structures: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    listed = content.get("annotated_labels", {})
    if not isinstance(listed, dict) or not all(isinstance(n, list) for n in listed.values()):
        raise InputError(f'{path}: expected "annotated_labels" as {{case: [names]}}')
    for case, names in listed.items():
        unknown = [name for name in names if name not in structures]
        if unknown:
            raise InputError(
                f'{path}: "annotated_labels" of {case} names {unknown[0]!r}; the '
                f"structures are {', '.join(structures)}"
            )
    return {case: tuple(names) for case, names in listed.items()}
