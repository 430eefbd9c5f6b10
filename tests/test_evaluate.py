"""The command that scores files: what it writes, what labels mean, what it refuses."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from label_boxes import SPACING, boxes

from experiments import evaluate as evaluate_command
from tl3d_keras import score_files, volume_io
from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError
from tl3d_keras.evaluation import METRICS, Scores, Statistics, evaluate_case, summary
from tl3d_keras.volumes import Volume

ROOT = Path(__file__).resolve().parents[1]


def save(path: Path, labels: np.ndarray, spacing=SPACING) -> None:
    volume_io.write(path, Volume(labels[..., np.newaxis], spacing))


SMALL = boxes(((2, 2, 2), (3, 3, 3)))
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


def test_the_table_says_where_cases_have_no_distance():
    found, missed = boxes(((2, 2, 2), (5, 5, 5))), boxes()
    scores = [evaluate_case(p, found, SPACING, {1: "liver"}) for p in (found, missed)]
    table = score_files.table(summary(scores, ["liver"]))
    assert table[1].split()[:6] == ["liver", "2", "0.5000", "0.00", "of", "1"]
    table = score_files.table(summary(scores[:1], ["liver"]))
    assert table[1].split()[:5] == ["liver", "1", "1.0000", "0.00", "1.0000"]


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
    save(tmp_path / "r.nrrd", boxes())
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
