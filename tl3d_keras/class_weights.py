"""Class weights from what was annotated."""

from collections.abc import Sequence

from tl3d_keras.manifest import CaseEntry

_LEAST, _MOST = 0.1, 10.0


def balanced(structures: Sequence[str], cases: Sequence[CaseEntry]) -> list[float]:
    """Weights by which rare labels count as much as frequent ones, within bounds.

    The share of a structure is that of its voxels among all annotated voxels of the cases in which
    it was annotated; unannotated voxels and other cases say nothing about it. Background, which in
    partially labelled cases is every voxel labelled 0, has its share among all annotated voxels. A
    weight is the inverse of the share, divided by the number of labels that occur, so that without
    bounds the mean weight of fully labelled voxels is 1.

    Args:
        structures: names of labels 1..K.
        cases: those to train on.

    Returns:
        K + 1 weights of 0.1 to 10, background first; 1 for a label that does not occur.
    """
    background = [
        (_voxels([case], "annotated") - sum(_voxels([case], s) for s in case.annotated_structures))
        for case in cases
    ]
    shares = [_ratio(sum(background), _voxels(cases, "annotated"))]
    for name in structures:
        known = [case for case in cases if name in case.annotated_structures]
        shares.append(_ratio(_voxels(known, name), _voxels(known, "annotated")))
    occurring = sum(share > 0 for share in shares)
    return [min(max(1 / (occurring * share), _LEAST), _MOST) if share else 1.0 for share in shares]


def _voxels(cases: Sequence[CaseEntry], of: str) -> int:
    return sum(case.coverage[of]["voxels"] for case in cases)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
