"""What a model needs besides weights: `assets.extra/tl3d_keras.json` and the model card."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from tl3d_keras import __version__, json_file
from tl3d_keras.errors import InputError
from tl3d_keras.intensity import Intensity

# What only adds to the file leaves it as it is: readers pass over what they do not know.
SCHEMA_VERSION = 1
_BACKGROUND = "background"
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Size = Annotated[int, Field(gt=0)]


@dataclass(frozen=True)
class ModelInfo:
    """What a model needs besides weights, as `assets.extra/tl3d_keras.json` keeps it.

    Attributes:
        structures: names of output channels 1..K; channel 0 is background.
        channels: names of the input channels.
        spacing: (z, y, x) in mm of the volumes it was trained on.
        intensity: the normalisation of raw intensities.
        patch_size: (Z, Y, X) of the training patches.
        provenance: data, steps, seed, versions, command.
        metrics: what was measured on it.
    """

    structures: tuple[str, ...]
    channels: tuple[str, ...]
    spacing: tuple[float, float, float]
    intensity: Intensity
    patch_size: tuple[int, int, int]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Network:
    num_classes: Annotated[int, Field(ge=2, le=255)]
    filters: Annotated[int, Field(ge=1, le=1024)]
    levels: Annotated[int, Field(ge=1, le=8)]
    input_channels: Annotated[int, Field(ge=1, le=64)]
    padding: Literal["valid", "same"]
    normalization: Literal["group", "instance"] | None
    structures: list[str] | None
    name: str


@dataclass(frozen=True)
class _Intensity:
    mode: Literal["window", "zscore"]
    low: tuple[Annotated[float, Field(allow_inf_nan=False)], ...]
    high: tuple[Annotated[float, Field(allow_inf_nan=False)], ...]


@dataclass(frozen=True)
class _Content:
    network: _Network
    structures: list[str]
    channels: tuple[str, ...]
    spacing: tuple[_Positive, _Positive, _Positive]
    intensity: _Intensity
    patch_size: tuple[_Size, _Size, _Size]
    provenance: dict[str, Any]
    metrics: dict[str, Any]


def check_fit(info: ModelInfo, network: Mapping[str, Any]) -> None:
    """Raises an `InputError` unless the names and windows are as many as a network's channels."""
    classes, channels = network["num_classes"], network["input_channels"]
    counts = [
        ("structures", len(info.structures), classes - 1),
        ("channels", len(info.channels), channels),
    ]
    if info.intensity.mode == "window":
        counts.append(("windows of intensity", len(info.intensity.low), channels))
    for what, found, expected in counts:
        if found != expected:
            raise InputError(f"expected {expected} {what} for this network, found {found}")


def check(info: ModelInfo, network: Mapping[str, Any]) -> None:
    """Raises an `InputError` unless `from_json` takes what `to_json` would give."""
    for name in ("structures", "channels"):
        if isinstance(getattr(info, name), str):
            raise InputError(f"expected a tuple of names as {name}, found a str")
    check_fit(info, network)
    json_file.typed(to_json(info, network), _Content, "expected other information of the model")


def to_json(info: ModelInfo, network: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `tl3d_keras.json`.

    Args:
        info: of the model.
        network: the network's configuration.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "tool_version": __version__,
        "network": {key: value for key, value in network.items() if key != "dtype"},
        **asdict(info),
        "intensity": info.intensity.to_json(),
        "structures": [_BACKGROUND, *info.structures],
    }


def from_json(content: Mapping[str, Any]) -> tuple[ModelInfo, dict[str, Any]]:
    """The inverse of `to_json`: the information and the network's configuration.

    Raises:
        InputError: something is missing, is not what it should be, or does not fit the rest.
    """
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        raise InputError(f"expected schema_version {SCHEMA_VERSION}, found {version}")
    read = json_file.typed(content, _Content, "edited or incomplete")
    if read.structures[:1] != [_BACKGROUND]:
        raise InputError(
            f"expected the structures to begin with background, found {read.structures}"
        )
    info = ModelInfo(
        structures=tuple(read.structures[1:]),
        channels=read.channels,
        spacing=read.spacing,
        intensity=Intensity(read.intensity.mode, read.intensity.low, read.intensity.high),
        patch_size=read.patch_size,
        provenance=read.provenance,
        metrics=read.metrics,
    )
    network = asdict(read.network)
    check_fit(info, network)
    named = network["structures"]
    if named and named != read.structures[1:]:
        raise InputError(f"expected the network's structures {named}, found {read.structures[1:]}")
    return info, network


def card(name: str, content: Mapping[str, Any]) -> str:
    """The model card of `to_json`'s content."""
    network, intensity = content["network"], content["intensity"]
    window = (
        f"clipped to {intensity['low']} .. {intensity['high']} and scaled to -1 .. 1"
        if intensity["mode"] == "window"
        else "z-score of each volume"
    )
    lines = [
        f"# {name}",
        "",
        f"A 3D U-Net of tl3d-keras {content['tool_version']} for research; not for clinical use.",
        "",
        f"- Structures: {', '.join(content['structures'][1:])}",
        f"- Input: {', '.join(content['channels'])} at {content['spacing']} mm (z, y, x), {window}",
        f"- Network: {network['filters']} filters, {network['levels']} levels, "
        f"{network['padding']} padding, normalization {network['normalization']}",
        f"- Trained on patches of {content['patch_size']} voxels",
        "",
    ]
    for title, values in (("Provenance", content["provenance"]), ("Metrics", content["metrics"])):
        lines += [f"## {title}", "", *(f"- {key}: {value}" for key, value in values.items()), ""]
    return "\n".join(lines)
