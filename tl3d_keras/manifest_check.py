"""Whether what a manifest says can be: a manifest of the right types may still lie."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from tl3d_keras.errors import InputError

if TYPE_CHECKING:
    from tl3d_keras.manifest import CaseEntry, Manifest

# Bytes that the TFRecord format puts before and after a record's data.
FRAME_BEFORE, FRAME_AFTER = 12, 4
_STATISTICS = {"mean", "std", "minimum", "maximum"}


def check(manifest: "Manifest", path: Path) -> None:
    """Raises an `InputError` that names what contradicts itself.

    Args:
        manifest: read from `path`, its fields of their types.
        path: the file.
    """
    for shard in manifest.shards:
        if Path(shard.file).name != shard.file or not shard.file.isprintable():
            raise InputError(f"{path}: expected shard names without folders, found {shard.file!r}")
        try:
            inside = (path.parent / shard.file).resolve().parent == path.parent.resolve()
        except (OSError, RuntimeError) as error:
            raise InputError(f"{path}: expected a file's name, found {shard.file!r}") from error
        if not inside:
            raise InputError(f"{path}: expected shards in its folder, found a link {shard.file!r}")
    for what, names in (
        ("structure", manifest.structures),
        ("channel", manifest.channels),
        ("case", [case.case_id for case in manifest.cases]),
    ):
        wrong = [n for n in names if not n.strip() or not n.isprintable()]
        # Two channels may be of one kind.
        if wrong or (len(set(names)) < len(names) and what != "channel"):
            raise InputError(f"{path}: expected {what}s of different names, found {wrong or names}")
    if len(manifest.spacing) != 3 or not all(0 < s < math.inf for s in manifest.spacing):
        raise InputError(f"{path}: expected a positive spacing z, y, x, found {manifest.spacing}")
    _check_proposal(manifest, path)
    if not manifest.cases:
        raise InputError(f"{path}: expected cases, found none")
    for case in manifest.cases:
        _check_case(case, manifest, path)


def _check_proposal(manifest: "Manifest", path: Path) -> None:
    size, window = manifest.proposal.patch_size, manifest.proposal.window
    if len(size) != 3 or min(size) < 1:
        raise InputError(f"{path}: expected a proposed patch size z, y, x, found {size}")
    channels = len(manifest.channels)
    if window is not None and not (
        len(window) == channels and all(low < high for low, high in window)
    ):
        raise InputError(
            f"{path}: expected a proposed window low < high of {channels} channels, found {window}"
        )


def _check_case(case: "CaseEntry", manifest: "Manifest", path: Path) -> None:
    where = f"{path}: case {case.case_id}"
    if not 0 <= case.shard < len(manifest.shards):
        raise InputError(f"{where} names a shard that is not listed")
    end = manifest.shards[case.shard].bytes - FRAME_AFTER
    if case.offset < FRAME_BEFORE or case.bytes < 1 or case.offset + case.bytes > end:
        raise InputError(f"{where} lies outside its shard {manifest.shards[case.shard].file}")
    if len(case.shape) != 4 or min(case.shape) < 1 or case.shape[3] != len(manifest.channels):
        raise InputError(f"{where}: expected a shape z, y, x, channels, found {case.shape}")
    channels = len(manifest.channels)
    if len(case.intensity) != channels or any(_STATISTICS - set(c) for c in case.intensity):
        raise InputError(
            f"{where}: expected {', '.join(sorted(_STATISTICS))} of {channels} channels as "
            f"intensity, found {case.intensity}"
        )
    unknown = set(case.annotated_structures) - set(manifest.structures)
    if unknown:
        raise InputError(f"{where}: expected the set's structures, found {sorted(unknown)[0]!r}")
    for name in ("annotated", *manifest.structures):
        counts = case.coverage.get(name, {})
        slices, voxels = counts.get("slices", -1), counts.get("voxels", -1)
        if not (0 <= slices <= case.shape[0] and 0 <= voxels <= math.prod(case.shape[:3])):
            raise InputError(f"{where}: expected the coverage of {name}, found {counts}")
