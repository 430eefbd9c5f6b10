"""How many bytes a training step takes, by the network's geometry, and what would fit."""

from collections.abc import Mapping, Sequence
from itertools import product
from math import prod
from typing import Any, NamedTuple

from tl3d_keras.geometry import Geometry
from tl3d_keras.gradient_checkpointing import is_sliced

# Bytes that a step holds of each kind of number, fitted to what benchmarks/training_memory.py
# measured with TensorFlow 2.21 on a processor; float16 has no kernels there and is converted.
_PER_KEPT = {"float32": 4.3, "mixed_bfloat16": 2.0, "mixed_float16": 11.5}
_PER_LARGEST = {"float32": 7.3, "mixed_bfloat16": 6.5, "mixed_float16": 23.0}
_PER_NORMALISED = 5.2
_PER_LOGIT = 23.4
_PER_WEIGHT = 6.7
# What gradient checkpointing leaves of all but the weights; less where the encoder goes in slabs.
_LEFT_SLICED, _LEFT = 0.48, 0.8
_SAFE_SHARE = 0.7


class Setup(NamedTuple):
    """What the memory of a step depends on, beside the network.

    Attributes:
        patch_size: (Z, Y, X) of the image patches.
        batch_size: patches that are in memory together.
        precision: a Keras policy.
        checkpointing: whether activations are computed twice, see `gradient_checkpointing`.
    """

    patch_size: tuple[int, ...]
    batch_size: int
    precision: str
    checkpointing: bool = False

    def __str__(self) -> str:
        """As flags."""
        size = ",".join(map(str, self.patch_size))
        flags = f"--patch_size={size} --batch_size={self.batch_size} --precision={self.precision}"
        return f"{flags} --gradient_checkpointing" if self.checkpointing else flags


class _Numbers(NamedTuple):
    """How many numbers of each kind one patch makes.

    Attributes:
        convolved: outputs of convolutions, kept for the gradients.
        moved: outputs of pooling and cropping, likewise.
        largest: inputs and output of the largest convolution, whose gradients live together.
        logits: inputs of the loss.
        weights: of all convolutions.
    """

    convolved: int
    moved: int
    largest: int
    logits: int
    weights: int


def training_bytes(config: Mapping[str, Any], setup: Setup) -> int:
    """Peak bytes of a training step beyond the process before it, within 25 % on processors.

    Args:
        config: of a `UNet3D`, as `get_config` gives it.
        setup: of the step.
    """
    numbers = _count(config, setup.patch_size)
    normalised = numbers.convolved if config["normalization"] else 0
    per_patch = (
        _PER_KEPT[setup.precision] * (numbers.convolved + numbers.moved)
        + _PER_LARGEST[setup.precision] * numbers.largest
        + _PER_NORMALISED * normalised
        + _PER_LOGIT * numbers.logits
    )
    if setup.checkpointing:
        per_patch *= _LEFT_SLICED if is_sliced(config) else _LEFT
    return int(setup.batch_size * per_patch + _PER_WEIGHT * numbers.weights)


def fitting(
    config: Mapping[str, Any], setup: Setup, budget: float, replicas: int = 1
) -> Setup | None:
    """The nearest setup that needs at most `budget` bytes, None if there is none.

    It first gives up time, for checkpointing, then patches of the batch, float32 and voxels.
    """
    geometry = Geometry(config["levels"], config["padding"])
    precisions = [setup.precision]
    if setup.precision == "float32":
        precisions.append("mixed_bfloat16")
    batches = range(setup.batch_size, 0, -1)
    checkpointing = [True] if setup.checkpointing else [False, True]
    size: tuple[int, ...] | None = setup.patch_size
    while size:
        for precision in precisions:
            for batch, twice in product(batches, checkpointing):
                tried = Setup(size, batch, precision, twice)
                if batch % replicas == 0 and training_bytes(config, tried) <= budget:
                    return tried
        size = _smaller(size, geometry)
        batches, precisions = range(replicas, 0, -1), precisions[-1:]
    return None


def doubts(config: Mapping[str, Any], setup: Setup, free: int, replicas: int = 1) -> str | None:
    """A line for the user where the step needs more than the `free` bytes, else None."""
    need = training_bytes(config, setup)
    if need <= free:
        return None
    return (
        f"a training step takes about {_gib(need)}, more than the {_gib(free)} that are free"
        f"{_advice(config, setup, free, replicas)}"
    )


def out_of_memory(config: Mapping[str, Any], setup: Setup, free: int, replicas: int = 1) -> str:
    """The line for a run that got no more memory."""
    need = training_bytes(config, setup)
    # What is free after a failure says little of what the step could have had.
    budget = min(free, _SAFE_SHARE * need)
    return (
        f"expected memory for a training step of about {_gib(need)} ({setup}), found too little"
        f"{_advice(config, setup, budget, replicas)}, in another --output_dir"
    )


def _advice(config: Mapping[str, Any], setup: Setup, budget: float, replicas: int) -> str:
    found = fitting(config, setup, budget, replicas)
    if found is None:
        return "; try fewer --filters"
    return f"; try {found} (about {_gib(training_bytes(config, found))})"


def _gib(number: float) -> str:
    return f"{number / 2**30:.1f} GiB"


def _smaller(size: tuple[int, ...], geometry: Geometry) -> tuple[int, ...] | None:
    longest = max(range(len(size)), key=size.__getitem__)
    shorter = size[longest] - geometry.stride
    if not geometry.is_input_size(shorter):
        return None
    return (*size[:longest], shorter, *size[longest + 1 :])


def _count(config: Mapping[str, Any], patch_size: Sequence[int]) -> _Numbers:
    lost = 2 if config["padding"] == "valid" else 0
    filters, levels = config["filters"], config["levels"]
    size, channels = list(patch_size), config["input_channels"]
    convolved = moved = largest = weights = 0
    skips: list[int] = []

    def convolve(width: int, coarse: int = 0) -> None:
        nonlocal size, channels, convolved, largest, weights
        # Coarse channels have an eighth of the voxels.
        before = (channels - coarse) * prod(size) + coarse * prod(size) // 8
        size = [n - lost for n in size]
        after = width * prod(size)
        convolved += after
        largest = max(largest, before + after)
        weights += 27 * channels * width
        channels = width

    for level in range(levels):
        convolve(filters * 2**level)
        convolve(filters * 2 ** (level + 1))
        if level < levels - 1:
            skips.append(channels)
            size = [n // 2 for n in size]
            moved += channels * prod(size)
    for level in reversed(range(levels - 1)):
        size = [2 * n for n in size]
        moved += skips[level] * prod(size) if lost else 0
        coarse, channels = channels, channels + skips[level]
        convolve(filters * 2 ** (level + 1), coarse)
        convolve(filters * 2 ** (level + 1))
    return _Numbers(convolved, moved, largest, config["num_classes"] * prod(size), weights)
