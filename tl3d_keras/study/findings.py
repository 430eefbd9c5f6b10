"""What the cells of a study say together: points of curves, and gains over the baseline."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import NamedTuple

from tl3d_keras.study import statistics
from tl3d_keras.study.outcome import CellKey, Outcome

SIGNIFICANT = 0.05


class Group(NamedTuple):
    """Cells that differ in their seed alone."""

    task: str
    cases: int
    slices: int | None
    mode: str
    base: str | None


@dataclass(frozen=True)
class Point:
    """A group's Dice.

    Attributes:
        group: whose.
        by_case: test case -> its Dice, the mean of its structures, averaged over seeds.
        by_seed: seed -> mean Dice over the cases.
        dice: mean over the cases, of all seeds.
        interval: 95 %, over cases; None for a single one.
        annotated_slices: that were trained on, on average over seeds.
    """

    group: Group
    by_case: Mapping[str, float]
    by_seed: Mapping[int, float]
    dice: float
    interval: tuple[float, float] | None
    annotated_slices: float


@dataclass(frozen=True)
class Gain:
    """A group against the baseline, on the seeds and cases that both have: an experiment.

    Attributes:
        group: whose gain it is.
        baseline: mean Dice of the baseline.
        dice: mean Dice of the group.
        gain: mean over the cases of the difference.
        interval: of the gain, 95 %, over cases; None for a single one.
        p: of Wilcoxon's paired test.
        p_holm: with Holm's correction over all experiments of the study.
        cases: that were compared.
        seeds: likewise.
        steps: share of the baseline's steps after which the group had the baseline's final Dice on
            the validation cases; None without validation, or where it never had.
    """

    group: Group
    baseline: float
    dice: float
    gain: float
    interval: tuple[float, float] | None
    p: float | None
    p_holm: float | None
    cases: int
    seeds: int
    steps: float | None

    @property
    def relative(self) -> float | None:
        """The gain as a share of the baseline's Dice; None where that is 0."""
        return self.gain / self.baseline if self.baseline else None


@dataclass(frozen=True)
class Findings:
    """All of a study.

    Attributes:
        baseline: name of the mode that gains are measured against.
        points: in the order of the cells.
        gains: likewise, one for each point of another mode whose baseline is done too.
        done: cells.
        total: cells.
    """

    baseline: str
    points: Sequence[Point]
    gains: Sequence[Gain]
    done: int
    total: int


def find(
    outcomes: Sequence[Outcome],
    baseline: str,
    twins: Mapping[tuple[str, str], str],
    slices: Mapping[CellKey, int],
) -> Findings:
    """Brings the cells of a study together.

    Args:
        outcomes: of the cells that are done.
        baseline: name of the mode that gains are measured against.
        twins: (task, base) -> the base that its baseline is filed under, if it is another.
        slices: cell of the study, done or not -> its annotated slices.
    """
    groups: dict[Group, dict[int, Outcome]] = defaultdict(dict)
    for outcome in outcomes:
        groups[_group(outcome.key)][outcome.key.seed] = outcome
    points = [p for group, found in groups.items() if (p := _point(group, found, slices))]
    gains = []
    for group, found in groups.items():
        if group.mode == baseline:
            continue
        base = group.base and twins.get((group.task, group.base), group.base)
        against = groups.get(group._replace(mode=baseline, base=base))
        if against and (gain := _gain(group, found, against)):
            gains.append(gain)
    corrected = statistics.holm([gain.p for gain in gains])
    gains = [replace(g, p_holm=p) for g, p in zip(gains, corrected, strict=True)]
    return Findings(baseline, points, gains, len(outcomes), len(slices))


def _group(key: CellKey) -> Group:
    return Group(key.task, key.cases, key.slices, key.mode, key.base)


def _point(
    group: Group, found: Mapping[int, Outcome], slices: Mapping[CellKey, int]
) -> Point | None:
    by_case = _by_case(list(found.values()))
    if not by_case:
        return None
    by_seed = {seed: outcome.mean_dice for seed, outcome in found.items()}
    values = list(by_case.values())
    return Point(
        group,
        by_case,
        {seed: dice for seed, dice in by_seed.items() if dice is not None},
        fmean(values),
        statistics.mean_interval(values),
        fmean(slices[outcome.key] for outcome in found.values()),
    )


def _by_case(outcomes: Sequence[Outcome]) -> dict[str, float]:
    dice: dict[str, list[float]] = defaultdict(list)
    for outcome in outcomes:
        for case, value in outcome.dice_by_case.items():
            dice[case].append(value)
    return {case: fmean(values) for case, values in dice.items()}


def _gain(
    group: Group, found: Mapping[int, Outcome], against: Mapping[int, Outcome]
) -> Gain | None:
    seeds = [seed for seed in found if seed in against]
    ours, theirs = (_by_case([part[s] for s in seeds]) for part in (found, against))
    cases = [case for case in ours if case in theirs]
    if not cases:
        return None
    differences = [ours[case] - theirs[case] for case in cases]
    return Gain(
        group,
        fmean(theirs[case] for case in cases),
        fmean(ours[case] for case in cases),
        fmean(differences),
        statistics.mean_interval(differences),
        statistics.paired_p(differences),
        None,
        len(cases),
        len(seeds),
        _share_of_steps([found[s] for s in seeds], [against[s] for s in seeds]),
    )


def _share_of_steps(found: Sequence[Outcome], against: Sequence[Outcome]) -> float | None:
    """After which share of the others' steps these had the Dice that the others end with."""
    ours, theirs = _mean_curve(found), _mean_curve(against)
    if not ours or not theirs:
        return None
    last = max(theirs)
    return next((step / last for step in sorted(ours) if ours[step] >= theirs[last]), None)


def _mean_curve(outcomes: Sequence[Outcome]) -> dict[int, float]:
    """Step -> Dice, averaged over the runs, at the steps that all of them have."""
    curves = [dict(outcome.curve) for outcome in outcomes]
    steps = set.intersection(*(set(curve) for curve in curves)) if curves else set()
    return {step: fmean(curve[step] for curve in curves) for step in steps}
