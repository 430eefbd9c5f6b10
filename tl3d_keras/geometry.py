"""Which input sizes of a U-Net give which output sizes."""

from dataclasses import dataclass

from tl3d_keras.errors import InputError


@dataclass(frozen=True)
class Geometry:
    """How input sizes and output sizes of a U-Net belong together.

    Attributes:
        levels: resolutions, the finest included.
        padding: "valid" or "same".
    """

    levels: int
    padding: str

    @property
    def stride(self) -> int:
        """The pooling stride: shifts of the input by its multiples shift the output alike."""
        return 2 ** (self.levels - 1)

    @property
    def reach(self) -> int:
        """How far from a voxel the input can change the output there, in voxels.

        That of the convolutions, and up to the stride less one for where in its pooling window the
        voxel lies.
        """
        return self._convolutions + self.stride - 1

    @property
    def margin(self) -> int:
        """Voxels that a valid network's output is smaller by on each side; 0 if padding is same."""
        return self._convolutions if self.padding == "valid" else 0

    def is_input_size(self, size: int) -> bool:
        """Whether an axis of the input can have `size` voxels."""
        if self.padding == "same":
            return size > 0 and size % self.stride == 0
        return size > 2 * self.margin and (size - 2 * self.margin) % self.stride == self._rest

    def output_size(self, size: int) -> int:
        """Output voxels along an axis with `size` input voxels.

        Raises:
            InputError: the input cannot have that size; the message names the nearest that can.
        """
        if not self.is_input_size(size):
            fitting = sorted(
                (
                    n
                    for n in range(1, size + 2 * self.margin + 2 * self.stride + 1)
                    if self.is_input_size(n)
                ),
                key=lambda n: abs(n - size),
            )[:3]
            raise InputError(
                f"expected an input size such as {', '.join(map(str, sorted(fitting)))} for "
                f"{self.padding} padding and {self.levels} levels, found {size}"
            )
        return size - 2 * self.margin

    def input_size(self, output: int) -> int:
        """The smallest input size whose output has at least `output` voxels."""
        size = output + 2 * self.margin
        while not self.is_input_size(size):
            size += 1
        return size

    @property
    def _convolutions(self) -> int:
        # Two of 3x3x3 a level, on the way down and, but at the coarsest level, up.
        return 6 * self.stride - 4

    @property
    def _rest(self) -> int:
        # Sizes stay even before every pooling: n = 4 (1 + 2 + ...) modulo the stride, less margins.
        return (4 * (self.stride - 1) - 2 * self.margin) % self.stride
