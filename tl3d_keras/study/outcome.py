"""The scores of a study's cells, as their folders keep them."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from tl3d_keras.errors import InputError
from tl3d_keras.evaluation import METRICS, Scores
from tl3d_keras.whole_folder import write_file

DONE_FILE = "cell.json"


@dataclass(frozen=True)
class CellKey:
    """Where a cell stands in its study.

    Attributes:
        task: its name.
        cases: training cases.
        slices: annotated slices of each; None: all.
        mode: its name.
        base: name of the base; None where there are none.
        seed: of weights, patches and the choice of cases.
    """

    task: str
    cases: int
    slices: int | None
    mode: str
    base: str | None
    seed: int

    @property
    def size(self) -> str:
        """The size for a person: `4`, or `4 x 3 slices`."""
        return f"{self.cases}" if self.slices is None else f"{self.cases} x {self.slices} slices"

    @property
    def folder(self) -> Path:
        """Of the cell, from the study's."""
        size = f"{self.cases:04d}" if self.slices is None else f"{self.cases:04d}x{self.slices}"
        mode = self.mode if self.base is None else f"{self.mode}@{self.base}"
        return Path("cells") / self.task / size / mode / f"seed{self.seed}"

    def __str__(self) -> str:
        base = f" from {self.base}" if self.base else ""
        cases = "case" if self.cases == 1 else "cases"
        slices = f" in {self.slices} slices" if self.slices else ""
        return f"{self.task}, {self.cases} {cases}{slices}, {self.mode}{base}, seed {self.seed}"


@dataclass(frozen=True)
class Outcome:
    """A cell that is done.

    Attributes:
        key: where it stands.
        scores: case -> structure -> scores, of the test cases.
        curve: (step, mean validation Dice), where there was validation.
        seconds: it took.
    """

    key: CellKey
    scores: Mapping[str, Mapping[str, Scores]]
    curve: Sequence[tuple[int, float]] = ()
    seconds: float = 0.0

    @property
    def dice_by_case(self) -> dict[str, float]:
        """The mean Dice of each case's structures, of those that have one."""
        dice = {
            case: [scores.dice for scores in found.values() if scores.dice is not None]
            for case, found in self.scores.items()
        }
        return {case: fmean(values) for case, values in dice.items() if values}

    @property
    def mean_dice(self) -> float | None:
        """The mean of `dice_by_case`; None if that is empty."""
        return fmean(self.dice_by_case.values()) if self.dice_by_case else None


def write(outcome: Outcome, fingerprint: str, folder: Path) -> None:
    """Writes the marker of a cell that is done into the study's folder, with all that it found."""
    content = {
        "key": asdict(outcome.key),
        "fingerprint": fingerprint,
        "seconds": round(outcome.seconds, 1),
        "curve": outcome.curve,
        "scores": {
            case: {name: asdict(scores) for name, scores in found.items()}
            for case, found in outcome.scores.items()
        },
    }
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_file(folder / outcome.key.folder / DONE_FILE, text.encode())


def read(folder: Path, keys: Iterable[CellKey]) -> list[Outcome]:
    """Those of the cells that are done, in the given order.

    Raises:
        InputError: a marker that this package did not write.
    """
    found = []
    for key in keys:
        path = folder / key.folder / DONE_FILE
        if path.is_file():
            found.append(_read_one(path))
    return found


def to_csv(outcomes: Iterable[Outcome]) -> bytes:
    """One row a cell, test case and structure."""
    text = io.StringIO(newline="")
    keys = ("task", "cases", "slices", "mode", "base", "seed")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*keys, "case", "structure", *METRICS])
    for outcome in outcomes:
        start = ["" if (v := getattr(outcome.key, name)) is None else v for name in keys]
        for case, found in outcome.scores.items():
            for name, scores in found.items():
                values = [getattr(scores, metric) for metric in METRICS]
                writer.writerow([*start, case, name, *("" if v is None else v for v in values)])
    return text.getvalue().encode()


def _read_one(path: Path) -> Outcome:
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
        scores = {
            case: {name: Scores(**values) for name, values in found.items()}
            for case, found in content["scores"].items()
        }
        curve = [(int(step), float(dice)) for step, dice in content["curve"]]
        return Outcome(CellKey(**content["key"]), scores, curve, content["seconds"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: expected what a cell of a study has found: {error}") from error
