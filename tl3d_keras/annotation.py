"""Sparse annotation in NumPy: the unannotated label, runs of labels, resampling that keeps both."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

IGNORE = 255
MAX_STRUCTURES = IGNORE - 1

_Index = tuple[np.ndarray, ...]
Place = Callable[[_Index], tuple[_Index, np.ndarray]]


@dataclass(frozen=True)
class Runs:
    """The annotated voxels alone, as runs of equal label over a flattened [Z, Y, X] array.

    Attributes:
        start: int64 [R], ascending.
        length: int64 [R], positive.
        value: int64 [R], labels other than IGNORE.
    """

    start: np.ndarray
    length: np.ndarray
    value: np.ndarray


def to_runs(labels: np.ndarray) -> Runs:
    """Encodes uint8 labels [Z, Y, X]."""
    flat = labels.ravel()
    if not flat.size:
        empty = np.zeros(0, np.int64)
        return Runs(empty, empty, empty)
    start = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1]).astype(np.int64)
    length = np.diff(start, append=flat.size)
    value = flat[start].astype(np.int64)
    annotated = value != IGNORE
    return Runs(start[annotated], length[annotated], value[annotated])


def from_runs(runs: Runs, shape: Sequence[int]) -> np.ndarray:
    """Decodes to uint8 labels of `shape`, IGNORE where there is no run."""
    # Gaps and runs take turns; a last gap fills the array.
    edges = np.stack([runs.start, runs.start + runs.length], axis=1).ravel()
    lengths = np.diff(edges, prepend=0, append=int(np.prod(shape)))
    values = np.full(lengths.size, IGNORE, np.uint8)
    values[1::2] = runs.value
    return np.repeat(values, lengths).reshape(shape)


def coverage(labels: np.ndarray, structures: Sequence[str]) -> dict[str, dict[str, int]]:
    """Counts what is annotated in uint8 labels [Z, Y, X].

    Returns:
        `{"annotated": {"slices", "voxels"}, <structure>: {"slices", "voxels"}, ...}` where a slice
        is axial and counts if any voxel in it does.
    """
    per_slice = counts_by_slice(labels)
    counts = {"annotated": _slices_and_voxels(per_slice[:, :IGNORE].sum(axis=1))}
    for value, name in enumerate(structures, start=1):
        counts[name] = _slices_and_voxels(per_slice[:, value])
    return counts


def counts_by_slice(labels: np.ndarray) -> np.ndarray:
    """How often each value is in each slice: int64 [Z, 256] of uint8 labels [Z, Y, X]."""
    # Not all at once, for bincount makes int64 of what it counts.
    return np.array([np.bincount(plane.ravel(), minlength=IGNORE + 1) for plane in labels])


def _slices_and_voxels(per_slice: np.ndarray) -> dict[str, int]:
    return {"slices": int((per_slice > 0).sum()), "voxels": int(per_slice.sum())}


def resample_labels(
    labels: np.ndarray,
    spacing: Sequence[float],
    shape: Sequence[int],
    new_spacing: Sequence[float],
) -> np.ndarray:
    """Resamples uint8 labels [Z, Y, X] onto a grid with the same centre.

    Each new voxel takes its nearest old voxel. Where that one is unannotated but annotated voxels
    have their centres in the new voxel, it takes the label of the nearest of those, so that a lone
    annotated slice or scribble survives any reduction and nothing is annotated that no annotated
    voxel touches. A structure that would vanish keeps one voxel, at its place.

    Args:
        labels: uint8 [Z, Y, X], IGNORE where unannotated.
        spacing: (z, y, x) of `labels`, in mm.
        shape: (Z, Y, X) of the new grid.
        new_spacing: (z, y, x) of the new grid, in mm.

    Returns:
        uint8 labels of `shape`.
    """
    nearest, target, distance = [], [], []
    for old_n, old_s, new_n, new_s in zip(labels.shape, spacing, shape, new_spacing, strict=True):
        new_in_old = (np.arange(new_n) + 0.5 - new_n / 2) * (new_s / old_s) + old_n / 2 - 0.5
        nearest.append(np.clip(np.rint(new_in_old), 0, old_n - 1).astype(np.int64))
        old_in_new = (np.arange(old_n) + 0.5 - old_n / 2) * (old_s / new_s) + new_n / 2 - 0.5
        index = np.clip(np.rint(old_in_new), 0, new_n - 1).astype(np.int64)
        target.append(index)
        distance.append(((old_in_new - index) * new_s) ** 2)
    resampled = labels[np.ix_(*nearest)]
    lost = (labels != IGNORE) & (resampled[np.ix_(*target)] == IGNORE)

    def place(old: _Index) -> tuple[_Index, np.ndarray]:
        new = tuple(t[i] for t, i in zip(target, old, strict=True))
        return new, np.sum([d[i] for d, i in zip(distance, old, strict=True)], axis=0)

    restore(labels, resampled, np.nonzero(lost), place)
    return resampled


def restore(labels: np.ndarray, resampled: np.ndarray, lost: _Index, place: Place) -> None:
    """Gives back to resampled labels what taking the nearest old voxel lost.

    Args:
        labels: uint8 [Z, Y, X] before.
        resampled: uint8 [z, y, x] after; changed in place.
        lost: indices of annotated old voxels that lie in unannotated new ones.
        place: from indices of old voxels to those of the new voxels that they lie in, and their
            squared distance in mm from those voxels' centres; infinite where a new voxel may hold a
            label only if a structure would vanish otherwise.
    """
    new, far = place(lost)
    order = np.argsort(-far, kind="stable")
    order = order[np.isfinite(far[order])]
    # Assignment runs in order, so the nearest voxel, written last, stays.
    resampled[tuple(n[order] for n in new)] = labels[tuple(i[order] for i in lost)]
    _keep_structures(labels, resampled, place)


def _keep_structures(labels: np.ndarray, resampled: np.ndarray, place: Place) -> None:
    counts = counts_by_slice(resampled).sum(axis=0)
    before = counts_by_slice(labels).sum(axis=0)
    structures = np.setdiff1d(np.flatnonzero(before), (0, IGNORE)).astype(np.uint8)
    for value in structures[counts[structures] == 0]:
        new, far = place(np.nonzero(labels == value))
        # The last voxel of another structure is taken only when there is no other place.
        sole = (counts[resampled[new]] == 1) & (resampled[new] != 0)
        best = np.lexsort((far, sole))[0]
        chosen = tuple(int(n[best]) for n in new)
        counts[resampled[chosen]] -= 1
        resampled[chosen] = value
        counts[value] += 1
    if (counts[structures] == 0).any():
        _make_room(labels, resampled, place, structures)


def _make_room(
    labels: np.ndarray,
    resampled: np.ndarray,
    place: Place,
    structures: np.ndarray,
) -> None:
    """Gives as many structures as possible a voxel each, where the nearest places are contested."""
    candidates = []
    for value in structures:
        new, _ = place(np.nonzero(labels == value))
        placed = np.flatnonzero(resampled == value)
        candidates.append(np.union1d(np.ravel_multi_index(new, resampled.shape), placed))
    ends = np.cumsum([0, *(len(c) for c in candidates)])
    places, column = np.unique(np.concatenate(candidates), return_inverse=True)
    graph = csr_matrix((np.ones(ends[-1]), column, ends), (len(structures), len(places)))
    match = maximum_bipartite_matching(graph, "column")
    resampled.flat[places[match[match >= 0]]] = structures[match >= 0]
