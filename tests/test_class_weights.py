"""Class weights: shares among annotated voxels of the cases that annotate a structure."""

import numpy as np
import pytest
from helpers import case_entry

from tl3d_keras import class_weights

NAMES = ["liver", "spleen"]


def case(annotated, voxels, **counts):
    coverage = {name: {"slices": 1, "voxels": counts.get(name, 0)} for name in NAMES}
    coverage["annotated"] = {"slices": 1, "voxels": voxels}
    return case_entry(annotated_structures=annotated, coverage=coverage)


@pytest.mark.parametrize(
    ("cases", "shares"),
    [
        ([case(NAMES, 100, liver=20, spleen=30)], (0.5, 0.2, 0.3)),
        # The second case says nothing about the spleen.
        (
            [case(NAMES, 100, liver=20, spleen=30), case(["liver"], 300, liver=60)],
            (0.725, 0.2, 0.3),
        ),
        ([case(NAMES, 100, liver=30), case([], 100)], (0.85, 0.3, 0)),
        ([case([], 0)], (0, 0, 0)),
    ],
)
def test_by_hand(cases, shares):
    occurring = np.count_nonzero(shares)
    expected = [1 / (occurring * share) if share else 1.0 for share in shares]
    np.testing.assert_allclose(class_weights.balanced(NAMES, cases), expected)


def test_bounds():
    cases = [case(NAMES, 10**6, liver=1, spleen=500_000)]
    expected = [1 / (3 * 0.499999), 10.0, 1 / (3 * 0.5)]
    np.testing.assert_allclose(class_weights.balanced(NAMES, cases), expected)
    names = [f"s{i}" for i in range(20)]
    coverage = {name: {"slices": 1, "voxels": 1} for name in names}
    coverage["annotated"] = {"slices": 1, "voxels": 10**6}
    many = [case_entry(annotated_structures=names, coverage=coverage)]
    assert class_weights.balanced(names, many) == [0.1] + [10.0] * 20
