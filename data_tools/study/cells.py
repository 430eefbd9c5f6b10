"""The cells of a study: which there are, what each is made of, and whether it is done."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from data_tools.study.study_file import run_mode, sizes_of
from data_tools.study.study_schema import Study, Task
from data_tools.study.task_records import TaskData, ordered
from tl3d_keras import artifact, base_file, json_file, manifest
from tl3d_keras.errors import InputError
from tl3d_keras.run_settings import RunSettings
from tl3d_keras.study.outcome import DONE_FILE, CellKey
from tl3d_keras.unet3d import named_weights

# What two networks of one architecture may differ in, for it follows from the task or the run.
_NOT_ARCHITECTURE = ("num_classes", "input_channels", "structures", "name", "dtype")


@dataclass(frozen=True)
class Base:
    """A model to start from.

    Attributes:
        path: what `RunSettings.base` gets.
        content: checksum of its weights and their configuration.
        network: its configuration without what follows from the task.
        intensity: its normalisation; empty: nobody knows.
        patch_size: (Z, Y, X) of its training patches; None: nobody knows.
    """

    path: str
    content: str
    network: Mapping[str, Any]
    intensity: Mapping[str, Any]
    patch_size: Sequence[int] | None


@dataclass(frozen=True)
class Cell:
    """One network to be trained and scored.

    Attributes:
        key: where it stands in the study.
        settings: of `RunSettings`, without the records.
        cases: names of the training cases.
        draw_seed: draws the slices; None: they are spread evenly.
        fingerprint: of all that its scores depend on; equal ones, equal scores.
        scores: "dice" or "all".
        annotated_slices: of all its cases together.
    """

    key: CellKey
    settings: Mapping[str, Any]
    cases: tuple[str, ...]
    draw_seed: int | None
    fingerprint: str
    scores: str
    annotated_slices: int


def read_base(path: str) -> Base:
    """What a study needs to know of a base.

    Args:
        path: whatever `base_file.load` takes.

    Raises:
        InputError: it is no model.
    """
    if base_file.is_keras_file(path):
        return _read_keras_base(path)
    folder = artifact.latest(path)
    content = artifact.inspect(folder)
    try:
        index = (folder / "variables" / "variables.index").read_bytes()
        network = _without_task(content["network"])
        parts = [content[name] for name in ("network", "structures", "intensity", "patch_size")]
    except (OSError, KeyError, AttributeError) as error:
        raise InputError(f"{folder}: expected a whole model, found it without {error}") from error
    # The index of the variables holds the checksum of each.
    checksum = manifest.crc32c(index + _canonical(parts))
    return Base(path, checksum, network, content["intensity"], content["patch_size"])


def _read_keras_base(path: str) -> Base:
    network, info = base_file.load(path)
    config = _without_task(network.get_config())
    intensity = info.intensity.to_json() if info else {}
    patch_size = info.patch_size if info else None
    weights = [(name, variable.numpy()) for name, variable in named_weights(network).items()]
    parts = _canonical([config, intensity, patch_size, network.structures])
    checksum = manifest.crc32c(parts + b"".join(n.encode() + w.tobytes() for n, w in weights))
    return Base(path, checksum, config, intensity, patch_size)


def _without_task(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in _NOT_ARCHITECTURE}


def grid(
    study: Study, bases: Mapping[str, Base], data: Mapping[str, TaskData]
) -> tuple[list[Cell], dict[tuple[str, str], str]]:
    """All cells, tasks first and seeds last, so that a study cut short has whole sizes.

    Args:
        study: to be run.
        bases: of the study, by name.
        data: of its tasks, by name.

    Returns:
        The cells, and (task, base) -> the base that scratch of the same architecture is filed
        under.

    Raises:
        InputError: settings that cannot be, or sizes beyond the cases that there are.
    """
    cells: list[Cell] = []
    twins: dict[tuple[str, str], str] = {}
    for name, task in study.tasks.items():
        first: dict[str, str] = {}
        for base in study.bases:
            key = _architecture(bases[base], study, task)
            twins[name, base] = first.setdefault(key, base)
        cells += _of_task(study, name, task, bases, data[name], twins)
    return cells, twins


def is_done(cell: Cell, folder: Path) -> bool:
    """Whether the cell was trained and scored with just this fingerprint."""
    try:
        content = json.loads((folder / cell.key.folder / DONE_FILE).read_text("utf-8"))
        return bool(content["fingerprint"] == cell.fingerprint)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def run_settings(values: Mapping[str, Any], where: str) -> RunSettings:
    """Settings from JSON values.

    Raises:
        InputError: a name that is no setting, or a value of the wrong kind.
    """
    names = [field.name for field in fields(RunSettings)]
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise InputError(
            f"{where}: expected settings of {', '.join(names)}, found {', '.join(unknown)}"
        )
    return json_file.typed(dict(values), RunSettings, where)


def _of_task(
    study: Study,
    name: str,
    task: Task,
    bases: Mapping[str, Base],
    data: TaskData,
    twins: Mapping[tuple[str, str], str],
) -> Iterator[Cell]:
    for size in sizes_of(study, task):
        if size.cases > len(data.order):
            raise InputError(
                f"task {name}: expected sizes up to its {len(data.order)} training cases, "
                f"found {size.cases}"
            )
        for seed in study.seeds if size.seeds is None else size.seeds:
            cases = ordered(data.order, seed, study.case_order == "shuffled")[: size.cases]
            for mode, overrides in study.modes.items():
                is_scratch = run_mode(study, mode) == "scratch"
                for base in study.bases or [None]:
                    if base and is_scratch and twins[name, base] != base:
                        continue
                    key = CellKey(name, size.cases, size.slices, mode, base, seed)
                    settings = {
                        "num_validation": 0,
                        **study.settings,
                        **task.settings,
                        "mode": mode,
                        **overrides,
                        "base": bases[base].path if base else None,
                        "seed": seed,
                    }
                    if study.validation:
                        settings["validation_cases"] = list(data.validation)
                        settings["num_validation"] = None
                        settings["steps_per_epoch"] = study.validation.every
                    draw = seed if study.slice_choice == "random" else None
                    start = None
                    if base:
                        start = bases[base].content
                        if is_scratch:
                            start = _architecture(bases[base], study, task)
                    yield _cell(study, key, settings, start, cases, draw, data)


def _cell(
    study: Study,
    key: CellKey,
    settings: dict[str, Any],
    start: str | None,
    cases: Sequence[str],
    draw: int | None,
    data: TaskData,
) -> Cell:
    shards = data.train.shards
    used = data.train.select([*cases, *data.validation])
    content = {
        "settings": {**settings, "base": start},
        "cases": [[case.case_id, shards[case.shard].crc32c] for case in used],
        "slices": [key.slices, draw],
        "structures": data.train.structures,
        "test": data.test.fingerprint,
        "scores": study.scores,
    }
    fingerprint = manifest.crc32c(_canonical(content))
    counts = [case.coverage["annotated"]["slices"] for case in used[: len(cases)]]
    slices = sum(min(count, key.slices or count) for count in counts)
    return Cell(key, settings, tuple(cases), draw, fingerprint, study.scores, slices)


def _architecture(base: Base, study: Study, task: Task) -> str:
    """Equal for two bases from which scratch trains the same network on the same patches."""
    settings = {**study.settings, **task.settings}
    content: dict[str, Any] = {"network": base.network}
    if not settings.get("patch_size"):
        content["patch_size"] = base.patch_size
    if not settings.get("window") and base.intensity.get("mode") == "window":
        content["intensity"] = base.intensity
    return manifest.crc32c(_canonical(content))


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, default=asdict).encode()
