"""What counts as annotated in a case, however it was said, and which structure wins a voxel."""

import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import data_tools
from data_tools import label_reader
from data_tools.layouts import CaseSource, DataSet
from data_tools.layouts.data_set import numbered
from data_tools.reading import ReadOptions
from tl3d_keras import volume_io
from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError
from tl3d_keras.volumes import Volume

SHAPE, NAMES = (4, 3, 3), ("liver", "spleen")
IMAGE = Volume(np.zeros((*SHAPE, 1), np.int16), (2.0, 1.0, 1.0))
DATASET = DataSet(NAMES, ("CT",), numbered(NAMES), ())
ALL, SLICES = ReadOptions(), ReadOptions(annotated="labelled_slices")


def write(path: Path, array: np.ndarray, **grid) -> Path:
    volume_io.write(path, Volume(array[..., None], **{"spacing": IMAGE.spacing, **grid}))
    return path


def source(folder: Path, labels: np.ndarray, annotated=NAMES, mask=None) -> CaseSource:
    return CaseSource(
        "a",
        (folder / "image.nrrd",),
        write(folder / "label.nrrd", labels),
        annotated,
        annotated_mask=None if mask is None else write(folder / "mask.nrrd", mask),
    )


def labels() -> np.ndarray:
    """Slices: background, liver and an ignored voxel, background, spleen."""
    array = np.zeros(SHAPE, np.uint8)
    array[1, 0, 0], array[1, 0, 1], array[3, 1, 1] = 1, IGNORE, 2
    return array


def read(case: CaseSource, options: ReadOptions = ALL) -> np.ndarray:
    found = label_reader.read(case, IMAGE, DATASET, options)
    assert found.volume.array.dtype == np.uint8
    return found.volume.array[..., 0]


def test_all_that_is_said_combines(tmp_path):
    expected = labels()
    np.testing.assert_array_equal(read(source(tmp_path, labels())), expected)
    expected[[0, 2]] = IGNORE
    np.testing.assert_array_equal(read(source(tmp_path, labels()), SLICES), expected)
    mask = np.full(SHAPE, 7, np.uint8)
    mask[:, 2] = 0
    expected[:, 2] = IGNORE
    np.testing.assert_array_equal(read(source(tmp_path, labels(), mask=mask), SLICES), expected)


def test_a_slice_whose_label_is_masked_holds_none(tmp_path):
    mask = np.ones(SHAPE, np.uint8)
    mask[3, 1, 1] = 0
    found = read(source(tmp_path, labels(), mask=mask), SLICES)
    assert (found[3] == IGNORE).all() and (found[1] != IGNORE).any()


def test_slices_are_those_of_the_file(tmp_path):
    # The axis that varies slowest runs to the left here.
    sagittal = {"direction": (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0)}
    case = source(tmp_path, labels())
    write(tmp_path / "label.nrrd", labels(), **sagittal)
    image = Volume(IMAGE.array, IMAGE.spacing, **sagittal)
    found = label_reader.read(case, image, DATASET, SLICES).volume.array[..., 0]
    assert [bool((s != IGNORE).any()) for s in found] == [False, True, False, True]


def test_mask_of_another_grid(tmp_path):
    case = source(tmp_path, labels(), mask=np.ones((2, 3, 3), np.uint8))
    with pytest.raises(InputError, match=r"mask.nrrd: expected the shape .* of .*label.nrrd"):
        read(case)


def test_structure_that_is_not_declared(tmp_path):
    with pytest.raises(InputError, match=r"label.nrrd: expected .* \(liver\), found spleen"):
        read(source(tmp_path, labels(), ("liver",)))
    mask = (labels() != 2).astype(np.uint8)
    assert 2 not in read(source(tmp_path, labels(), ("liver",), mask))


def test_nothing_annotated_is_worth_a_line(tmp_path):
    found = label_reader.read(source(tmp_path, np.zeros(SHAPE, np.uint8)), IMAGE, DATASET, SLICES)
    assert found.warnings == ("a: nothing of its label counts as annotated",)


def test_mask_and_slices_of_a_label_in_a_box(tmp_path):
    mask = np.ones((2, 3, 3), np.uint8)
    mask[:, :, 0] = 0
    case = source(tmp_path, labels()[:2], mask=mask)
    expected = np.full(SHAPE, IGNORE)
    expected[0, :, 1:] = 0
    expected[1] = labels()[1]
    expected[1, :, 0] = IGNORE
    found = read(case, ReadOptions(partial_labels=True))
    np.testing.assert_array_equal(found, expected)


def test_label_in_a_box_whose_header_says_another_place(tmp_path):
    case = source(tmp_path, labels()[1:3])
    expected = np.full(SHAPE, IGNORE)
    expected[1:3] = labels()[1:3]
    partial = ReadOptions(partial_labels=True)
    np.testing.assert_array_equal(read(replace(case, label_offset=(1, 0, 0)), partial), expected)
    with pytest.raises(InputError, match=r"label.nrrd: expected a box .* found voxels \[3, 0, 0\]"):
        read(replace(case, label_offset=(3, 0, 0)), partial)


def binary(folder: Path, overlapping: bool = False, **values: int) -> CaseSource:
    """Liver in slices 1 and 2, spleen in slice 3 and, overlapping, in slice 2 as well."""
    masks = []
    for name, first, last in (("liver", 1, 2), ("spleen", 3 - overlapping, 3)):
        array = np.zeros(SHAPE, np.uint8)
        array[first : last + 1, 0] = values.get(name, 1)
        masks.append((name, write(folder / f"{name}.nrrd", array)))
    return CaseSource("a", (folder / "image.nrrd",), None, NAMES, tuple(masks))


def test_binary_files(tmp_path):
    expected = np.zeros(SHAPE)
    expected[1:3, 0], expected[3, 0] = 1, 2
    np.testing.assert_array_equal(read(binary(tmp_path, spleen=255)), expected)


def test_overlap(tmp_path):
    case = binary(tmp_path, overlapping=True)
    with pytest.raises(
        InputError,
        match=r"spleen.nrrd: .* found 3 voxels of .*/liver.nrrd too; --overlap=first or last",
    ):
        read(case)
    for overlap, winner in (("first", 1), ("last", 2)):
        found = read(case, ReadOptions(overlap=overlap))
        assert [set(s[0]) for s in found] == [{0}, {1}, {winner}, {2}]


def test_structure_lost_under_another_is_worth_a_line(tmp_path):
    case = binary(tmp_path)
    write(case.masks[1][1], np.asarray(read(case) == 1, np.uint8))
    found = label_reader.read(case, IMAGE, DATASET, ReadOptions(overlap="first"))
    assert found.warnings == (
        "a: spleen lies under other structures altogether and is lost to --overlap",
    )
    empty = binary(tmp_path, spleen=0)
    assert label_reader.read(empty, IMAGE, DATASET, ALL).warnings == ()


def test_binary_file_with_more_values(tmp_path):
    case = binary(tmp_path)
    write(case.masks[0][1], labels())
    with pytest.raises(InputError, match="liver.nrrd: .* one value beside 0, found 1, 2, 255"):
        read(case)


def test_binary_file_of_another_grid(tmp_path):
    case = binary(tmp_path)
    write(case.masks[0][1], labels()[:2])
    with pytest.raises(InputError, match="liver.nrrd: expected the shape"):
        read(case)


def test_dicom_label(tmp_path, monkeypatch):
    masks = {"liver": labels() == 1, "heart": labels() == 0}
    stand_in = types.SimpleNamespace(
        is_dicom_label=lambda path: path.suffix == ".dcm",
        read=lambda path, image: masks,
        about_frame=lambda path, image, series: ["other frame"],
    )
    monkeypatch.setitem(sys.modules, "data_tools.dicom_labels", stand_in)
    monkeypatch.setattr(data_tools, "dicom_labels", stand_in, raising=False)
    case = CaseSource("a", (tmp_path / "ct",), tmp_path / "seg.dcm", None)
    found = label_reader.read(case, IMAGE, DATASET, ALL)
    # What the file does not hold was not annotated; what the data set does not name is left out.
    assert found.annotated == ("liver",)
    np.testing.assert_array_equal(found.volume.array[..., 0], masks["liver"])
    with pytest.raises(InputError, match="seg.png: no such file"):
        label_reader.read(replace(case, label=tmp_path / "seg.png"), IMAGE, DATASET, ALL)
    masks["spleen"] = labels() > 0
    with pytest.raises(InputError, match=r"seg.dcm \(spleen\): .* 1 voxels of .*seg.dcm \(liver\)"):
        label_reader.read(case, IMAGE, DATASET, ALL)
