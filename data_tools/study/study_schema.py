"""What a study consists of, as its JSON file says it."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.types import StringConstraints

# Names become folders, and `@` parts a mode from its base.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=60)]
Positive = Annotated[int, Field(ge=1)]
Offset = Annotated[int, Field(ge=0)]
Spacing = tuple[
    Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]
]
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Size:
    """A training size.

    Attributes:
        cases: how many.
        slices: annotated slices of each case; None: all.
        seeds: those of this size; None: the study's.
    """

    cases: Positive
    slices: Positive | None = None
    seeds: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class CaseFiles:
    """The files of a case, as paths from the task's `dataset_dir`.

    Attributes:
        images: one a channel, or one with all; a folder is a DICOM series.
        label: its label file.
        masks: structure -> binary file, in place of `label`.
        label_offset: with `partial_labels`, the voxel (z, y, x) of the image at which the label
            starts, in place of what its header says.
    """

    images: tuple[str, ...]
    label: str | None = None
    masks: dict[str, str] = field(default_factory=dict)
    label_offset: tuple[Offset, Offset, Offset] | None = None
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Splits:
    """A JSON file whose object `key` holds the lists `test` and `train`."""

    file: str
    key: str
    __pydantic_config__ = _STRICT


AnySize = Positive | tuple[Positive, Positive] | Size


@dataclass(frozen=True)
class Task:
    """A data set and what is learnt from it.

    Attributes:
        dataset_dir: a layout of `data_tools.shard`, from `--data_dir` or the study's folder.
        test: names of the cases that are scored, and trained on by no cell.
        train: names of the training cases in the order in which they are added; empty: all others.
        splits: a file with both lists, in their stead.
        labels: structure -> value in the label files, whose other values count as background; then
            no `dataset.json` is read, and the files are those of `imagesTr` and `labelsTr`.
        channels: names of the image channels where no `dataset.json` gives them.
        structures: those to learn; empty: all.
        cases: name -> files, where they are not in `imagesTr` and `labelsTr`.
        spacing: (z, y, x) in mm; None: proposed from the training cases.
        partial_labels: as `data_tools.shard --partial_labels`.
        annotated: as `data_tools.shard --annotated`.
        sizes: instead of the study's.
        settings: of `RunSettings`, over the study's.
    """

    dataset_dir: str
    test: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    splits: Splits | None = None
    labels: dict[str, Annotated[int, Field(ge=1, le=254)]] = field(default_factory=dict)
    channels: tuple[str, ...] = ()
    structures: tuple[str, ...] = ()
    cases: dict[str, CaseFiles] = field(default_factory=dict)
    spacing: Spacing | None = None
    partial_labels: bool = False
    annotated: Literal["all", "labelled_slices"] = "all"
    sizes: tuple[AnySize, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Validation:
    """Validation during training, which counts as more annotation; see docs/study.md.

    Attributes:
        every: steps between two.
        cases: how many; the last of the training order, which no cell then trains on.
    """

    every: Positive
    cases: Positive
    __pydantic_config__ = _STRICT


@dataclass(frozen=True)
class Study:
    """A study: every task with every size, mode, base and seed.

    Attributes:
        tasks: by name; in place of a task the file may name another study file, relative to its own
            folder, whose task of that name it takes with its sizes.
        modes: name -> settings of `RunSettings` over the task's; `mode` is the name by default.
        bases: name -> what `base_file.load` takes; modes of scratch take its architecture.
        sizes: numbers of cases, pairs of cases and annotated slices a case, or `Size` objects.
        seeds: of weights, patches and the order of cases.
        settings: of `RunSettings`, for all cells.
        baseline: the mode that gains are measured against.
        case_order: "shuffled": seed 0 takes the training order as it is, every other seed shuffles
            it; "fixed": all seeds take it as it is. Sizes are nested within a seed.
        slice_choice: "even": spread evenly over a case's slices; "random": drawn by the seed.
        scores: "dice" alone, or "all" that `tl3d_keras.evaluation` has.
        validation: see there.
        description: for the reader.
    """

    tasks: dict[Name, Task]
    modes: dict[Name, dict[str, Any]]
    sizes: tuple[AnySize, ...] = ()
    bases: dict[Name, str] = field(default_factory=dict)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0, 1, 2)
    settings: dict[str, Any] = field(default_factory=dict)
    baseline: str = "scratch"
    case_order: Literal["shuffled", "fixed"] = "shuffled"
    slice_choice: Literal["even", "random"] = "even"
    scores: Literal["dice", "all"] = "dice"
    validation: Validation | None = None
    description: str = ""
    __pydantic_config__ = _STRICT
