"""Labels in a wrong place are noticed; those in the right one are not."""

from pathlib import Path

import numpy as np
import pytest

from data_tools.phantoms.anatomy import generate
from data_tools.placement import about_place
from tl3d_keras import volume_io
from tl3d_keras.annotation import IGNORE

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real scans are not here")
WHOLE = (0, 0, 0)


@pytest.fixture(scope="module")
def phantom() -> tuple[np.ndarray, np.ndarray]:
    image, labels = generate(5, (48, 40, 48), (8.0, 8.0, 8.0))
    return image, labels.astype(np.uint8)


def test_labels_in_their_place_raise_no_doubt(phantom):
    image, labels = phantom
    assert about_place(image, labels, WHOLE) == []
    sparse = np.full_like(labels, IGNORE)
    sparse[::5] = labels[::5]
    assert about_place(image, sparse, WHOLE) == []
    assert about_place(image, labels[20:35], (20, 0, 0)) == []
    for nothing in (np.zeros_like(labels), np.full_like(labels, IGNORE)):
        assert about_place(image, nothing, WHOLE) == []
    assert about_place(np.zeros_like(image), labels, WHOLE) == []


@pytest.mark.parametrize(("axes", "named"), [((0,), "z"), ((1,), "y"), ((0, 1), "z and y")])
def test_mirrored_labels(phantom, axes, named):
    image, labels = phantom
    (line,) = about_place(image, np.flip(labels, axes), WHOLE)
    assert f"much better mirrored along {named};" in line


def test_a_part_at_a_wrong_place(phantom):
    image, labels = phantom
    (line,) = about_place(image, labels[30:42], WHOLE)
    assert "at voxel 30 of z than at 0" in line
    (line,) = about_place(image, labels[:, 4:30], (0, 14, 0))
    assert "at voxel 4 of y than at 14" in line


@needs_data
def test_the_real_part_whose_origin_is_lost():
    image = volume_io.read(DATA / "ct/example_ct.nii.gz").array[..., 0]
    labels = volume_io.read_labels(DATA / "ct/example_seg_30_slices.nii.gz").array[..., 0]
    (line,) = about_place(image, labels.astype(np.uint8), WHOLE)
    assert "at voxel 82 of z than at 0" in line
    assert about_place(image, labels.astype(np.uint8), (82, 0, 0)) == []


@needs_data
@pytest.mark.parametrize("name", ["hippocampus", "left_atrium"])
def test_real_labels(name):
    for path in sorted((DATA / name / "labelsTr").iterdir())[::19]:
        labels = volume_io.read_labels(path).array[..., 0].astype(np.uint8)
        image = volume_io.read(DATA / name / "imagesTr" / path.name).array[..., 0]
        assert about_place(image, labels, WHOLE) == [], path.name
