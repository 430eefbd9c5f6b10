"""Sparse annotation declared as background is noticed; what was annotated in full is not."""

from pathlib import Path

import numpy as np
import pytest
from helpers import case_entry

from data_tools import doubts
from data_tools.phantoms.anatomy import generate
from tl3d_keras import volume_io
from tl3d_keras.annotation import IGNORE
from tl3d_keras.manifest import CaseEntry
from tl3d_keras.paper import STRUCTURES

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real scans are not here")


@pytest.fixture(scope="module")
def whole() -> np.ndarray:
    """The labels of a phantom, all annotated."""
    return generate(5, (48, 40, 48), (8.0, 8.0, 8.0))[1].astype(np.uint8)


def kept(labels: np.ndarray, slices: np.ndarray, rest: int) -> np.ndarray:
    sparse = np.full_like(labels, rest)
    sparse[slices] = labels[slices]
    return sparse


def test_full_annotation_raises_no_doubt(whole):
    assert doubts.about_labels(whole, STRUCTURES) == []
    assert doubts.about_labels(np.zeros_like(whole), STRUCTURES) == []


@pytest.mark.parametrize("step", [2, 3, 5])
def test_slices_between(whole, step):
    slices = np.arange(0, len(whole), step)
    (line,) = doubts.about_labels(kept(whole, slices, 0), STRUCTURES)
    assert "slices such as" in line and "--annotated=labelled_slices" in line
    assert doubts.about_labels(kept(whole, slices, IGNORE), STRUCTURES) == []


@pytest.mark.parametrize(("first", "last", "edge"), [(0, 20, 20), (30, 47, 30)])
def test_cut(whole, first, last, edge):
    slices = np.arange(first, last + 1)
    (line,) = doubts.about_labels(kept(whole, slices, 0), STRUCTURES)
    assert f"as if cut at slice {edge}" in line and "--annotated=labelled_slices" in line
    assert doubts.about_labels(kept(whole, slices, IGNORE), STRUCTURES) == []


def test_what_is_small_or_ends_slowly_is_not_cut():
    labels = np.zeros((9, 10, 10), np.uint8)
    labels[3:5, :4, :4] = 1
    assert doubts.about_labels(labels, ["a"]) == []
    labels[3:5, :5, :5] = 1
    assert len(doubts.about_labels(labels, ["a"])) == 1
    labels[1:3, :4, :6] = labels[5:8, :4, :6] = 1
    labels[3:5] = 1
    assert doubts.about_labels(labels, ["a"]) == []


def test_small_objects_apart_are_no_gap():
    labels = np.zeros((9, 20, 20), np.uint8)
    labels[[2, 4], :4, :4] = 1
    assert doubts.about_labels(labels, ["a"]) == []


def test_two_objects_apart_are_no_gap():
    labels = np.zeros((9, 20, 20), np.uint8)
    labels[1:4, :6, :6] = labels[5:8, 9:, 9:] = 1
    assert not any("between" in line for line in doubts.about_labels(labels, ["a"]))


def entry(name: str, annotated: list[str], slices: int = 4, **voxels: int) -> CaseEntry:
    coverage = {s: {"slices": 1, "voxels": voxels.get(s, 0)} for s in ("liver", "spleen")}
    coverage["annotated"] = {"slices": slices, "voxels": 9}
    return case_entry(name, shape=(4, 4, 5, 1), annotated_structures=annotated, coverage=coverage)


def test_structure_that_some_cases_lack():
    both = ["liver", "spleen"]
    cases = [entry("a", both, liver=3, spleen=3), entry("b", both, liver=3)]
    (line,) = doubts.about_cases(cases, both)
    assert line.startswith("spleen is declared as annotated in 2 cases and not there in 1 of them")
    assert "(b)" in line and "annotated_labels" in line
    # Not declared, or it may lie in the slices that nobody annotated, or no case has it.
    assert doubts.about_cases([cases[0], entry("b", ["liver"], liver=3)], both) == []
    assert doubts.about_cases([cases[0], entry("b", both, slices=3, liver=3)], both) == []
    assert doubts.about_cases([cases[1]], both) == []


def test_many_structures_are_few_lines():
    names = [f"s{i}" for i in range(9)]

    def case(name, voxels):
        coverage = {n: {"slices": 0, "voxels": voxels} for n in names}
        coverage["annotated"] = {"slices": 4, "voxels": 9}
        return case_entry(name, shape=(4, 4, 5, 1), annotated_structures=names, coverage=coverage)

    lines = doubts.about_cases([case("a", 0), case("b", 3)], names)
    assert len(lines) == 6 and lines[-1] == "the same holds for s5, s6, s7 and 1 more"


@needs_data
def test_real_label_of_a_part():
    labels = volume_io.read_labels(DATA / "ct/example_seg_30_slices.nii.gz").array[..., 0]
    names = [str(value) for value in range(1, int(labels.max()) + 1)]
    volume = np.zeros((112, *labels.shape[1:]), np.uint8)
    volume[:30] = labels
    (line,) = doubts.about_labels(volume, names)
    assert "as if cut at slice 29" in line
    volume[30:] = IGNORE
    assert doubts.about_labels(volume, names) == []


@needs_data
@pytest.mark.parametrize("name", ["hippocampus", "left_atrium"])
def test_real_full_labels(name):
    for path in sorted((DATA / name / "labelsTr").iterdir())[::9]:
        labels = volume_io.read_labels(path).array[..., 0].astype(np.uint8)
        assert doubts.about_labels(labels, ["a", "b"]) == [], path.name
