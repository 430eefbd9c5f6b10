"""What stays of a phantom's labels: the structures asked for, in the slices that are annotated."""

from collections.abc import Sequence

import numpy as np

from tl3d_keras.annotation import IGNORE


def select(labels: np.ndarray, structures: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """Numbers the named structures 1 to K, in the order given, and leaves out the others known."""
    numbers = np.zeros(len(known) + 1, np.uint8)
    for number, name in enumerate(structures, start=1):
        numbers[1 + known.index(name)] = number
    return numbers[labels]


def sparsify(
    labels: np.ndarray,
    rng: np.random.Generator,
    annotated_slices: float,
    annotated_structures: float,
    structures: Sequence[str],
) -> tuple[np.ndarray, list[str]]:
    """Takes annotation away, in the two ways of sparse data sets.

    Args:
        labels: uint8 [Z, Y, X], 0 to K.
        rng: draws which slices and which structures stay annotated.
        annotated_slices: fraction of the axial slices that stay annotated, 0 to 1; one at least.
        annotated_structures: fraction of the structures that do, 0 to 1; one at least.
        structures: names of labels 1 to K.

    Returns:
        Labels uint8 [Z, Y, X], with `IGNORE` in unannotated slices and 0 where an unannotated
        structure is, and the sorted names of the annotated structures.
    """
    kept = _draw(rng, len(structures), annotated_structures) + 1
    sparse = np.where(np.isin(labels, kept), labels, 0).astype(np.uint8)
    unannotated = np.ones(len(labels), bool)
    unannotated[_draw(rng, len(labels), annotated_slices)] = False
    sparse[unannotated] = IGNORE
    return sparse, sorted(structures[number - 1] for number in kept)


def _draw(rng: np.random.Generator, count: int, fraction: float) -> np.ndarray:
    return rng.choice(count, max(1, round(fraction * count)), replace=False)
