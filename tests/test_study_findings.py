"""What a study finds, by numbers computed by hand."""

import re

import pytest

from tl3d_keras import figure_file
from tl3d_keras.errors import InputError
from tl3d_keras.evaluation import Scores
from tl3d_keras.study import figures, findings, outcome, report, statistics, tables
from tl3d_keras.study.outcome import CellKey, Outcome
from tl3d_keras.study.report import Plan, PlannedCell


def cell(dice, mode="scratch", base="b", seed=0, cases=4, slices=None, task="t", curve=()):
    """A cell whose test cases have these Dice, each a list of one a structure."""
    scores = {
        f"case_{number}": {
            f"s{index}": Scores(value, None, None, 0.0, None) for index, value in enumerate(values)
        }
        for number, values in enumerate(dice)
    }
    return Outcome(CellKey(task, cases, slices, mode, base, seed), scores, curve, 3.0)


def find(*outcomes, twins=None):
    slices = {o.key: 10 * o.key.cases if o.key.slices is None else 12 for o in outcomes}
    return findings.find(outcomes, "scratch", twins or {}, slices)


def test_holm_multiplies_step_by_step_and_never_falls():
    assert statistics.holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])
    assert statistics.holm([0.9, 0.5]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_wilcoxon_of_five_gains_is_two_of_32():
    assert statistics.paired_p([0.1, 0.2, 0.3, 0.4, 0.5]) == pytest.approx(2 / 32)
    # Zeros are left out; without any difference there is nothing to find.
    assert statistics.paired_p([0.1, 0.2, 0.0, 0.3, 0.4, 0.5]) == pytest.approx(2 / 32)
    assert statistics.paired_p([0.0, 0.0]) == 1.0
    assert statistics.paired_p([]) is None


def test_the_interval_is_that_of_resampled_cases():
    # Of two cases both are drawn alike in half of the resamples, a quarter each way.
    assert statistics.mean_interval([0.0, 1.0]) == (0.0, 1.0)
    assert statistics.mean_interval([0.3, 0.3, 0.3]) == pytest.approx((0.3, 0.3))
    assert statistics.mean_interval([0.3]) is None
    values = [0.1, 0.5, 0.4, 0.9, 0.2, 0.6]
    assert statistics.mean_interval(values, 1) == statistics.mean_interval(values, 1)
    low, high = statistics.mean_interval(values)
    assert 0.2 < low < 0.45 < high < 0.7


def test_a_point_is_the_mean_of_structures_seeds_and_cases():
    found = find(cell([[0.2, 0.4], [0.5]]), cell([[0.4, 0.8], [None, 0.7]], seed=1))
    (point,) = found.points
    assert point.by_case == pytest.approx({"case_0": 0.45, "case_1": 0.6})
    assert point.by_seed == pytest.approx({0: 0.4, 1: 0.65})
    assert point.dice == pytest.approx(0.525)
    assert point.annotated_slices == 40
    assert found.gains == []


def test_a_gain_is_paired_by_case_and_seed():
    found = find(
        cell([[0.5], [0.6], [None]]),
        cell([[0.1], [0.1], [0.9]], seed=1),
        cell([[0.6], [0.8], [0.9]], "transfer"),
        cell([[0.55]], "finetune"),
    )
    transfer, finetune = found.gains
    # Seed 1 has no partner, and neither has case 2 in seed 0.
    assert (transfer.seeds, transfer.cases) == (1, 2)
    assert transfer.gain == pytest.approx(0.15)
    assert transfer.baseline == pytest.approx(0.55)
    assert transfer.relative == pytest.approx(0.15 / 0.55)
    assert transfer.interval == pytest.approx((0.1, 0.2))
    assert transfer.p == pytest.approx(0.5)
    assert transfer.p_holm == 1.0
    assert (finetune.cases, finetune.interval) == (1, None)


def test_each_base_is_measured_against_scratch_of_its_architecture():
    outcomes = (
        cell([[0.5]], base="b"),
        cell([[0.7]], base="wide"),
        cell([[0.6]], "transfer", base="twin"),
        cell([[0.6]], "transfer", base="wide"),
    )
    found = find(*outcomes, twins={("t", "twin"): "b", ("t", "wide"): "wide"})
    assert [gain.gain for gain in found.gains] == pytest.approx([0.1, -0.1])


def test_steps_are_those_until_the_final_dice_of_the_baseline():
    scratch = [
        cell([[0.5]], curve=((100, 0.2), (200, 0.9), (400, 0.5))),
        cell([[0.5]], seed=1, curve=((100, 0.2), (200, 0.9), (400, 0.7))),
    ]
    fast = [
        cell([[0.5]], "transfer", curve=((100, 0.55), (200, 0.7), (400, 0.7))),
        cell([[0.5]], "transfer", seed=1, curve=((100, 0.6), (200, 0.6), (400, 0.7))),
    ]
    never = [cell([[0.5]], "finetune", curve=((100, 0.1), (400, 0.3)))]
    gains = {gain.group.mode: gain for gain in find(*scratch, *fast, *never).gains}
    # scratch ends at 0.6 on average, which transfer has after 200 of 400 steps.
    assert gains["transfer"].steps == 0.5
    assert gains["finetune"].steps is None


def test_the_sentence_names_mean_largest_and_worst_gain():
    found = find(
        cell([[0.4]], cases=2),
        cell([[0.5]], cases=8),
        cell([[0.5]], "transfer", cases=2),
        cell([[0.48]], "transfer", cases=8),
    )
    (line,) = tables.sentences(found)
    assert line == (
        "Over 2 experiments, transfer changed Dice by +0.040 on average against scratch, by +0.100 "
        "(+25%) at best (t, 2 cases, base b) and by -0.020 at worst (t, 8 cases, base b); 0 are "
        "significantly better and 0 significantly worse (Wilcoxon, Holm, p < 0.05)."
    )


def test_tables_have_a_row_a_size_and_a_column_a_mode():
    found = find(
        cell([[0.4], [0.6]]),
        cell([[0.5], [0.7]], "transfer"),
        cell([[0.3]], cases=30, slices=3),
    )
    heads, rows = tables.dice_rows(found)
    assert heads == ["task", "cases", "scratch", "transfer"]
    assert rows == [
        ["t", "4", "0.500 (0.400 to 0.600)", "0.600 (0.500 to 0.700)"],
        ["t", "30 x 3", "0.300", "-"],
    ]
    text = tables.markdown(found)
    assert "| t | 4 | b | transfer | 0.500 | 0.600 | +0.100 |" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines[:4]} == {5}


def test_figures_have_a_panel_a_task_and_slices_get_one_more():
    whole = find(cell([[0.4], [0.6]], task="a_$b"), cell([[0.5]], "transfer", task="c"))
    assert figures.effort_curves(whole) is None
    sparse = find(cell([[0.4], [0.6]]), cell([[0.5]], cases=30, slices=3), cell([[0.5]], task="c"))
    drawn = figures.learning_curves(whole)
    assert [axes.get_title() for axes in drawn.axes] == ["a_$b", "c"]
    effort = figures.effort_curves(sparse)
    assert [axes.get_title() for axes in effort.axes] == ["t"]
    assert {text.get_text() for text in effort.axes[0].texts} == {"4", "30 x 3"}
    for figure in (drawn, effort):
        assert figure_file.png(figure).startswith(b"\x89PNG")


def test_cells_come_back_from_their_folders(tmp_path):
    first = cell([[0.25, None]], curve=((100, 0.5),))
    outcome.write(first, "f00", tmp_path)
    missing = CellKey("t", 4, None, "transfer", None, 0)
    assert outcome.read(tmp_path, [missing, first.key]) == [
        Outcome(first.key, first.scores, [(100, 0.5)], 3.0)
    ]
    rows = outcome.to_csv([first]).decode().splitlines()
    assert rows[0].startswith("task,cases,slices,mode,base,seed,case,structure,dice,")
    assert rows[1:] == [
        "t,4,,scratch,b,0,case_0,s0,0.25,,,0.0,",
        "t,4,,scratch,b,0,case_0,s1,,,,0.0,",
    ]
    (tmp_path / first.key.folder / outcome.DONE_FILE).write_text('{"scores": 3}')
    with pytest.raises(InputError, match="cell.json: expected what a cell of a study has found"):
        outcome.read(tmp_path, [first.key])


def test_a_report_needs_a_plan_and_a_cell(tmp_path):
    with pytest.raises(InputError, match="expected a folder that experiments.size_study"):
        report.write(tmp_path)
    done = cell([[0.25]])
    plan = Plan("Boxes & <more>.", "scratch", [PlannedCell(done.key, 7)], {"t": {"b": "b"}})
    report.save_plan(plan, tmp_path)
    assert report.load_plan(tmp_path) == plan
    with pytest.raises(InputError, match="expected at least one cell that is done"):
        report.write(tmp_path)
    outcome.write(done, "f00", tmp_path)
    assert report.write(tmp_path).done == 1
    page = (tmp_path / "report.html").read_text()
    assert "Boxes &amp; &lt;more&gt;. 1 of 1 cells are done." in page
    assert not re.search(r"(src|href)=.?https?:", page)
