"""Scores against hand-computed numbers, and the command that computes them from files."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from experiments import evaluate as evaluate_command
from tl3d_keras import volume_io
from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError
from tl3d_keras.evaluation import METRICS, Scores, Statistics, evaluate_case, summary
from tl3d_keras.volumes import Volume

ROOT = Path(__file__).resolve().parents[1]
SPACING = (4.0, 2.0, 1.5)
VOXEL_ML = 0.012
UNSCORED = Scores(None, None, None, 0.0, None)


def boxes(*corners, shape=(7, 7, 7)) -> np.ndarray:
    """Labels 1, 2, ... in the boxes ((z, y, x), (z, y, x)) from a first to behind a last voxel."""
    labels = np.zeros(shape, np.uint8)
    for value, (start, stop) in enumerate(corners, start=1):
        labels[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = value
    return labels


def one(prediction: np.ndarray, reference: np.ndarray, spacing=SPACING) -> Scores:
    return evaluate_case(prediction, reference, spacing, {1: "liver"})["liver"]


# Every voxel of a 2x2x2 cube is on its surface: half of them move onto the other half.
@pytest.mark.parametrize(
    ("shift", "dice", "hd95", "nsd"),
    [
        ((0, 0, 0), 1.0, 0.0, 1.0),
        ((0, 0, 1), 0.5, 1.5, 1.0),
        ((0, 1, 0), 0.5, 2.0, 1.0),
        ((1, 0, 0), 0.5, 4.0, 1.0),
        ((0, 0, 2), 0.0, 3.0, 0.5),
        ((2, 0, 0), 0.0, 8.0, 0.5),
        ((0, 0, 3), 0.0, 4.5, 0.0),
    ],
)
def test_shifted_cube(shift, dice, hd95, nsd):
    reference = boxes(((1, 1, 1), (3, 3, 3)))
    prediction = np.roll(reference, shift, (0, 1, 2))
    assert one(prediction, reference) == Scores(dice, hd95, nsd, 0.0, 0.0)


def test_nearest_surface_in_mm_and_in_voxels():
    reference, prediction = boxes(), boxes()
    prediction[2, 2, 2] = 1
    reference[3, 2, 2] = reference[2, 2, 5] = 1
    found = one(prediction, reference, (5.0, 1.0, 1.0))
    # In mm the predicted voxel is 3 from the one and 5 from the other: 3, 3, 5 in all.
    assert found.hd95_mm == pytest.approx(3 + 0.9 * 2)
    # In voxels it has a neighbour: it and that neighbour are near, the third is not.
    assert found.nsd == pytest.approx(2 / 3)
    assert found.dice == 0
    assert found.volume_difference_ml == pytest.approx(-0.005)
    assert found.volume_difference_relative == -0.5


def test_only_voxels_beside_an_outside_voxel_are_surface():
    full = np.ones((3, 3, 3), np.uint8)
    reference, prediction = full.copy(), full.copy()
    reference[0, 0, 0] = prediction[2, 2, 2] = 0
    # Three surface voxels each, around opposite corners; the volume's edge is none.
    found = one(prediction, reference, (1.0, 1.0, 1.0))
    assert found.hd95_mm == pytest.approx(6**0.5)
    assert found.nsd == 0
    assert found.dice == pytest.approx(50 / 52)


def test_hollow_cube_has_the_surface_of_the_full_one():
    reference = boxes(((1, 1, 1), (4, 4, 4)))
    prediction = reference.copy()
    prediction[2, 2, 2] = 0
    found = one(prediction, reference)
    assert found.dice == pytest.approx(52 / 53)
    assert (found.hd95_mm, found.nsd) == (0, 1)
    assert found.volume_difference_ml == pytest.approx(-VOXEL_ML)
    assert found.volume_difference_relative == pytest.approx(-1 / 27)


def test_border_to_unannotated_voxels_is_no_surface():
    reference = np.array([0, 0, 0, 1, 1, IGNORE, IGNORE, IGNORE], np.uint8).reshape(1, 1, 8)
    prediction = np.array([0, 1, 1, 1, 1, 1, 1, 0], np.uint8).reshape(1, 1, 8)
    # The surfaces are voxel 1 and voxel 3; were voxel 4 one too, half would be near.
    assert one(prediction, reference) == Scores(4 / 6, 3.0, 0.0, 2 * VOXEL_ML, 1.0)


@pytest.mark.parametrize("elsewhere", [0, 1, 2, IGNORE])
def test_unannotated_voxels_never_count(elsewhere):
    truth = boxes(((1, 1, 1), (5, 5, 5)))
    reference, prediction = truth.copy(), np.full_like(truth, elsewhere)
    reference[[0, 1, 3, 5, 6]] = IGNORE
    prediction[[2, 4]] = truth[[2, 4]]
    assert one(prediction, reference) == Scores(1.0, 0.0, 1.0, 0.0, 0.0)


EMPTY, SMALL, FULL = boxes(), boxes(((2, 2, 2), (3, 3, 3))), boxes(((0, 0, 0), (7, 7, 7)))
UNANNOTATED = np.full_like(EMPTY, IGNORE)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        (EMPTY, EMPTY, UNSCORED),
        (SMALL, EMPTY, Scores(0.0, None, 0.0, VOXEL_ML, None)),
        (EMPTY, SMALL, Scores(0.0, None, 0.0, -VOXEL_ML, -1.0)),
        (SMALL, UNANNOTATED, UNSCORED),
        (FULL, FULL, Scores(1.0, None, None, 0.0, 0.0)),
        (EMPTY, FULL, Scores(0.0, None, 0.0, -343 * VOXEL_ML, -1.0)),
        (SMALL, FULL, Scores(2 / 344, None, 0.0, -342 * VOXEL_ML, -342 / 343)),
    ],
)
def test_empty_and_full(prediction, reference, expected):
    found = one(prediction, reference)
    for metric in METRICS:
        assert getattr(found, metric) == pytest.approx(getattr(expected, metric)), metric


def direct(prediction: np.ndarray, reference: np.ndarray, value: int) -> tuple[float, float, float]:
    """Dice, HD95 and NSD by the definition, voxel by voxel over the whole volume."""
    seen = set(map(tuple, np.argwhere(reference != IGNORE)))
    sides = [
        set(map(tuple, np.argwhere(labels == value))) & seen for labels in (prediction, reference)
    ]
    steps = [s * np.eye(3, dtype=int)[axis] for axis in range(3) for s in (1, -1)]
    surfaces = [
        np.array([v for v in side if any(tuple(v + step) in seen - side for step in steps)])
        for side in sides
    ]
    mm, voxels = (cdist(*(surface * unit for surface in surfaces)) for unit in (SPACING, 1))
    distances, steps_away = (np.concatenate([d.min(0), d.min(1)]) for d in (mm, voxels))
    dice = 2 * len(sides[0] & sides[1]) / (len(sides[0]) + len(sides[1]))
    return dice, float(np.percentile(distances, 95)), float((steps_away <= 1).mean())


@pytest.mark.parametrize("seed", range(4))
def test_crop_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    reference, prediction = (
        boxes(((2, 2, 1), (5, 6, 3)), ((2, 1, 4), (4, 5, 6)), shape=(8, 9, 10)) for _ in range(2)
    )
    for labels in (reference, prediction):
        noisy = rng.random(labels.shape) < 0.1
        labels[noisy] = rng.integers(0, 3, noisy.sum())
    # The second structure spans the volume, the first is cropped to part of it.
    for labels in (reference, prediction):
        labels[5:][labels[5:] == 1] = 0
    reference[rng.random(reference.shape) < 0.2] = IGNORE
    found = evaluate_case(prediction, reference, SPACING, {1: "a", 2: "b"})
    for value, name in ((1, "a"), (2, "b")):
        scores = found[name]
        assert (scores.dice, scores.hd95_mm, scores.nsd) == pytest.approx(
            direct(prediction, reference, value)
        )
    padded = (np.pad(a, 5, constant_values=IGNORE) for a in (prediction, reference))
    assert evaluate_case(*padded, SPACING, {1: "a", 2: "b"}) == found


def test_partially_annotated_case():
    both = boxes(((1, 1, 1), (3, 3, 3)), ((4, 4, 4), (6, 6, 6)))
    spleen_alone = np.where(both == 1, 0, both)
    structures = {1: "liver", 2: "spleen"}
    assert list(evaluate_case(both, spleen_alone, SPACING, structures)) == ["liver", "spleen"]
    found = evaluate_case(both, spleen_alone, SPACING, structures, ["spleen"])
    assert found == {"spleen": Scores(1.0, 0.0, 1.0, 0.0, 0.0)}
    assert evaluate_case(both, spleen_alone, SPACING, structures, []) == {}
    with pytest.raises(InputError, match="among liver, spleen, found 'kidney'"):
        evaluate_case(both, both, SPACING, structures, ["kidney"])


def test_shapes_must_agree():
    with pytest.raises(InputError, match=r"shape \(7, 7, 7\), found \(6, 7, 7\)"):
        one(EMPTY[1:], EMPTY)


def test_summary():
    cases = [
        {"liver": Scores(0.5, 4.0, 0.5, 1.0, 0.5), "spleen": UNSCORED},
        {"liver": Scores(1.0, None, 0.0, -2.0, None), "spleen": Scores(0.25, 1.0, 1.0, 0.0, 0.0)},
        {"liver": Scores(0.75, 2.0, 1.0, 1.0, -0.5)},
    ]
    found = summary(cases, ["liver", "spleen", "kidney"])
    liver = found.structures["liver"]
    assert liver["dice"] == Statistics(0.75, pytest.approx((0.125 / 3) ** 0.5), 3)
    assert liver["hd95_mm"] == Statistics(3.0, 1.0, 2)
    assert found.structures["spleen"]["dice"] == Statistics(0.25, 0.0, 1)
    assert found.structures["spleen"]["volume_difference_ml"] == Statistics(0.0, 0.0, 2)
    assert found.structures["kidney"]["dice"] == Statistics(None, None, 0)
    assert found.mean == {
        "dice": 0.5,
        "hd95_mm": 2.0,
        "nsd": 0.75,
        "volume_difference_ml": 0.0,
        "volume_difference_relative": 0.0,
    }


def save(path: Path, labels: np.ndarray, spacing=SPACING) -> None:
    volume_io.write(path, Volume(labels[..., np.newaxis], spacing))


LIVER_AND_SPLEEN = boxes(((1, 1, 1), (3, 3, 3)), ((4, 4, 4), (6, 6, 6)))
LIVER_MOVED = boxes(((1, 1, 2), (3, 3, 4)), ((4, 4, 4), (6, 6, 6)))
PERFECT = Scores(1.0, 0.0, 1.0, 0.0, 0.0)


@pytest.fixture
def folders(tmp_path):
    """Two cases, of which the liver of the second was predicted one voxel off."""
    prediction, reference = tmp_path / "prediction", tmp_path / "labelsTr"
    for name in ("a", "b"):
        save(reference / f"{name}.nii.gz", LIVER_AND_SPLEEN)
    save(prediction / "a.nii.gz", LIVER_AND_SPLEEN)
    save(prediction / "b.mha", LIVER_MOVED)
    return prediction, reference, tmp_path / "scores"


def describe(folder: Path, labels: dict, **more) -> None:
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, **more}))


def test_command_writes_and_prints(command, folders, capsys):
    prediction, reference, scores = folders
    describe(reference.parent, {"background": 0, "liver": 1, "spleen": 2, "ignore": 3})
    save(prediction / "extra.nii.gz", LIVER_MOVED)
    for folder, name in (
        (reference, ".hidden.nii.gz"),
        (reference, "c.nii.gz.tmp"),
        (prediction, "._a.nii.gz"),
    ):
        (folder / name).write_bytes(b"")
    command(evaluate_command, prediction=prediction, reference=reference, output_dir=scores)
    printed = capsys.readouterr().out.splitlines()
    assert printed[:3] == [
        "predictions without a reference, skipped: extra",
        "a: mean Dice 1.0000",
        "b: mean Dice 0.7500",
    ]
    assert [line.split() for line in printed[4:7]] == [
        ["liver", "2", "0.7500", "0.75", "1.0000", "0.00", "0.0"],
        ["spleen", "2", "1.0000", "0.00", "1.0000", "0.00", "0.0"],
        ["overall", "mean", "Dice:", "0.8750"],
    ]
    metrics = json.loads((scores / "metrics.json").read_text())
    assert metrics["cases"]["b"]["liver"] == {
        "dice": 0.5,
        "hd95_mm": 1.5,
        "nsd": 1.0,
        "volume_difference_ml": 0.0,
        "volume_difference_relative": 0.0,
    }
    assert metrics["summary"]["structures"]["liver"]["hd95_mm"] == {
        "mean": 0.75,
        "std": 0.75,
        "count": 2,
    }
    assert metrics["summary"]["mean"]["dice"] == 0.875
    with (scores / "metrics.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["case", "structure", *METRICS]
    assert rows[1:] == [
        ["a", "liver", "1.0", "0.0", "1.0", "0.0", "0.0"],
        ["a", "spleen", "1.0", "0.0", "1.0", "0.0", "0.0"],
        ["b", "liver", "0.5", "1.5", "1.0", "0.0", "0.0"],
        ["b", "spleen", "1.0", "0.0", "1.0", "0.0", "0.0"],
    ]
    assert sorted(p.name for p in scores.iterdir()) == ["metrics.csv", "metrics.json"]


def test_names_in_any_script_whatever_the_locale(folders, ascii_locale):
    prediction, reference, output = folders
    evaluate_command.evaluate(prediction, reference, output, ["\u809d\u81df", "spleen"])
    assert "\u809d\u81df" in (output / "metrics.csv").read_text("utf-8")


def test_undefined_scores_are_null_and_empty(tmp_path):
    save(tmp_path / "p.nrrd", boxes())
    save(tmp_path / "r.nii.gz", SMALL)
    evaluate_command.evaluate(tmp_path / "p.nrrd", tmp_path / "r.nii.gz", tmp_path / "scores")
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert metrics["cases"]["r"]["structure_1"]["hd95_mm"] is None
    assert metrics["summary"]["structures"]["structure_1"]["hd95_mm"] == {
        "mean": None,
        "std": None,
        "count": 0,
    }
    row = (tmp_path / "scores" / "metrics.csv").read_text().splitlines()[1]
    assert row == "r,structure_1,0.0,,0.0,-0.012,-1.0"


@pytest.mark.parametrize(
    ("place", "labels", "given", "expected"),
    [
        (None, None, (), ["structure_1", "structure_2"]),
        ("labelsTr", {"0": "background", "1": "liver", "2": "spleen"}, (), ["liver", "spleen"]),
        (".", {"spleen": 2, "liver": 1, "background": 0}, (), ["liver", "spleen"]),
        (".", {"liver": 1}, ("hepar", "lien"), ["hepar", "lien"]),
    ],
)
def test_names_of_structures(folders, place, labels, given, expected):
    prediction, reference, scores = folders
    if place:
        describe(reference.parent / place, labels)
    result = evaluate_command.evaluate(prediction, reference / "b.nii.gz", scores, given)
    assert list(result.structures) == expected
    assert [s["dice"].mean for s in result.structures.values()] == [0.5, 1.0]


@pytest.mark.parametrize("dataset_values", [False, True])
def test_values_of_the_data_set(folders, dataset_values):
    prediction, reference, scores = folders
    describe(reference, {"background": 0, "liver": 2, "spleen": 7, "ignore": 9})
    coded = np.array([0, 2, 7], np.uint8)[LIVER_AND_SPLEEN]
    coded[5:] = 9
    save(reference / "a.nii.gz", coded)
    save(reference / "b.nii.gz", coded)
    predicted = LIVER_AND_SPLEEN.copy()
    predicted[5:] = 0
    for name in ("a.nii.gz", "b.mha"):
        save(prediction / name, coded if dataset_values else predicted)
    result = evaluate_command.evaluate(
        prediction, reference, scores, prediction_has_dataset_values=dataset_values
    )
    assert [s["dice"].mean for s in result.structures.values()] == [1.0, 1.0]
    assert [s["hd95_mm"].mean for s in result.structures.values()] == [0.0, 0.0]


def test_structures_annotated_in_a_case(folders):
    prediction, reference, scores = folders
    describe(reference, {"liver": 1, "spleen": 2}, annotated_labels={"b": ["spleen"]})
    save(reference / "b.nii.gz", np.where(LIVER_AND_SPLEEN == 1, 0, LIVER_AND_SPLEEN))
    result = evaluate_command.evaluate(prediction, reference, scores)
    assert list(json.loads((scores / "metrics.json").read_text())["cases"]["b"]) == ["spleen"]
    assert result.structures["liver"]["dice"] == Statistics(1.0, 0.0, 1)


def remove_prediction(prediction, reference):
    (prediction / "b.mha").unlink()


def undeclared_prediction(prediction, reference):
    save(prediction / "a.nii.gz", np.where(LIVER_AND_SPLEEN == 2, 5, LIVER_AND_SPLEEN))


def undeclared_reference(prediction, reference):
    save(reference / "b.nii.gz", np.where(LIVER_AND_SPLEEN == 2, 5, LIVER_AND_SPLEEN))


def other_spacing(prediction, reference):
    save(prediction / "a.nii.gz", LIVER_AND_SPLEEN, (4.0, 2.0, 1.6))


def other_shape(prediction, reference):
    save(prediction / "a.nii.gz", LIVER_AND_SPLEEN[1:])


def undecided_prediction(prediction, reference):
    save(prediction / "a.nii.gz", np.where(LIVER_AND_SPLEEN == 2, IGNORE, LIVER_AND_SPLEEN))


def two_files_of_a_case(prediction, reference):
    save(reference / "a.nrrd", LIVER_AND_SPLEEN)


def empty_reference(prediction, reference):
    for file in reference.iterdir():
        file.unlink()


def no_prediction_folder(prediction, reference):
    prediction.rename(prediction.parent / "elsewhere")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            remove_prediction,
            r"prediction/b\.nii\.gz: no such file, though the reference .*b\.nii\.gz",
        ),
        (
            undeclared_prediction,
            r"prediction/a\.nii\.gz: expected the declared label values \[0, 1, 2\].* 5$",
        ),
        (
            undeclared_reference,
            r"labelsTr/b\.nii\.gz: expected the declared label values \[0, 1, 2\].* 5$",
        ),
        (other_spacing, r"prediction/a\.nii\.gz: expected the spacing .*a\.nii\.gz"),
        (other_shape, r"prediction/a\.nii\.gz: expected the shape .*found \(6, 7, 7\)"),
        (undecided_prediction, r"prediction/a\.nii\.gz: .*found 8 voxels that say unannotated"),
        (two_files_of_a_case, r"labelsTr/a\.nrrd: expected one file a case, found a\.nii\.gz too"),
        (empty_reference, r"labelsTr: expected label files \(.*found none"),
        (no_prediction_folder, r"prediction: no such file or folder"),
    ],
)
def test_wrong_input_is_named_and_nothing_is_written(folders, spoil, message):
    prediction, reference, scores = folders
    spoil(prediction, reference)
    with pytest.raises(InputError, match=message) as error:
        evaluate_command.evaluate(prediction, reference, scores, ("liver", "spleen"))
    assert "\n" not in str(error.value)
    assert not [p for p in scores.parent.iterdir() if "scores" in p.name]


@pytest.mark.parametrize("value", [-1, 300])
def test_impossible_value_without_names(tmp_path, value):
    for name in ("p.nrrd", "r.nrrd"):
        save(tmp_path / name, np.where(SMALL == 1, value, 0).astype(np.int16))
    with pytest.raises(InputError, match=rf"p\.nrrd: expected label values 0 to 254.* {value}$"):
        evaluate_command.evaluate(tmp_path / "p.nrrd", tmp_path / "r.nrrd", tmp_path / "scores")


def test_background_alone_needs_names(tmp_path):
    save(tmp_path / "r.nrrd", EMPTY)
    with pytest.raises(InputError, match="found background alone"):
        evaluate_command.evaluate(tmp_path / "r.nrrd", tmp_path / "r.nrrd", tmp_path / "scores")


def test_names_of_structures_differ(folders):
    with pytest.raises(InputError, match="different names, found liver,liver"):
        evaluate_command.evaluate(*folders, ("liver", "liver"))


@pytest.mark.parametrize("which", ["prediction", "labelsTr", "."])
def test_label_files_are_never_overwritten(folders, which):
    prediction, reference, _ = folders
    with pytest.raises(InputError, match="expected another folder than that of the label files"):
        evaluate_command.evaluate(prediction, reference, prediction.parent / which, overwrite=True)
    assert (prediction / "a.nii.gz").is_file() and (reference / "a.nii.gz").is_file()


def test_overwrite(folders):
    prediction, reference, scores = folders
    evaluate_command.evaluate(prediction, reference, scores)
    with pytest.raises(InputError, match="--overwrite replaces it"):
        evaluate_command.evaluate(prediction, reference, scores)
    save(prediction / "b.mha", LIVER_AND_SPLEEN)
    evaluate_command.evaluate(prediction, reference, scores, overwrite=True)
    assert json.loads((scores / "metrics.json").read_text())["summary"]["mean"]["dice"] == 1


def test_wrong_geometry_exits_with_2(folders):
    prediction, reference, scores = folders
    other_spacing(prediction, reference)
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "experiments.evaluate",
            f"--prediction={prediction}",
            f"--reference={reference}",
            f"--output_dir={scores}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f"error: {prediction / 'a.nii.gz'}: expected the spacing")


def test_command_does_not_import_tensorflow():
    code = "import sys, experiments.evaluate; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
