"""What a tile costs: the bytes that it takes and the seconds, by the network's geometry.

The bytes follow the layers of `UNet3D` in the order in which TensorFlow runs them. The constants
are fitted to what `benchmarks/segment_memory.py` measures.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

_BYTES = {"float32": 4, "mixed_bfloat16": 2, "mixed_float16": 10}
# What the allocator and the convolutions' own buffers add; processors convert float16 back and
# forth, which is in its bytes.
_OVERHEAD = {"float32": 1.35, "mixed_bfloat16": 1.2, "mixed_float16": 1.1}
# Compiling, once.
_FIXED = 64 << 20
# A tile's raw image, the next one's, and its way to what the first convolution reads.
_PER_INPUT = 10
# Convolutions in half precision work in blocks of so many channels and copy an output that is none.
_BLOCK = 16
# Of each number that is normalised, in float32 and in half precision.
_PER_NORMALISED = {None: (0, 0), "group": (3, 8), "instance": (8, 3)}
# A probability, and what averaging over mirrors holds beside it.
_PER_PROBABILITY, _PER_MIRRORED = 9, 16

# On a core of a server processor of 2024; only their ratios choose tiles.
_FLOPS_PER_SECOND = {"float32": 2e11, "mixed_bfloat16": 4e11, "mixed_float16": 2e11}
_MOVED_PER_SECOND = 5e9
_SECONDS_PER_TILE = 0.01

# Beyond 2^31 numbers in one tensor, kernels that count in 32 bits fail.
MOST_NUMBERS = 2**31 - 1


class Network(NamedTuple):
    """What the cost depends on, of a network's configuration.

    Attributes:
        levels: resolutions.
        padding: "valid" or "same".
        filters: of the first convolution.
        classes: K + 1.
        channels: C.
        normalization: None, "group" or "instance".
        precision: a Keras policy.
        mirrored: whether probabilities are averaged over mirrors.
    """

    levels: int
    padding: str
    filters: int
    classes: int
    channels: int
    normalization: str | None
    precision: str
    mirrored: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any], precision: str, mirrored: bool = False) -> "Network":
        """From `UNet3D.get_config()`."""
        return cls(
            config["levels"],
            config["padding"],
            config["filters"],
            config["num_classes"],
            config["input_channels"],
            config["normalization"],
            precision,
            mirrored,
        )


class Cost(NamedTuple):
    """Of one tile.

    Attributes:
        bytes: at the peak, beside what the process holds before it.
        flops: multiplications and additions of its convolutions.
        seconds: on the processor that the constants are of.
        numbers: of the largest tensor.
    """

    bytes: int
    flops: float
    seconds: float
    numbers: int


@lru_cache(maxsize=1 << 16)
def of_tile(network: Network, size: tuple[int, int, int], probabilities: bool = False) -> Cost:
    """The cost of a tile.

    Args:
        network: its configuration.
        size: (Z, Y, X) of the input, one that fits the network.
        probabilities: whether these come out, not labels alone.
    """
    walk = _Walk(network, size)
    walk.down()
    walk.up()
    walk.head(probabilities)
    item = _BYTES[network.precision]
    size_in = _PER_INPUT * network.channels * prod(size)
    seconds = (
        walk.flops / _FLOPS_PER_SECOND[network.precision]
        + item * walk.moved / _MOVED_PER_SECOND
        + _SECONDS_PER_TILE
    )
    return Cost(
        int(_OVERHEAD[network.precision] * (walk.peak + size_in) + _FIXED),
        walk.flops,
        seconds,
        walk.largest,
    )


def nominal_flops(network: Network, size: Sequence[int]) -> float:
    """Arithmetic of the network's layers as they stand, upsampled features convolved and all."""
    walk = _Walk(network, size, folded=False)
    walk.down()
    walk.up()
    walk.head(probabilities=False)
    return walk.flops


class _Walk:
    """Goes through the network and notes arithmetic, memory and the largest tensor."""

    def __init__(self, network: Network, size: Sequence[int], folded: bool = True) -> None:
        self._network = network
        self._item = _BYTES[network.precision]
        self._lost = 2 if network.padding == "valid" else 0
        self._folded = folded
        self._size = list(size)
        self._channels = network.channels
        self._held = 0.0
        self._skips: list[int] = []
        self.flops = self.peak = self.moved = 0.0
        self.largest = 0

    def down(self) -> None:
        """The encoder; of a skip connection its share in the decoder's first sum waits."""
        network = self._network
        for level in range(network.levels):
            for i in (0, 1):
                self._convolve(network.filters * 2 ** (level + i))
            if level == network.levels - 1:
                return
            width, fine = self._channels, prod(self._size)
            crop = 2 * (6 * 2 ** (network.levels - 1 - level) - 8) if self._lost else 0
            cropped = [n - crop for n in self._size]
            self._note(width * fine, width * fine // 8, width * prod(cropped) if crop else 0)
            share = width * prod(n - self._lost for n in cropped)
            self.flops += 54 * width * share
            self._skips.append(width)
            self._held += self._item * share
            self._size = [n // 2 for n in self._size]

    def up(self) -> None:
        """The decoder."""
        for width in reversed(self._skips):
            coarse, channels = prod(self._size), self._channels
            self._size = [2 * n for n in self._size]
            fine = prod(n - self._lost for n in self._size)
            taps = 8 if self._folded else 27
            self.flops += 2 * taps * channels * width * fine
            doubled = width * prod(self._size)
            self._note(channels * coarse, doubled)
            self._note(doubled, width * fine if self._lost else 0)
            self._held -= self._item * width * fine
            self._size = [n - self._lost for n in self._size]
            self._channels = width
            self._normalise(width * fine)
            self._convolve(width)

    def head(self, probabilities: bool) -> None:
        """The last convolution, and what is made of it."""
        voxels, classes = prod(self._size), self._network.classes
        self.flops += 2 * self._channels * classes * voxels
        self._note(self._channels * voxels, classes * voxels)
        self._note(self._blocked(classes) * voxels)
        each = _PER_PROBABILITY if probabilities else 0
        if self._network.mirrored:
            each = _PER_MIRRORED
        # Labels are 32 bits long before they are 8.
        self._note(classes * voxels, extra=(each * classes + 5) * voxels)

    def _convolve(self, width: int) -> None:
        before = self._channels * prod(self._size)
        self._size = [n - self._lost for n in self._size]
        after = width * prod(self._size)
        self.flops += 54 * self._channels * after
        self._note(before, after)
        self._note(after, self._blocked(width) * prod(self._size))
        self._channels = width
        self._normalise(after)

    def _normalise(self, numbers: int) -> None:
        extra = _PER_NORMALISED[self._network.normalization][self._network.precision != "float32"]
        self._note(numbers, extra=extra * numbers)

    def _blocked(self, width: int) -> int:
        """Channels of the copy of a convolution's output; 0 where none is made."""
        if self._network.precision == "float32" or width % _BLOCK == 0:
            return 0
        return -(-width // _BLOCK) * _BLOCK

    def _note(self, *numbers: int, extra: float = 0) -> None:
        """Tensors that are in memory at once, beside the shares that wait."""
        self.peak = max(self.peak, self._held + self._item * sum(numbers) + extra)
        self.moved += sum(numbers)
        self.largest = max(self.largest, *numbers)
