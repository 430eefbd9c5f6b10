"""`run.json` of a training run, as the next process that goes on with the run finds it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tl3d_keras import json_file
from tl3d_keras.errors import InputError

FILE_NAME = "run.json"


@dataclass(frozen=True)
class _SkippedStep:
    step: int
    cases: list[str]


@dataclass(frozen=True)
class _FrozenStage:
    first_step: int
    layers: dict[str, str]


@dataclass(frozen=True)
class _Content:
    """What a run that goes on builds on; all else is for people."""

    settings: dict[str, Any]
    seconds: float = 0.0
    peak_memory_gib: float = 0.0
    skipped_steps: list[_SkippedStep] = field(default_factory=list)
    frozen: list[_FrozenStage] = field(default_factory=list)


def read(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The content of a run's file, None where there is none.

    Args:
        folder: of the run.
        settings: that the run must have, as JSON values.

    Raises:
        InputError: the file is damaged, or that of a run of other settings.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return None
    content = json_file.read_object(path, "that of a training run")
    former = json_file.typed(content, _Content, f"{path}: not that of a training run").settings
    for key in sorted(settings.keys() | former.keys()):
        if settings.get(key) != former.get(key):
            raise InputError(
                f"{folder}: holds a run with {key}={former.get(key)}, found "
                f"{key}={settings.get(key)}; give the same flags to resume it, or another "
                "--output_dir"
            )
    return content
