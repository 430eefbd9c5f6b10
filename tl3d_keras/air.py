"""Regions of constant air around a body: where they are, and what the network answers there."""

from collections.abc import Callable, Sequence

import numpy as np

from tl3d_keras import tile_cost
from tl3d_keras.geometry import Geometry
from tl3d_keras.intensity import Intensity
from tl3d_keras.lazy_image import LazyImage, slabs
from tl3d_keras.survey import Survey
from tl3d_keras.tile_cost import Network
from tl3d_keras.tile_planner import plan_tiles, seconds_of
from tl3d_keras.tiling import Axes


class Air:
    """Where an image is as constant as what lies beyond it, in blocks of the pooling stride.

    Args:
        image: the image.
        seen: its survey.
        intensity: the normalisation.
        geometry: of the network.

    Attributes:
        limit: [C], what is not above it in any channel is air.
    """

    def __init__(
        self, image: LazyImage, seen: Survey, intensity: Intensity, geometry: Geometry
    ) -> None:
        self.limit = seen.floor
        self._geometry = geometry
        self._shape = image.shape
        if intensity.mode == "window":
            # All below the window looks alike; without anything there, the lowest value does.
            self.limit = np.maximum(seen.floor, np.array(intensity.low, np.float32))
        stride = geometry.stride
        tissue = np.zeros([-(-n // stride) for n in image.shape], bool)
        for first, slab in slabs(image):
            voxels = np.any(slab > self.limit, axis=-1)
            for axis in (2, 1):
                starts = np.arange(0, voxels.shape[axis], stride)
                voxels = np.logical_or.reduceat(voxels, starts, axis)
            for z in range(len(voxels)):
                tissue[(first + z) // stride] |= voxels[z]
        # How many blocks of tissue lie before each corner.
        self._before = np.pad(tissue.astype(np.int64).cumsum(0).cumsum(1).cumsum(2), (1, 0))
        self._tissue = tissue

    def wanted(self) -> list[tuple[int, int]] | None:
        """Along each axis, first and end of what tissue is in reach of; None if there is none."""
        if not self._tissue.any():
            return None
        stride, reach = self._geometry.stride, self._geometry.reach
        bounds = []
        for axis, size in enumerate(self._shape):
            others = tuple(other for other in range(3) if other != axis)
            blocks = np.flatnonzero(self._tissue.any(axis=others))
            first = max(0, int(blocks[0]) * stride - reach) // stride * stride
            bounds.append((first, min(size, (int(blocks[-1]) + 1) * stride + reach)))
        return bounds

    def is_needed(self, axes: Axes) -> np.ndarray:
        """Whether any tissue lies in what a tile reads, boolean [tiles along z, y, x]."""
        stride = self._geometry.stride
        count = np.zeros([len(spans) for spans in axes], np.int64)
        for corner in np.ndindex(2, 2, 2):
            index = []
            for spans, blocks, upper in zip(axes, self._tissue.shape, corner, strict=True):
                ends = np.array([s.read_start + (s.read_size if upper else 0) for s in spans])
                rounded = -(-ends // stride) if upper else ends // stride
                index.append(np.clip(rounded, 0, blocks))
            count += (-1) ** (3 - sum(corner)) * self._before[np.ix_(*index)]
        return count > 0

    def computed_once(
        self, compute: Callable[[np.ndarray], np.ndarray]
    ) -> Callable[[np.ndarray], np.ndarray]:
        """As `compute`, for raw tiles of one shape, but that of nothing but air only once."""
        known: list[np.ndarray] = []

        def answer(raw: np.ndarray) -> np.ndarray:
            if (raw > self.limit).any():
                return compute(raw)
            if not known:
                known.append(compute(raw))
            return known[0]

        return answer


def plan_without_air(
    air: Air,
    shape: Sequence[int],
    network: Network,
    memory_bytes: float,
    probabilities: bool,
    whole: Axes,
) -> tuple[Axes, np.ndarray] | None:
    """Tiles around the tissue, and which of them are computed.

    Args:
        air: of the image.
        shape: (Z, Y, X).
        network: its configuration.
        memory_bytes: for one tile.
        probabilities: as `tile_cost.of_tile`.
        whole: the tiles of the whole image.

    Returns:
        Tiles along each axis and boolean [tiles along z, y, x]; None where that takes longer than
        computing the whole image.
    """
    geometry = Geometry(network.levels, network.padding)
    z, y, x = (geometry.input_size(n) for n in _sizes(shape, geometry))
    once = tile_cost.of_tile(network, (z, y, x), probabilities)
    if once.bytes > memory_bytes:
        return None
    wanted = air.wanted()
    if wanted is None:
        return whole, np.zeros([len(spans) for spans in whole], bool)
    axes = plan_tiles(shape, network, memory_bytes, probabilities, wanted, air.is_needed)
    seconds = seconds_of(axes, network, probabilities, air.is_needed)
    if once.seconds + seconds >= seconds_of(whole, network, probabilities):
        return None
    return axes, air.is_needed(axes)


def fill(
    result: np.ndarray,
    floor: np.ndarray,
    geometry: Geometry,
    compute: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Writes what the network answers to nothing but air.

    Args:
        result: [Z, Y, X, ...].
        floor: [C], the air.
        geometry: of the network.
        compute: gives the output of a raw tile.
    """
    sizes = _sizes(result.shape[:3], geometry)
    raw = np.empty((*map(geometry.input_size, sizes), len(floor)), np.float32)
    raw[:] = floor
    places = [_places(n, m, geometry) for n, m in zip(result.shape, sizes, strict=False)]
    result[:] = compute(raw)[np.ix_(*places)]


def _sizes(shape: Sequence[int], geometry: Geometry) -> list[int]:
    """The size of a volume of air whose answers are all that a network gives to air in `shape`."""
    if geometry.padding == "valid":
        return [1] * 3
    halo = -(-geometry.reach // geometry.stride) * geometry.stride
    whole = [-(-n // geometry.stride) * geometry.stride for n in shape]
    return [min(n, 2 * halo + geometry.stride) for n in whole]


def _places(size: int, air: int, geometry: Geometry) -> np.ndarray:
    """For each of `size` voxels along an axis, where in `_sizes` voxels its answer stands.

    Zero padding changes what lies within reach of the border; all else is that of the middle.
    """
    whole = -(-size // geometry.stride) * geometry.stride
    places = np.arange(size)
    if geometry.padding == "valid":
        return np.zeros_like(places)
    halo = (air - geometry.stride) // 2 if whole > air else whole
    return np.where(
        places < halo, places, np.where(places >= whole - halo, places - whole + air, halo)
    )
