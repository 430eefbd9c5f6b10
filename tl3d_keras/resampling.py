"""Volumes between the grid they came on and the axis-aligned grid that networks see."""

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from tl3d_keras import annotation
from tl3d_keras.volumes import Volume, from_sitk, to_sitk

# Array axes run to superior, posterior, left, so that left and right mean the same everywhere.
ORIENTATION = "LPS"

_ALIGNED = 1e-3

# Voxels that a place between two labels lies nearer to the upper, so that no rounding decides.
TIE = 1e-4


def to_grid(volume: Volume, spacing: Sequence[float]) -> Volume:
    """Brings an image to the grid that networks see, with one interpolation at most.

    Axes that run along those of the patient are flipped and permuted; oblique and sheared ones
    (gantry tilt) are resampled onto a grid along the patient's axes that covers the volume, which
    holds each channel's minimum where there was nothing.

    Args:
        volume: on any grid.
        spacing: (z, y, x) in mm.

    Returns:
        The image at `spacing` in LPS orientation, linearly interpolated.
    """
    if is_aligned(volume):
        return resample_image(canonical(volume), spacing)
    grid = grid_of(volume, spacing)
    floor = volume.array.min(axis=(0, 1, 2))
    return grid.with_array(interpolated(volume, grid, floor))


def grid_of(volume: Volume, spacing: Sequence[float]) -> Volume:
    """The grid of `to_grid`, with an array of zeros that takes no memory."""
    if not is_aligned(volume):
        return _covering_grid(volume, spacing)
    upright = canonical(volume)
    if np.allclose(upright.spacing, spacing):
        return upright.with_array(_nothing(upright.shape))
    return _grid(upright, spacing)


def interpolated(volume: Volume, grid: Volume, floor: Sequence[float]) -> np.ndarray:
    """A volume's image on a grid, linearly interpolated.

    Args:
        volume: with the image.
        grid: where to.
        floor: what lies beyond the volume, one number a channel.

    Returns:
        [Z, Y, X, C] of the image's type of number, whole ones rounded to the nearest.
    """
    channels = [
        _interpolated_channel(volume.with_array(volume.array[..., c : c + 1]), grid, float(lowest))
        for c, lowest in enumerate(floor)
    ]
    return np.stack(channels, axis=-1) if len(channels) > 1 else channels[0][..., np.newaxis]


def _interpolated_channel(volume: Volume, grid: Volume, floor: float) -> np.ndarray:
    dtype = volume.array.dtype
    if not np.issubdtype(dtype, np.integer):
        return sitk.GetArrayFromImage(_resampled(to_sitk(volume), grid, sitk.sitkLinear, floor))
    # ITK cuts whole numbers off towards 0, half a unit on average.
    exact = volume.with_array(volume.array.astype(np.float32 if dtype.itemsize <= 2 else float))
    found = sitk.GetArrayFromImage(_resampled(to_sitk(exact), grid, sitk.sitkLinear, floor))
    return np.rint(found, out=found).astype(dtype)


def labels_to_grid(volume: Volume, spacing: Sequence[float]) -> Volume:
    """Brings uint8 labels to the grid of `to_grid` by the rule of `annotation.resample_labels`.

    What lies outside the volume is unannotated, unless a structure would vanish otherwise.
    """
    if is_aligned(volume):
        return resample_labels(canonical(volume), spacing)
    old = to_sitk(volume)
    grid = _covering_grid(volume, spacing)
    new = _resampled(old, grid, sitk.sitkNearestNeighbor, annotation.IGNORE)
    # At each old voxel, the label of the new voxel that it lies in.
    back = sitk.GetArrayFromImage(
        sitk.Resample(new, old, sitk.Transform(), sitk.sitkNearestNeighbor, annotation.IGNORE)
    )
    labels, resampled = volume.array[..., 0], sitk.GetArrayFromImage(new)
    lost = (labels != annotation.IGNORE) & (back == annotation.IGNORE)
    annotation.restore(labels, resampled, np.nonzero(lost), _affine_place(volume, grid))
    return grid.with_array(resampled[..., np.newaxis])


def is_aligned(volume: Volume) -> bool:
    """Whether the axes are those of the patient in some order and sense, within 0.001."""
    size = np.abs(np.reshape(volume.direction, (3, 3)))
    nearest = size > 0.5
    one_each = (nearest.sum(0) == 1).all() and (nearest.sum(1) == 1).all()
    return bool(one_each and np.abs(size - nearest).max() <= _ALIGNED)


def canonical(volume: Volume) -> Volume:
    """Flips and permutes the axes to the nearest LPS orientation; voxels stay what they are.

    The array of a volume whose axes run along the patient's is a view of what it was.
    """
    if not is_aligned(volume):
        return from_sitk(sitk.DICOMOrient(to_sitk(volume), ORIENTATION))
    axes = np.reshape(volume.direction, (3, 3))
    order = np.abs(axes).argmax(axis=1)
    senses = np.sign(axes[range(3), order])
    last = (np.array(volume.shape[::-1]) - 1) * volume.spacing[::-1] * (senses < 0)[order.argsort()]
    array = volume.array.transpose([*(2 - order)[::-1], 3])
    array = array[tuple(slice(None, None, int(sense)) for sense in senses[::-1])]
    spacing = [volume.spacing[2 - axis] for axis in order[::-1]]
    return Volume(
        array,
        (spacing[0], spacing[1], spacing[2]),
        tuple((np.array(volume.origin) + axes @ last).tolist()),
        tuple((axes[:, order] * senses).ravel().tolist()),
    )


def resampled_shape(
    shape: Sequence[int], spacing: Sequence[float], new_spacing: Sequence[float]
) -> tuple[int, int, int]:
    """The (Z, Y, X) that covers the same extent at `new_spacing`, at least one voxel each."""
    z, y, x = (
        max(1, round(n * s / t)) for n, s, t in zip(shape, spacing, new_spacing, strict=True)
    )
    return z, y, x


def resample_image(volume: Volume, spacing: Sequence[float]) -> Volume:
    """Resamples linearly to `spacing` (z, y, x) in mm; the centre of the volume stays in place."""
    if np.allclose(volume.spacing, spacing):
        return volume
    grid = _grid(volume, spacing)
    return grid.with_array(interpolated(volume, grid, [0] * volume.array.shape[-1]))


def resample_labels(volume: Volume, spacing: Sequence[float]) -> Volume:
    """Resamples uint8 labels to the grid of `resample_image` by `annotation.resample_labels`."""
    if np.allclose(volume.spacing, spacing):
        return volume
    shape = resampled_shape(volume.shape, volume.spacing, spacing)
    labels = annotation.resample_labels(volume.array[..., 0], volume.spacing, shape, spacing)
    return _grid(volume, spacing).with_array(labels[..., np.newaxis])


def labels_onto(labels: Volume, reference: Volume) -> Volume:
    """Brings a segmentation back onto the grid of `reference`, by nearest neighbour.

    Voxels of the reference beyond the outermost label take the nearest label, those half-way
    between two labels that of the higher index.
    """
    affine, origin = _affine(labels)
    target, start = _affine(reference)
    # (x, y, z) of a label for (x, y, z) of the reference.
    matrix, offset = np.linalg.solve(affine, target), np.linalg.solve(affine, start - origin)
    order = np.abs(matrix).argmax(axis=1)
    main = matrix[range(3), order]
    aside = matrix.copy()
    aside[range(3), order] = 0
    if len(set(order)) == 3 and np.abs(aside).max() * max(reference.shape) < TIE:
        # Axis by axis, without any copy but the result.
        places = [
            _nearest(offset[i] + main[i] * np.arange(reference.shape[2 - order[i]]), n)
            for i, n in enumerate(labels.shape[::-1])
        ]
        array = labels.array[..., 0].transpose(np.argsort(2 - order[::-1]))
        rows = [places[i] for i in order.argsort()[::-1]]
        return reference.with_array(array[np.ix_(*rows)][..., np.newaxis])
    image = to_sitk(labels)
    image.SetOrigin((origin - TIE * affine.sum(axis=1)).tolist())
    extrapolate = sitk.ResampleImageFilter()
    extrapolate.SetReferenceImage(to_sitk(reference.with_array(_nothing(reference.shape))))
    extrapolate.SetInterpolator(sitk.sitkNearestNeighbor)
    extrapolate.SetUseNearestNeighborExtrapolator(True)
    return reference.with_array(from_sitk(extrapolate.Execute(image)).array)


def _nearest(places: np.ndarray, size: int) -> np.ndarray:
    return np.clip(np.floor(places + 0.5 + TIE).astype(np.int64), 0, size - 1)


def _resampled(
    image: sitk.Image, grid: Volume, interpolator: int, default: float = 0.0
) -> sitk.Image:
    resample = sitk.ResampleImageFilter()
    resample.SetSize(grid.shape[::-1])
    resample.SetOutputSpacing(grid.spacing[::-1])
    resample.SetOutputOrigin(grid.origin)
    resample.SetOutputDirection(grid.direction)
    resample.SetInterpolator(interpolator)
    resample.SetDefaultPixelValue(default)
    return resample.Execute(image)


def _nothing(shape: Sequence[int]) -> np.ndarray:
    return np.broadcast_to(np.uint8(0), (*shape, 1))


def _grid(volume: Volume, spacing: Sequence[float]) -> Volume:
    affine, origin = _affine(volume)
    shape = resampled_shape(volume.shape, volume.spacing, spacing)
    z, y, x = (float(s) for s in spacing)
    centre = origin + affine @ ((np.array(volume.shape[::-1]) - 1) / 2)
    step = np.reshape(volume.direction, (3, 3)) * (x, y, z)
    start = centre - step @ ((np.array(shape[::-1]) - 1) / 2)
    return Volume(_nothing(shape), (z, y, x), tuple(start.tolist()), volume.direction)


def _affine(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """The 3x3 matrix and the offset from (x, y, z) of a voxel to its place in mm."""
    direction = np.reshape(volume.direction, (3, 3))
    return direction * volume.spacing[::-1], np.array(volume.origin)


def _covering_grid(volume: Volume, spacing: Sequence[float]) -> Volume:
    """The smallest grid along the patient's axes around a volume, with the same centre."""
    affine, origin = _affine(volume)
    size = np.array(volume.shape[::-1])
    # Each axis reaches along each of the patient's by its length times their cosine.
    extent = np.abs(affine) @ size
    step = np.array([float(s) for s in reversed(spacing)])
    # What is beyond a whole number of voxels by rounding alone gets no voxel more.
    number = np.maximum(1, np.ceil(extent / step - 1e-3)).astype(int)
    centre = origin + affine @ ((size - 1) / 2)
    start = (centre - (number - 1) / 2 * step).tolist()
    z, y, x = (float(s) for s in spacing)
    return Volume(_nothing(number[::-1].tolist()), (z, y, x), tuple(start))


def _affine_place(volume: Volume, grid: Volume) -> annotation.Place:
    old_affine, old_origin = _affine(volume)
    step, origin = np.array(grid.spacing[::-1]), np.array(grid.origin)
    last = np.array(grid.shape[::-1]) - 1

    def place(old: tuple[np.ndarray, ...]) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        exact = (np.stack(old[::-1], -1) @ old_affine.T + old_origin - origin) / step
        index = np.clip(np.rint(exact), 0, last)
        seen = (index * step + origin - old_origin) @ np.linalg.inv(old_affine).T
        inside = ((seen >= -0.5) & (seen <= np.array(volume.shape[::-1]) - 0.5)).all(-1)
        far = np.where(inside, (((exact - index) * step) ** 2).sum(-1), np.inf)
        return tuple(index.astype(np.int64).T[::-1]), far

    return place
