"""Left and right by name."""

import pytest

from tl3d_keras.errors import InputError
from tl3d_keras.mirrors import mirrored_labels
from tl3d_keras.paper import STRUCTURES


@pytest.mark.parametrize(
    ("structures", "expected"),
    [
        ([], [0]),
        (["liver", "spleen"], [0, 1, 2]),
        (["left_kidney", "liver", "right_kidney"], [0, 3, 2, 1]),
        (["kidney left", "kidney right"], [0, 2, 1]),
        (["Left-Lung", "kidney_left", "right lung", "Kidney.Right"], [0, 3, 4, 1, 2]),
        (["kidney_l", "kidney_r"], [0, 2, 1]),
        (["L kidney", "Parotid_Lt", "R kidney", "Parotid_Rt"], [0, 3, 4, 1, 2]),
        (["KidneyLeft", "RightKidney", "leftlung", "rightlung"], [0, 2, 1, 4, 3]),
        (["lung_upper_lobe_left", "lung_upper_lobe_right"], [0, 2, 1]),
        # Sides that are none.
        (["vertebra_L1", "L5", "R", "bright_spot", "cleft", "grade_l_tumour"], [*range(7)]),
        (["left and right lung", "heart"], [0, 1, 2]),
    ],
)
def test_partners(structures, expected):
    assert mirrored_labels(structures) == expected


def test_the_structures_of_the_paper():
    mirrored = mirrored_labels(STRUCTURES)
    pairs = {(STRUCTURES[a - 1], STRUCTURES[b - 1]) for a, b in enumerate(mirrored) if a < b}
    names = ["adrenal_gland", "kidney", "lung", "psoas_major"]
    assert {tuple(sorted(p)) for p in pairs} == {(f"left_{n}", f"right_{n}") for n in names}


@pytest.mark.parametrize(
    ("structures", "named"),
    [
        (["liver", "left_atrium"], "left_atrium"),
        (["kidney_l", "liver_r"], "kidney_l"),
        (["kidney left", "left_kidney", "right_kidney"], "kidney left"),
    ],
)
def test_no_partner(structures, named):
    with pytest.raises(
        InputError, match=f"expected no flip along x, or .* found '{named}' without"
    ):
        mirrored_labels(structures)
