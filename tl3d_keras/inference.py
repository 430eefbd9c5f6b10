"""Whole-volume segmentation in tiles that give the same result whatever their size.

Networks with normalisation layers, which look at the whole tile, get tiles of the size that they
were trained on.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from tl3d_keras import air, argument_checks, memory, resampling, tile_cost, tile_planner, tiling
from tl3d_keras.blending import Blending
from tl3d_keras.errors import InputError
from tl3d_keras.intensity import Intensity
from tl3d_keras.lazy_image import GridImage, LazyImage, as_lazy, read_ahead
from tl3d_keras.mirrors import mirrored_labels
from tl3d_keras.survey import Survey, survey
from tl3d_keras.tile_function import tile_function
from tl3d_keras.tiling import Axes
from tl3d_keras.unet3d import HEAD, UNet3D
from tl3d_keras.volumes import Volume

# For what the model of a tile's memory may miss.
_SHARE_OF_LIMIT = 0.9
_PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


class Segmenter:
    """Segments volumes with one network; compiles once for all tile shapes.

    Args:
        network: with weights; float32 or mixed precision.
        intensity: the normalisation that it was trained with.
        memory_bytes: limit for what the process holds; None for 60 % of what is free beside it.
        patch_size: (Z, Y, X) of the training patches.
        overlap: blends tiles of `patch_size` that share at least this part of each axis with the
            next, by Gaussian weights; None for exact tiles or, with normalisation, for tiles of
            `patch_size` of which the middle counts.
        mirror_axes: of 0 to 2 (z, y, x); probabilities are averaged over all mirrors along them.
        skip_air: leaves out tiles that see nothing but air, whose answer is computed once.

    Attributes:
        network: as given.

    Raises:
        InputError: an argument of another kind, an overlap of exact tiles, without a `patch_size`
            or outside 0 to 0.9, or mirrors along x of structures that have a side.
    """

    def __init__(
        self,
        network: UNet3D,
        intensity: Intensity,
        memory_bytes: float | None = None,
        patch_size: Sequence[int] | None = None,
        overlap: float | None = None,
        mirror_axes: Sequence[int] = (),
        skip_air: bool = False,
    ) -> None:
        argument_checks.check_kind(network, UNet3D, "a network of base_model or load")
        argument_checks.check_kind(intensity, Intensity, "an Intensity, such as info.intensity")
        if patch_size is not None:
            argument_checks.check_size(patch_size, "patch_size")
        self._geometry = network.geometry
        precision = _PRECISIONS[tf.as_dtype(network.get_layer(HEAD).compute_dtype).name]
        self.network = network
        self._costs = tile_cost.Network.of(network.get_config(), precision, bool(mirror_axes))
        self._intensity = intensity
        self._patch_size = patch_size
        self._overlap = overlap
        _check_overlap(overlap, self._costs, patch_size)
        _check_mirrors(mirror_axes, network.structures)
        self._skip_air = skip_air
        self._memory_bytes = memory_bytes
        self._held_before = memory.resident_memory()
        self._reserved = 0
        make = partial(tile_function, network, intensity, mirror_axes=mirror_axes)
        self._labels, self._probabilities = make(labels=True), make(labels=False)

    def labels(self, image: np.ndarray | LazyImage) -> np.ndarray:
        """Segments a raw volume.

        Args:
            image: [Z, Y, X, C] in the modality's units, at the network's spacing.

        Returns:
            uint8 [Z, Y, X], 0 for background and 1..K for the structures.

        Raises:
            InputError: another shape, or the memory does not suffice; it says how much does.
        """
        image = as_lazy(image, self._costs.channels)
        result = np.zeros(image.shape, np.uint8)
        if self._overlap is None:
            self._compute_tiles(image, result, self._labels)
        for first, block in self._blended(image, result.nbytes):
            result[first : first + len(block)] = block.argmax(-1)
        return result

    def probabilities(self, image: np.ndarray | LazyImage) -> np.ndarray:
        """As `labels`, but float32 [Z, Y, X, K + 1]."""
        image = as_lazy(image, self._costs.channels)
        result = np.zeros((*image.shape, self._costs.classes), np.float32)
        if self._overlap is None:
            self._compute_tiles(image, result, self._probabilities)
        for first, block in self._blended(image, result.nbytes):
            result[first : first + len(block)] = block
        return result

    def plan(self, shape: Sequence[int], held: int = 0, probabilities: bool = False) -> Axes:
        """The tiles of a volume, where they are not blended.

        Args:
            shape: (Z, Y, X).
            held: bytes that the process holds beside a tile, more than before the first volume.
            probabilities: whether these are wanted.

        Raises:
            InputError: no tile fits the memory.
        """
        if self._costs.normalization and self._patch_size:
            # Nothing smaller would do, so without a limit it is tried.
            if self._memory_bytes is not None:
                self._check_patch(held, probabilities)
            z, y, x = (
                tiling.plan_patches(n, self._geometry, patch)
                for n, patch in zip(shape, self._patch_size, strict=True)
            )
            return z, y, x
        return tile_planner.plan_tiles(shape, self._costs, self._budget(held), probabilities)

    def _budget(self, held: int) -> float:
        if self._memory_bytes is None:
            return memory.available_memory() - held
        return _SHARE_OF_LIMIT * (self._memory_bytes - self._held_before) - held

    def _check_patch(self, held: int, probabilities: bool, sums: int = 0) -> None:
        """Raises an `InputError` unless a tile of the training's size, and `sums` bytes, fit."""
        assert self._patch_size is not None
        z, y, x = self._patch_size
        need = tile_cost.of_tile(self._costs, (z, y, x), probabilities).bytes + sums
        budget = self._budget(held)
        if need > budget:
            raise InputError(
                f"expected at least {need / 2**30:.2f} GiB for tiles of {z}, {y}, {x} voxels, "
                f"found {max(0, budget) / 2**30:.2f} GiB left for them; see --memory_gib"
            )

    def _compute_tiles(self, image: LazyImage, result: np.ndarray, function: Callable) -> None:
        seen = survey(image, self._intensity)
        compute = _with(function, seen)
        probabilities = function is self._probabilities
        held = result.nbytes + image.nbytes
        axes = self.plan(image.shape, held, probabilities)
        tiles = tiling.tiles(axes)
        if self._skip_air and self._costs.normalization:
            compute = air.Air(image, seen, self._intensity, self._geometry).computed_once(compute)
        elif self._skip_air:
            found = air.plan_without_air(
                air.Air(image, seen, self._intensity, self._geometry),
                image.shape,
                self._costs,
                self._budget(held),
                probabilities,
                axes,
            )
            if found:
                axes, needed = found
                tiles = [t for t, at in zip(tiling.tiles(axes), needed.flat, strict=True) if at]
                air.fill(result, seen.floor, self._geometry, compute)
        self._reserve(axes, probabilities)
        for tile, raw in read_ahead(image, tiles, seen.floor):
            keep = tuple(slice(s.skip, s.skip + s.stop - s.start) for s in tile)
            result[tiling.place(tile)] = compute(raw)[keep]

    def _blended(self, image: LazyImage, held: int) -> Iterator[tuple[int, np.ndarray]]:
        if self._overlap is None or self._patch_size is None:
            return
        seen = survey(image, self._intensity)
        blending = Blending(image.shape, self._geometry, self._patch_size, self._overlap)
        self._check_patch(held + image.nbytes, True, blending.sums_bytes(self._costs.classes))
        self._reserve(blending.axes, probabilities=True)
        compute = _with(self._probabilities, seen)
        if self._skip_air:
            where = air.Air(image, seen, self._intensity, self._geometry)
            compute = where.computed_once(compute)
        yield from blending.probabilities(image, self._costs.classes, seen.floor, compute)

    def _reserve(self, axes: Axes, probabilities: bool) -> None:
        """Lets TensorFlow's allocator get the memory of a tile in one piece.

        It keeps what it gets, and piece by piece it would end with up to twice as much.
        """
        z, y, x = (max(s.read_size for s in spans) for spans in axes)
        need = tile_cost.of_tile(self._costs, (z, y, x), probabilities).bytes
        if need > self._reserved and not tf.config.list_physical_devices("GPU"):
            tf.raw_ops.Empty(shape=[2 * need >> 20, 1 << 20], dtype=tf.uint8, init=False)
            self._reserved = need


def segment(volume: Volume, segmenter: Segmenter, spacing: Sequence[float]) -> Volume:
    """Segments a volume on any grid.

    Args:
        volume: as read from a file.
        segmenter: with the network.
        spacing: (z, y, x) in mm that the network was trained at.

    Returns:
        uint8 labels [Z, Y, X, 1] on exactly the grid of `volume`.

    Raises:
        InputError: an argument of another kind, or a volume of other channels than the network's.
    """
    argument_checks.check_volume(volume)
    argument_checks.check_kind(segmenter, Segmenter, "a Segmenter")
    argument_checks.check_spacing(spacing, "the network's spacing")
    image = GridImage(volume, spacing)
    labels = segmenter.labels(image)
    return resampling.labels_onto(image.grid.with_array(labels[..., np.newaxis]), volume)


def _with(function: Callable[..., Any], seen: Survey) -> Callable[[np.ndarray], np.ndarray]:
    return lambda raw: function(raw, seen.scale, seen.shift).numpy()


def _check_overlap(
    overlap: float | None, network: tile_cost.Network, patch_size: Sequence[int] | None
) -> None:
    if overlap is None:
        return
    if patch_size is None:
        raise InputError("expected the patch_size to blend patches with an overlap, found none")
    if not network.normalization and network.padding == "valid":
        raise InputError(
            "expected no --overlap for a network with valid padding, whose tiles are exact without"
        )
    if not 0 <= overlap <= 0.9:
        raise InputError(f"expected --overlap of 0 to 0.9, found {overlap:g}")


def _check_mirrors(axes: Sequence[int], structures: Sequence[str]) -> None:
    if 2 not in axes:
        return
    mirrored = mirrored_labels(structures)
    for label, other in enumerate(mirrored):
        if label != other:
            raise InputError(
                "expected no mirrors along x where structures have a side, found "
                f"{structures[label - 1]!r} and {structures[other - 1]!r}"
            )
