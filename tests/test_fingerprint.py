"""What is proposed follows from the annotated voxels, for reasons that are told."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import case_entry

from data_tools.fingerprint import pooled, propose, propose_spacing
from data_tools.plan import Header
from tl3d_keras.distribution import describe
from tl3d_keras.manifest import StructureStatistics

SPACING = ((2.0, 1.0, 1.0), "chosen")


def case(shape=(40, 50, 60), **values):
    """A case whose structures hold the values from `low` to `high`."""
    structures = {
        name: StructureStatistics(1.0, [describe(np.linspace(low, high, 201))])
        for name, (low, high) in values.items()
    }
    return case_entry(shape=(*shape, 1), structures=structures)


def headers(*spacings):
    return [Header(spacing, (10, 10, 10)) for spacing in spacings]


def test_spacing_is_the_median():
    spacing, reason = propose_spacing(headers((1, 1, 1), (2, 1, 3), (5, 2, 2)))
    assert spacing == (2.0, 1.0, 2.0) and reason == "the median of 3 cases"


def test_spacing_of_a_coarse_axis_is_finer_than_its_median():
    spacings = [(float(z), 1.0, 1.0) for z in range(2, 13)]
    spacing, reason = propose_spacing(headers(*spacings))
    assert spacing == (3.0, 1.0, 1.0)
    assert "along z, over 3 times coarser than the others, the 10th percentile" in reason
    # Three times is not yet over three times.
    assert propose_spacing(headers((1.0, 3.0, 1.0)))[0] == (1.0, 3.0, 1.0)


def test_window_of_ct():
    proposal = propose(*SPACING, ["CT"], ["liver"], [case(liver=(0, 200))])
    # Percentiles 1 and 199 and a quarter of 198 on either side.
    assert proposal.window == [(-48.0, 248.0)]
    assert "window -48 to 248 HU" in proposal.reasons[1]
    assert proposal.spacing == SPACING[0]


def test_lungs_do_not_widen_the_window():
    cases = [case(liver=(0, 200), lung=(-950, -700)), case(lung=(-900, -600))]
    proposal = propose(*SPACING, ["CT"], ["liver", "lung"], cases)
    assert proposal.window == [(-48.0, 248.0)]
    assert "lung left out" in proposal.reasons[1]
    alone = propose(*SPACING, ["CT"], ["lung"], [case(lung=(-950, -750))])
    assert alone.window == [(-998.0, -702.0)] and "left out" not in alone.reasons[1]


def with_gas(share: float) -> np.ndarray:
    """-50 to 50 HU, and between air and those where gas is near."""
    gas = np.linspace(-1000, -50, int(1000 * share), endpoint=False)
    return np.concatenate([gas, np.linspace(-50, 50, 1000 - len(gas))])


@pytest.mark.parametrize("share", [0.0, 0.05, 0.15])
def test_gas_does_not_widen_the_window(share):
    stomach = StructureStatistics(1.0, [describe(with_gas(share))])
    entry = case(liver=(0, 200))
    entry = replace(entry, structures={**entry.structures, "stomach": stomach})
    ((low, high),) = propose(*SPACING, ["CT"], ["liver", "stomach"], [entry]).window
    # Its tissue begins at -50; all of the liver is there.
    assert -250 <= low <= -110 and 248 <= high <= 275


def test_a_small_structure_of_low_values_is_in_the_window():
    fat = StructureStatistics(1.0, [describe(np.linspace(-120, -80, 9))])
    entry = case(liver=(0, 200))
    entry = replace(entry, structures={"liver": entry.structures["liver"], "fat": fat})
    big = [case(liver=(0, 200)) for _ in range(40)]
    ((low, _),) = propose(*SPACING, ["CT"], ["liver", "fat"], [entry, *big]).window
    assert low < -120


def test_window_of_a_structure_of_one_value_is_not_empty():
    assert propose(*SPACING, ["CT"], ["a"], [case(a=(5, 5))]).window == [(4.0, 6.0)]


@pytest.mark.parametrize(
    ("channels", "cases", "reason"),
    [
        (["MRI"], [case(liver=(0, 200))], "no unit that holds across scanners"),
        (
            ["CT", "PET"],
            [case(liver=(0, 200))],
            "across scanners is known for PET",
        ),
        (["CT"], [case()], "nothing is annotated"),
    ],
)
def test_z_scores(channels, cases, reason):
    proposal = propose(*SPACING, channels, ["liver"], cases)
    assert proposal.window is None and reason in proposal.reasons[1]


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([(36, 50, 35)], (40, 56, 40)),
        ([(30, 30, 30), (36, 50, 35), (99, 99, 99)], (40, 56, 40)),
        ([(8, 8, 3)], (8, 8, 8)),
        ([(20, 512, 512)], (24, 104, 104)),
        ([(300, 300, 300)], (64, 64, 64)),
    ],
)
def test_patch_size(shapes, expected):
    proposal = propose(*SPACING, ["MRI"], ["liver"], [case(shape) for shape in shapes])
    assert proposal.patch_size == expected
    assert np.prod(expected) <= 64**3
    whole = "whole" in proposal.reasons[2]
    assert whole == all(n >= m for n, m in zip(expected, np.median(shapes, 0), strict=True))


def test_pooled():
    cases = [case(a=(0, 2)), case(b=(9, 9)), case(a=(4, 6))]
    (found,) = pooled(cases, "a")
    assert found.voxels == 402 and found.mean == pytest.approx(3)
    assert pooled(cases, "c") == []
