"""The study of training sizes: its file, its cells, its records, and a whole small one."""

import csv
import json
import os
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import pytest

from data_tools.study import (
    cells,
    driver,
    study_file,
    study_schema,
    task_dataset,
    task_records,
    workers,
)
from data_tools.study.driver import StudyOptions
from experiments import size_study
from tl3d_keras import artifact, published, stored_case
from tl3d_keras import manifest as manifest_module
from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError
from tl3d_keras.study import outcome, report
from tl3d_keras.study.outcome import CellKey

ROOT = Path(__file__).resolve().parents[1]
# A label whose place is given though it covers the whole image.
MOVED = {
    "dataset_dir": "d",
    "labels": {"box": 1},
    "channels": ["CT"],
    "test": ["a"],
    "cases": {"a": {"images": ["i.nii"], "label": "l.nii", "label_offset": [1, 0, 0]}},
}
STUDIES = sorted((ROOT / "experiments" / "studies").glob("*.json"))


def make_content(**changes):
    """A study of the data set in `dataset`: 4 training cases, 2 test cases."""
    content = {
        "description": "Boxes.",
        "tasks": {
            "boxes": {
                "dataset_dir": "dataset",
                "test": ["case_4", "case_5"],
                "train": ["case_2", "case_0", "case_3", "case_1"],
            }
        },
        "bases": {"small": "base"},
        "sizes": [1],
        "seeds": [0],
        "modes": {"scratch": {}, "finetune": {"freeze": ["encoder_*"], "head_steps": 1}},
        "settings": {"steps": 2, "patch_size": [8, 8, 8], "batch_size": 1, "precision": "float32"},
    }
    return content | changes


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a data set and a base."""
    folder = tmp_path_factory.mktemp("study")
    helpers.write_dataset(folder / "dataset", num_cases=6, sparse=False)
    artifact.save(helpers.network(), helpers.info(), folder / "base")
    return folder


@pytest.fixture
def make_study(place):
    """Writes a study file of `make_content(**changes)`."""

    def make(**changes):
        path = place / "study.json"
        path.write_text(json.dumps(make_content(**changes)))
        return path

    return make


@pytest.fixture(scope="module")
def data(place):
    """The records of the task."""
    (place / "study.json").write_text(json.dumps(make_content()))
    task = study_file.load(place / "study.json").tasks["boxes"]
    dataset = task_dataset.read(task, place, place)
    names = study_file.splits_of(task, place, place)
    train, test = task_records.make(task, dataset, names, place / "records", 1, print)
    return task_records.TaskData(place / "records", train, test, tuple(names[0]), ())


def grid(study, place, data, **base_paths):
    bases = {n: cells.read_base(str(place / p)) for n, p in (base_paths or study.bases).items()}
    return cells.grid(replace(study, bases=dict.fromkeys(bases, "")), bases, {"boxes": data})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sise": [1]}, "study.json: not a study: sise: Unexpected keyword argument"),
        ({"sizes": [0]}, "study.json: not a study: sizes.0"),
        ({"sizes": []}, "task boxes: expected sizes, found none"),
        ({"sizes": [2, [2, 1], 2]}, "task boxes: expected different sizes, found one twice"),
        ({"seeds": []}, "expected at least one of seeds, found none"),
        ({"modes": {"../up": {}}}, "not a study: modes"),
        ({"modes": {"scratch": {"seed": 3}}}, "mode scratch: expected no seed, which the cells"),
        ({"bases": {}}, "mode finetune: expected bases to start from, found none"),
        ({"baseline": "none"}, "expected a baseline of scratch, finetune, found 'none'"),
        ({"tasks": {"boxes": {"dataset_dir": "d"}}}, "task boxes: expected test cases or splits"),
        ({"tasks": {"boxes": 3}}, "study.json: not a study: tasks.boxes"),
        (
            {"tasks": {"boxes": MOVED}},
            "expected partial_labels and a label beside label_offset of a",
        ),
    ],
)
def test_a_wrong_study_file_is_named_in_one_line(make_study, changes, message):
    path = make_study(**changes)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        study_file.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_task_may_come_from_another_study_with_its_sizes(make_study, tmp_path):
    other = make_study(sizes=[2, [2, 1]])
    (tmp_path / "more").mkdir()
    path = tmp_path / "more" / "several.json"
    content = make_content(sizes=[], tasks={"boxes": os.path.relpath(other, path.parent)})
    path.write_text(json.dumps(content))
    found, taken = (study_file.load(p) for p in (other, path))
    sizes = study_file.sizes_of(found, found.tasks["boxes"])
    assert study_file.sizes_of(taken, taken.tasks["boxes"]) == sizes
    assert replace(taken.tasks["boxes"], sizes=()) == found.tasks["boxes"]
    content["tasks"] = {"balls": content["tasks"]["boxes"]}
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"study.json: expected a task balls, found none"):
        study_file.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"stepps": 2}}, "expected settings of .*, found stepps"),
        ({"settings": {"steps": "many"}}, "seed 0: steps: Input should be a valid integer"),
        ({"settings": {"augmentation": "heavy"}}, "boxes, 1 case, scratch .*found 'heavy'"),
        ({"sizes": [5]}, "task boxes: expected sizes up to its 4 training cases, found 5"),
        ({"bases": {"b": "nowhere"}}, "nowhere"),
        ({"bases": {"b": "nowhere.h5"}}, "nowhere.h5: .*no such file"),
    ],
)
def test_wrong_settings_stop_a_study_before_it_trains(
    make_study, place, tmp_path, changes, message
):
    with pytest.raises(InputError, match=message):
        driver.run(make_study(**changes), tmp_path, StudyOptions(place, 0), print)
    assert not (tmp_path / "cells").exists()


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_ready_studies_are_whole(path):
    study = study_file.load(path)
    assert set(study.modes) >= {"scratch", *(("transfer", "finetune") if study.bases else ())}
    for task in study.tasks.values():
        assert set(task.test).isdisjoint(task.train)
        assert max(size.cases for size in study_file.sizes_of(study, task)) <= len(task.train)
        for mode in study.modes.values():
            settings = {**study.settings, **task.settings, **mode, "records_dir": ""}
            cells.run_settings(settings, "here")


def test_sizes_are_nested_within_a_seed_and_seeds_take_other_cases():
    names = [str(number) for number in range(30)]
    assert task_records.ordered(names, 0, True) == names
    assert task_records.ordered(names, 3, False) == names
    first, second = (task_records.ordered(names, seed, True) for seed in (1, 2))
    assert sorted(first) == sorted(second) == sorted(names)
    assert set(first[:4]) != set(second[:4])
    assert first == task_records.ordered(names, 1, True)


def test_cells_of_a_seed_begin_with_those_of_its_smaller_sizes(make_study, place, data):
    study = study_file.load(make_study(sizes=[1, 3], seeds=[0, 5]))
    found, _ = grid(study, place, data)
    assert len(found) == 2 * 2 * 2
    by_size = {(c.key.cases, c.key.seed): c.cases for c in found}
    assert by_size[3, 0] == ("case_2", "case_0", "case_3")
    for seed in (0, 5):
        assert by_size[3, seed][:1] == by_size[1, seed]


def test_scratch_is_trained_once_for_each_architecture(make_study, place, data):
    for name, filters in (("twin", 2), ("other", 3)):
        if not (place / name).exists():
            artifact.save(helpers.network(1, filters=filters), helpers.info(), place / name)
    study = study_file.load(make_study())
    found, twins = grid(study, place, data, small="base", twin="twin", other="other")
    keys = [(c.key.mode, c.key.base) for c in found]
    assert keys.count(("scratch", "small")) == keys.count(("scratch", "other")) == 1
    assert ("scratch", "twin") not in keys and ("finetune", "twin") in keys
    assert twins["boxes", "twin"] == "small" and twins["boxes", "other"] == "other"


def test_a_base_may_be_the_authors_file_or_one_of_keras(place, make_study, tmp_path):
    published.save(helpers.network(padding="valid"), helpers.WINDOW, tmp_path / "theirs.h5")
    with tarfile.open(ROOT / "tests" / "keras2_models.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    study = make_study(
        bases={name: str(tmp_path / name) for name in ("theirs.h5", "unet.keras")},
        modes={"transfer": {}, "scratch": {}},
        settings={"steps": 1, "patch_size": [20, 20, 20], "batch_size": 1, "precision": "float32"},
    )
    lines = []
    driver.run(study, tmp_path / "out", StudyOptions(place, 0), lines.append)
    assert "4 cells, 0 of them done" in lines
    driver.run(study, tmp_path / "out", StudyOptions(place, 0), lines.append)
    assert "4 cells, 4 of them done" in lines
    # Other weights are another base.
    other = helpers.network(1, padding="valid")
    (tmp_path / "theirs.h5").unlink()
    published.save(other, helpers.WINDOW, tmp_path / "theirs.h5")
    driver.run(study, tmp_path / "out", StudyOptions(place, 0), lines.append)
    assert "4 cells, 3 of them done" in lines


def test_a_changed_study_changes_the_fingerprints_of_what_it_changes(make_study, place, data):
    def prints(**changes):
        found, _ = grid(study_file.load(make_study(**changes)), place, data)
        return {str(cell.key): cell.fingerprint for cell in found}

    before = prints(sizes=[1, 2])
    assert prints(sizes=[1, 2, 3]).items() > before.items()
    modes = {"scratch": {}, "finetune": {"freeze": ["encoder_*"], "head_steps": 2}}
    after = prints(sizes=[1, 2], modes=modes)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {name for name in before if "finetune" in name}
    assert set(prints(settings={"steps": 3}).values()).isdisjoint(before.values())


def test_slices_are_chosen_by_hand_computed_places():
    labels = np.zeros((10, 2, 2), np.uint8)
    assert task_records.chosen_slices(labels, 2).tolist() == [2, 7]
    assert task_records.chosen_slices(labels, 3).tolist() == [1, 5, 8]
    labels[:4] = IGNORE
    assert task_records.chosen_slices(labels, 2).tolist() == [5, 8]
    assert task_records.chosen_slices(labels, 9).tolist() == [4, 5, 6, 7, 8, 9]


def test_a_cell_trains_on_its_cases_in_its_slices_alone(data, tmp_path):
    folder = tmp_path / "records"
    task_records.write_cell_records(folder, data, ["case_3", "case_0"], 3, None)
    manifest = manifest_module.load(folder)
    manifest_module.verify(manifest, folder)
    assert [case.case_id for case in manifest.cases] == ["case_3", "case_0"]
    for case in manifest.cases:
        sparse = stored_case.read(folder, manifest, case)
        whole = stored_case.read(
            data.folder / "train", data.train, data.train.select([case.case_id])[0]
        )
        seen = np.flatnonzero((sparse.labels != IGNORE).any(axis=(1, 2)))
        assert len(seen) == 3 == case.coverage["annotated"]["slices"]
        np.testing.assert_array_equal(sparse.labels[seen], whole.labels[seen])
        np.testing.assert_array_equal(sparse.image.array, whole.image.array)
    # Nothing of the cases that it does not have goes into what it proposes.
    whole_cases = manifest.proposal.reasons[1], data.train.proposal.reasons[1]
    assert whole_cases[0] != whole_cases[1]


def test_drawn_slices_depend_on_seed_and_case(data, tmp_path):
    def drawn(seed):
        task_records.write_cell_records(tmp_path / "r", data, ["case_3", "case_0"], 4, seed)
        manifest = manifest_module.load(tmp_path / "r")
        return [
            np.flatnonzero(
                (stored_case.read(tmp_path / "r", manifest, c).labels != IGNORE).any(axis=(1, 2))
            ).tolist()
            for c in manifest.cases
        ]

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert first == again != other
    assert first[0] != first[1]


def test_labels_of_a_task_choose_structures_and_files(place, tmp_path):
    task = study_schema.Task("dataset", test=("case_1",), labels={"spleen": 2}, channels=("CT",))
    dataset = task_dataset.read(task, place, place)
    assert dataset.structures == ("spleen",)
    assert [dataset.file_values[v] for v in (0, 1, 2, IGNORE)] == [0, 0, 1, IGNORE]
    assert dataset.cases[3].label == place / "dataset" / "labelsTr" / "case_3.nii.gz"
    chosen = study_schema.Task("dataset", test=("case_1",), structures=("spleen",))
    restricted = task_dataset.read(chosen, place, place)
    assert [restricted.file_values[v] for v in (0, 1, 2, IGNORE)] == [0, 0, 1, IGNORE]
    with pytest.raises(InputError, match="expected structures of liver, spleen, found 'heart'"):
        task_dataset.read(replace(chosen, structures=("heart",)), place, place)
    (tmp_path / "imagesTr").mkdir()
    with pytest.raises(InputError, match="expected images in imagesTr and labels in labelsTr"):
        task_dataset.read(replace(task, dataset_dir="."), tmp_path, tmp_path)


def test_splits_come_from_a_file(place, tmp_path):
    task = study_schema.Task("dataset", splits=study_schema.Splits("splits.json", "boxes"))
    (tmp_path / "splits.json").write_text('{"boxes": {"test": ["a"], "train": ["c", "b"]}}')
    assert study_file.splits_of(task, place, tmp_path) == (["c", "b"], ["a"])
    (tmp_path / "splits.json").write_text('{"boxes": {"test": "a"}}')
    with pytest.raises(InputError, match='expected lists "test" and "train"'):
        study_file.splits_of(task, place, tmp_path)


@pytest.fixture(scope="module")
def run_once(place, tmp_path_factory):
    """A whole study, run by a worker: its file, its folder, and what was said."""
    folder = tmp_path_factory.mktemp("out")
    path = place / "whole.json"
    path.write_text(
        json.dumps(make_content(sizes=[1, [2, 3]], modes={"scratch": {}, "transfer": {}}))
    )
    lines = []
    driver.run(path, folder, StudyOptions(place, 1), lines.append)
    return path, folder, lines


def test_a_study_trains_scores_and_reports_every_cell(run_once):
    _, folder, lines = run_once
    # A line a data set and one for its warnings, whatever the number of cases.
    assert [line.partition(",")[0] for line in lines[:5]] == [
        "boxes train: 4 cases",
        "boxes train: 4 warnings",
        "boxes test: 2 cases",
        "boxes test: 2 warnings",
        "4 cells",
    ]
    assert any(re.match(r"4/4 boxes, 2 cases in 3 slices, transfer .*left", s) for s in lines)
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 2 * 2
    assert {row["case"] for row in rows} == {"case_4", "case_5"}
    assert all(row["hd95_mm"] == "" and row["volume_difference_ml"] for row in rows)
    assert re.search(
        r"Over 2 experiments, transfer changed Dice", (folder / "table.md").read_text()
    )
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png") == 2
    assert not re.search(r"(src|href)=.?https?:", page)
    cell = folder / "cells" / "boxes" / "0002x3" / "transfer@small" / "seed0"
    left = {path.name for path in cell.rglob("*")} - {".lock"}
    assert left == {"cell.json", "fingerprint", "run", "run.json", "metrics.csv"}


def test_a_study_goes_on_where_it_was_killed(run_once, place):
    path, folder, _ = run_once
    marker = folder / "cells" / "boxes" / "0001" / "scratch@small" / "seed0" / outcome.DONE_FILE
    before = {file: file.read_bytes() for file in folder.rglob(outcome.DONE_FILE)}
    times = {file: file.stat().st_mtime_ns for file in before}
    marker.unlink()
    # A killed run of an older version, with other settings, does not stand in the way.
    run = marker.parent / "run" / "run.json"
    run.write_text(run.read_text().replace('"steps": 2', '"steps": 7'))
    lines = []
    driver.run(path, folder, StudyOptions(place, 0, keep_models=True), lines.append)
    assert "4 cells, 3 of them done" in lines
    assert artifact.latest(marker.parent / "run" / "model").is_dir()
    changed = {file for file, time in times.items() if file.stat().st_mtime_ns != time}
    assert changed == {marker}
    scores = [json.loads(text)["scores"] for text in (before[marker], marker.read_bytes())]
    assert scores[0] == scores[1]


def test_results_are_written_without_running_anything(run_once, command, capsys):
    path, folder, _ = run_once
    (folder / "table.md").unlink()
    command(size_study, study=path, output_dir=folder, results_only=True)
    assert (folder / "table.md").is_file()
    assert "report: " in capsys.readouterr().out


def test_tuning_reads_no_test_case(make_study, place, tmp_path, monkeypatch):
    asked = []

    def fake(jobs, *_):
        asked.extend(jobs)
        for cell, _data in jobs:
            found = outcome.Outcome(cell.key, {}, (), 1.0)
            outcome.write(found, cell.fingerprint, tmp_path)
            yield cell, found

    monkeypatch.setattr(workers, "run_all", fake)
    options = StudyOptions(place, 0, tuning_cases=2)
    driver.run(make_study(sizes=[2]), tmp_path, options, print)
    (cell, data), *_ = asked
    assert [case.case_id for case in data.test.cases] == ["case_3", "case_1"]
    assert cell.cases == ("case_2", "case_0")
    with pytest.raises(InputError, match="more training cases than the 4 held out"):
        driver.run(make_study(), tmp_path, StudyOptions(place, 0, tuning_cases=4), print)


def test_results_that_cannot_be_written_on_the_way_end_no_study(
    make_study, place, tmp_path, monkeypatch
):
    def fake(jobs, *_):
        for cell, _data in jobs:
            found = outcome.Outcome(cell.key, {}, (), 1.0)
            outcome.write(found, cell.fingerprint, tmp_path)
            yield cell, found

    written = []

    def write_at_the_end(folder):
        written.append(folder)
        if len(written) < 3:
            # Another process, with --results_only, has just renamed the file.
            raise InputError("report.html: cannot write: No such file or directory")
        return real(folder)

    real = report.write
    monkeypatch.setattr(workers, "run_all", fake)
    monkeypatch.setattr(report, "write", write_at_the_end)
    monkeypatch.setattr(driver, "_SECONDS_BETWEEN_REPORTS", -1.0)
    driver.run(make_study(), tmp_path, StudyOptions(place, 0), print)
    assert len(written) == 4


def test_a_failing_cell_leaves_the_others_alone(make_study, place, tmp_path, monkeypatch):
    def fake(jobs, *_):
        for cell, _data in jobs:
            found = outcome.Outcome(cell.key, {}, (), 1.0)
            if cell.key.mode == "scratch":
                yield cell, InputError("diverged")
            else:
                outcome.write(found, cell.fingerprint, tmp_path)
                yield cell, found

    monkeypatch.setattr(workers, "run_all", fake)
    lines = []
    with pytest.raises(InputError, match="1 of 2 cells failed, such as boxes, 1 case, scratch"):
        driver.run(make_study(), tmp_path, StudyOptions(place, 0), lines.append)
    assert any("scratch from small, seed 0: failed: diverged" in line for line in lines)
    assert (tmp_path / "table.md").is_file()
    with pytest.raises(InputError, match="another study is running there"):
        with driver._locked(tmp_path):
            driver.run(make_study(), tmp_path, StudyOptions(place, 0), print)


def test_keys_name_folders_and_speak():
    key = CellKey("ct", 30, 3, "finetune", "phantom", 2)
    assert key.folder.as_posix() == "cells/ct/0030x3/finetune@phantom/seed2"
    assert str(key) == "ct, 30 cases in 3 slices, finetune from phantom, seed 2"
    assert str(CellKey("ct", 1, None, "scratch", None, 0)) == "ct, 1 case, scratch, seed 0"
