"""Patches of the training's size, blended where they overlap, one layer of slices after the other.

For networks that see their border: with same padding they were trained beside zeros, and group and
instance normalisation look at the whole patch.
"""

from collections.abc import Callable, Iterator, Sequence
from math import prod

import numpy as np

from tl3d_keras import tiling
from tl3d_keras.geometry import Geometry
from tl3d_keras.lazy_image import LazyImage, read_ahead
from tl3d_keras.tiling import Axes


class Blending:
    """Which patches a volume is cut into.

    Args:
        shape: (Z, Y, X) of the volume.
        geometry: of the network.
        patch_size: (Z, Y, X) of what a patch reads.
        overlap: the least part of a patch's output that it shares with the next along an axis.
    """

    def __init__(
        self,
        shape: Sequence[int],
        geometry: Geometry,
        patch_size: Sequence[int],
        overlap: float,
    ) -> None:
        z, y, x = (
            tiling.plan_overlapping(n, geometry, patch, overlap)
            for n, patch in zip(shape, patch_size, strict=True)
        )
        self.axes: Axes = (z, y, x)
        self._weights = [
            tiling.blending_weights(spans, geometry.output_size(patch))
            for spans, patch in zip(self.axes, patch_size, strict=True)
        ]
        self._layer = (max(s.stop - s.start for s in z), *shape[1:])

    def sums_bytes(self, classes: int) -> int:
        """What the sums of one layer of patches take."""
        return 4 * classes * prod(self._layer)

    def probabilities(
        self,
        image: LazyImage,
        classes: int,
        floor: np.ndarray,
        compute: Callable[[np.ndarray], np.ndarray],
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Blends what `compute` gives of each patch.

        Args:
            image: the volume.
            classes: K + 1.
            floor: [C], what lies beyond it.
            compute: gives probabilities of a raw patch.

        Yields:
            The first of some finished slices and their float32 [slices, Y, X, K + 1], which the
            next step overwrites.
        """
        z, y, x = self.axes
        weights_z, weights_y, weights_x = self._weights
        patches = read_ahead(image, tiling.tiles(self.axes), floor)
        sums = np.zeros((*self._layer, classes), np.float32)
        ends = [*(span.start for span in z[1:]), image.shape[0]]
        for along_z, weight_z, end in zip(z, weights_z, ends, strict=True):
            for weight_y in weights_y:
                for weight_x in weights_x:
                    tile, raw = next(patches)
                    keep = tuple(slice(s.skip, s.skip + s.stop - s.start) for s in tile)
                    _, rows, columns = tiling.place(tile)
                    weight = weight_z[:, None, None] * weight_y[:, None] * weight_x
                    sums[: len(weight_z), rows, columns] += compute(raw)[keep] * weight[..., None]
            finished = end - along_z.start
            yield along_z.start, sums[:finished]
            sums[: len(sums) - finished] = sums[finished:]
            sums[len(sums) - finished :] = 0
