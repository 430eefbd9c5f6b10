"""Scores of a segmentation whose labels are those of the model, not those of the reference."""

import json

import numpy as np
import pytest

from data_tools.references import References
from tl3d_keras import volume_io
from tl3d_keras.errors import InputError
from tl3d_keras.volumes import Volume

STRUCTURES = ("liver", "spleen", "heart")


def write(path, values):
    volume_io.write(path, Volume(np.array(values, np.uint8).reshape(1, 2, 4, 1), (1, 1, 1)))


@pytest.fixture
def predicted(tmp_path):
    # Two voxels of each structure of the model.
    write(tmp_path / "labels/a.nii.gz", [1, 1, 2, 2, 3, 3, 0, 0])
    return tmp_path / "labels/a.nii.gz"


def describe(folder, **more):
    labels = {"background": 0, "kidney": 1, "spleen": 5, "liver": 7, "ignore": 9}
    content = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz", **more}
    (folder / "dataset.json").write_text(json.dumps(content))


def test_structures_are_matched_by_name(tmp_path, predicted):
    # The heart, which this data set does not know, counts as background.
    write(tmp_path / "references/a.nii.gz", [7, 5, 5, 5, 0, 1, 9, 9])
    describe(tmp_path / "references")
    scores = References(tmp_path / "references", STRUCTURES).scores("a", predicted)
    assert {name: s.dice for name, s in scores.items()} == {
        "liver": pytest.approx(2 / 3),
        "spleen": pytest.approx(4 / 5),
    }


def test_structures_that_were_not_annotated_have_no_score(tmp_path, predicted):
    write(tmp_path / "references/a.nii.gz", [7, 7, 0, 0, 0, 0, 9, 9])
    describe(tmp_path / "references", annotated_labels={"a": ["liver"]})
    scores = References(tmp_path / "references", STRUCTURES).scores("a", predicted)
    assert {name: s.dice for name, s in scores.items()} == {"liver": 1}


def test_without_a_description_the_values_are_those_of_the_model(tmp_path, predicted):
    write(tmp_path / "references/a.nii.gz", [1, 1, 2, 2, 3, 0, 0, 255])
    references = References(tmp_path / "references", STRUCTURES)
    scores = references.scores("a", predicted)
    assert [scores[name].dice for name in STRUCTURES] == [1, 1, pytest.approx(2 / 3)]
    assert references.scores("b", predicted) is None
    # A lone file is the reference whatever its name.
    alone = References(tmp_path / "references/a.nii.gz", STRUCTURES)
    assert alone.scores("b", predicted) == scores


def test_no_structure_in_common(tmp_path, predicted):
    write(tmp_path / "references/a.nii.gz", [0] * 8)
    describe(tmp_path / "references")
    with pytest.raises(InputError, match="of the model .heart., found kidney, spleen, liver"):
        References(tmp_path / "references", ["heart"])


def test_a_value_that_the_model_does_not_have(tmp_path, predicted):
    write(tmp_path / "references/a.nii.gz", [4] * 8)
    with pytest.raises(
        InputError, match="a.nii.gz: expected the declared label values .*, found 4"
    ):
        References(tmp_path / "references", STRUCTURES).scores("a", predicted)
