"""Scores of a segmentation on the annotated voxels of its reference: overlap, surfaces, volumes."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy import ndimage

from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError

_NEIGHBOURS = ndimage.generate_binary_structure(3, 1)

_Slices = tuple[slice, ...]


@dataclass(frozen=True)
class Scores:
    """How well one structure of one case was found, on annotated voxels alone.

    P and R are the annotated voxels of the structure in the prediction and in the reference. A
    voxel is on the surface of P (or R) if it is in P (R) and an annotated 6-neighbour is not: at
    the border to unannotated voxels, and at the edge of the volume, nobody knows where the
    structure ends. Every surface voxel has a distance, that of its centre to the nearest centre
    of the other side's surface. With sparse annotation the other side's true surface may be
    nearer, in voxels that nobody annotated, so distances are upper bounds.

    None is a value that is not defined; it is left out of every mean.

    Attributes:
        dice: 2 |P and R| / (|P| + |R|), in [0, 1]. 0 if one of P and R is empty, None if both are.
        hd95_mm: 95th percentile, interpolated linearly, of the distances in mm of all surface
            voxels of P and of R together: the pooled form, as in MedPy's `hd95`, and not the
            larger of the two one-sided percentiles. None unless both have a surface.
        nsd: normalised surface Dice (Nikolov et al., arXiv 1809.04430) with surfaces counted in
            voxels: the share, in [0, 1], of all surface voxels of P and of R whose distance is at
            most one voxel, measured in voxels along each axis whatever the spacing. 0 if one of P
            and R is empty, None if both are or if neither has a surface.
        volume_difference_ml: volume of P minus that of R, in ml; 0 if both are empty.
        volume_difference_relative: (|P| - |R|) / |R|, at least -1. None if R is empty.
    """

    dice: float | None
    hd95_mm: float | None
    nsd: float | None
    volume_difference_ml: float
    volume_difference_relative: float | None


METRICS = tuple(field.name for field in fields(Scores))


@dataclass(frozen=True)
class Statistics:
    """One score over the cases where it is defined.

    Attributes:
        mean: None without such a case.
        std: population standard deviation (divided by `count`); None without such a case.
        count: cases where the score is defined.
    """

    mean: float | None
    std: float | None
    count: int


@dataclass(frozen=True)
class Summary:
    """All scores over all cases.

    Attributes:
        structures: structure name -> score name -> its statistics over the cases.
        mean: score name -> mean of the structures' means, every structure counting the same
            however many cases it is in; None where no structure has one.
    """

    structures: dict[str, dict[str, Statistics]]
    mean: dict[str, float | None]


def evaluate_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: Sequence[float],
    structures: Mapping[int, str],
    annotated: Collection[str] | None = None,
    surfaces: bool = True,
) -> dict[str, Scores]:
    """Scores every structure of a case.

    A voxel whose reference is IGNORE (255) counts in nothing, whatever its prediction.

    Args:
        prediction: integer labels [Z, Y, X].
        reference: integer labels [Z, Y, X] on the same grid, IGNORE where unannotated.
        spacing: (z, y, x) in mm.
        structures: label, 1 to 254 -> name.
        annotated: names of the structures annotated in this case; None for all. The others get
            no score: 0 in the reference says nothing about them.
        surfaces: off leaves HD95 and NSD undefined, for overlap and volumes in a fraction of the
            time.

    Returns:
        Name -> scores, in the order of `structures`.

    Raises:
        InputError: the shapes differ, or `annotated` holds a name that is no structure.
    """
    if prediction.shape != reference.shape:
        raise InputError(
            f"expected a prediction of the reference's shape {reference.shape}, "
            f"found {prediction.shape}"
        )
    unknown = sorted(set(annotated or ()) - set(structures.values()))
    if unknown:
        raise InputError(
            f"expected annotated structures among {', '.join(structures.values())}, "
            f"found {unknown[0]!r}"
        )
    scored = {
        value: name for value, name in structures.items() if annotated is None or name in annotated
    }
    seen = reference != IGNORE
    prediction = np.where(seen, prediction, 0)
    highest = max(scored, default=0)
    boxes = [ndimage.find_objects(labels, highest) for labels in (prediction, reference)]
    scores = {}
    for value, name in scored.items():
        # Outside both boxes the structure is on neither side, so nothing there can count.
        box = _around([b[value - 1] for b in boxes], reference.shape)
        scores[name] = _score(
            prediction[box] == value, reference[box] == value, seen[box], spacing, surfaces
        )
    return scores


def summary(cases: Iterable[Mapping[str, Scores]], structures: Iterable[str]) -> Summary:
    """Statistics over cases; a case counts for the structures and scores that it has.

    Args:
        cases: what `evaluate_case` gave for each.
        structures: names in the order of the result.
    """
    cases = list(cases)
    by_structure = {
        name: {
            metric: _statistics([getattr(c[name], metric) for c in cases if name in c])
            for metric in METRICS
        }
        for name in structures
    }
    mean = {
        metric: _statistics([s[metric].mean for s in by_structure.values()]).mean
        for metric in METRICS
    }
    return Summary(by_structure, mean)


def _statistics(values: Iterable[float | None]) -> Statistics:
    defined = [value for value in values if value is not None]
    if not defined:
        return Statistics(None, None, 0)
    return Statistics(float(np.mean(defined)), float(np.std(defined)), len(defined))


def _around(boxes: Iterable[_Slices | None], shape: Sequence[int]) -> _Slices:
    """The box around all boxes and the neighbours of what is in them; empty without a box."""
    found = [box for box in boxes if box is not None]
    if not found:
        return tuple(slice(0, 0) for _ in shape)
    return tuple(
        slice(max(0, min(s.start for s in axis) - 1), min(size, max(s.stop for s in axis) + 1))
        for axis, size in zip(zip(*found, strict=True), shape, strict=True)
    )


def _score(
    predicted: np.ndarray,
    true: np.ndarray,
    seen: np.ndarray,
    spacing: Sequence[float],
    surfaces: bool,
) -> Scores:
    """Scores two boolean masks [Z, Y, X] that lie within `seen`."""
    size, true_size = int(predicted.sum()), int(true.sum())
    dice = relative = None
    if size or true_size:
        dice = 2 * int((predicted & true).sum()) / (size + true_size)
    if true_size:
        relative = (size - true_size) / true_size
    hd95, nsd = _surface_scores(predicted, true, seen, spacing) if surfaces else (None, None)
    if surfaces and bool(size) != bool(true_size):
        # A structure that fills all annotated voxels has no surface, and was missed all the same.
        nsd = 0.0
    millilitres = (size - true_size) * float(np.prod(spacing)) / 1000
    return Scores(dice, hd95, nsd, millilitres, relative)


def _surface_scores(
    predicted: np.ndarray, true: np.ndarray, seen: np.ndarray, spacing: Sequence[float]
) -> tuple[float | None, float | None]:
    """HD95 in mm and NSD."""
    one, other = (
        mask & ndimage.binary_dilation(seen & ~mask, _NEIGHBOURS) for mask in (predicted, true)
    )
    count = int(one.sum() + other.sum())
    if not count:
        return None, None
    # At most one voxel away means: the voxel itself or one of its 6-neighbours.
    close = sum(
        int((to & ndimage.binary_dilation(of, _NEIGHBOURS)).sum())
        for to, of in ((one, other), (other, one))
    )
    if not one.any() or not other.any():
        return None, close / count
    distances = np.concatenate(
        [
            ndimage.distance_transform_edt(~of, sampling=spacing)[to]
            for to, of in ((one, other), (other, one))
        ]
    )
    return float(np.percentile(distances, 95)), close / count
