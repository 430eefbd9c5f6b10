"""TotalSegmentator folders: one folder a case, in it one binary file a structure."""

from collections.abc import Sequence
from pathlib import Path

from data_tools.layouts.data_set import (
    CaseSource,
    DataSet,
    check_case_ids,
    check_structures,
    inside,
    numbered,
)
from tl3d_keras.errors import InputError
from tl3d_keras.volume_io import case_name, has_known_suffix

CHANNELS = {"ct.nii.gz": "CT", "mri.nii.gz": "MRI"}
MASK_FOLDER = "segmentations"


def is_here(folder: Path) -> bool:
    """Whether any folder inside looks like a case."""
    return any(next(folder.glob(f"[!.]*/{name}"), None) for name in (*CHANNELS, MASK_FOLDER))


def read(folder: Path, structures: Sequence[str], channel_names: Sequence[str]) -> DataSet:
    """Lists the cases: `ct.nii.gz` or `mri.nii.gz`, and `segmentations/<structure>.nii.gz`.

    A structure without a file in a case was not annotated in it; a file without a voxel says that
    it is not there.

    Args:
        folder: the folder of the cases.
        structures: those to take, in this order; none takes every file name, sorted.
        channel_names: one name for images of both kinds; none gives "CT" or "MRI".

    Raises:
        InputError: a case without an image, CT and MRI in one set without a name for both, a
            structure of which no case has a file.
    """
    if len(channel_names) > 1:
        raise InputError(f"--channel_names: expected one for {folder}, found {len(channel_names)}")
    images: dict[str, Path] = {}
    masks: dict[str, dict[str, Path]] = {}
    for case in sorted(path for path in folder.glob("[!.]*") if path.is_dir()):
        found = [case / name for name in CHANNELS if (case / name).exists()]
        if not found and not (case / MASK_FOLDER).exists():
            continue
        if len(found) != 1:
            raise InputError(
                f"{case}: expected {' or '.join(CHANNELS)}, found {len(found)} of them"
            )
        images[case.name] = inside(folder, f"{case.name}/{found[0].name}", folder)
        masks[case.name] = _masks(folder, case)
    check_case_ids(list(images), folder)
    known = sorted({name for files in masks.values() for name in files})
    unknown = [name for name in structures if name not in known]
    if unknown:
        raise InputError(f"--structures: expected names of {folder}, found {unknown[0]!r}")
    names = check_structures(list(structures) or known, folder)
    kinds = sorted({CHANNELS[image.name] for image in images.values()})
    if len(kinds) > 1 and not channel_names:
        raise InputError(f"{folder}: expected CT or MRI, found both; --channel_names names the two")
    cases = []
    for case_id, image in images.items():
        chosen = tuple((name, masks[case_id][name]) for name in names if name in masks[case_id])
        annotated = tuple(name for name, _ in chosen)
        cases.append(CaseSource(case_id, (image,), None, annotated, chosen))
    return DataSet(names, tuple(channel_names or kinds), numbered(names), tuple(cases))


def _masks(folder: Path, case: Path) -> dict[str, Path]:
    masks: dict[str, Path] = {}
    for file in sorted((case / MASK_FOLDER).glob("[!.]*")):
        name = case_name(file)
        if not has_known_suffix(file):
            continue
        if name in masks:
            raise InputError(f"{file}: expected one file for {name}, found {masks[name]} too")
        masks[name] = inside(folder, f"{case.name}/{MASK_FOLDER}/{file.name}", case)
    return masks
