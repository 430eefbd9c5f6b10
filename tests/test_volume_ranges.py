"""Ranges of volumes from the cases of a manifest, and back from a model's provenance."""

import json

import pytest
from helpers import case_entry, write_records

from tl3d_keras import manifest, volume_ranges
from tl3d_keras.errors import InputError
from tl3d_keras.volume_ranges import VolumeRange


def case(liver: int, annotated: int = 1000, structures=("liver", "spleen")):
    coverage = {
        "annotated": {"slices": 10, "voxels": annotated},
        "liver": {"slices": 5, "voxels": liver},
        "spleen": {"slices": 0, "voxels": 0},
    }
    return case_entry(
        shape=(10, 10, 10, 1), coverage=coverage, annotated_structures=list(structures)
    )


WHOLE = [case(voxels) for voxels in (100, 200, 300, 400, 500)]


def test_percentiles_of_whole_cases():
    found = volume_ranges.measure(["liver", "spleen"], WHOLE, (2.0, 5.0, 1.0))
    # 10 mm3 a voxel; the percentiles lie 4 % of the way to the next case.
    assert found == {"liver": {"low": 1.04, "high": 4.96, "cases": 5}}


@pytest.mark.parametrize(
    "other", [case(900, annotated=999), case(900, structures=("spleen",)), case(0)]
)
def test_what_does_not_show_the_whole_structure_does_not_count(other):
    expected = volume_ranges.measure(["liver"], WHOLE, (1.0, 1.0, 1.0))
    assert volume_ranges.measure(["liver"], [*WHOLE, other], (1.0, 1.0, 1.0)) == expected
    assert volume_ranges.measure(["liver"], [*WHOLE[1:], other], (1.0, 1.0, 1.0)) == {}


def test_of_records(tmp_path):
    """Cubes of 7 voxels a side of 2 mm3, which the other structure may cover in part."""
    content = manifest.load(write_records(tmp_path, num_cases=6, sparse=False))
    found = volume_ranges.measure(content.structures, content.cases, content.spacing)
    assert found["spleen"] == {"low": 0.686, "high": 0.686, "cases": 6}
    assert 0 < found["liver"]["low"] < found["liver"]["high"] <= 0.686


def test_through_json_and_models_without():
    found = volume_ranges.measure(["liver"], WHOLE, (1.0, 1.0, 1.0))
    provenance = json.loads(json.dumps({volume_ranges.PROVENANCE_KEY: found}))
    assert volume_ranges.of_model(provenance, "m") == {"liver": VolumeRange(0.104, 0.496, 5)}
    assert volume_ranges.of_model({"seed": 1}, "m") == {}


@pytest.mark.parametrize("wrong", [[1], {"liver": 3}, {"liver": {"low": 1}}, None])
def test_what_is_no_range(wrong):
    with pytest.raises(InputError, match="^m: expected ranges as structure_volumes_ml, found "):
        volume_ranges.of_model({volume_ranges.PROVENANCE_KEY: wrong}, "m")
