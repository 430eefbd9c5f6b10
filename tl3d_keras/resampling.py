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
    grid = _covering_grid(volume, spacing)
    channels = [
        sitk.Resample(
            to_sitk(volume.with_array(channel[..., np.newaxis])),
            grid,
            sitk.Transform(),
            sitk.sitkLinear,
            float(channel.min()),
        )
        for channel in np.moveaxis(volume.array, -1, 0)
    ]
    arrays = [sitk.GetArrayFromImage(channel) for channel in channels]
    return from_sitk(grid).with_array(np.stack(arrays, axis=-1))


def labels_to_grid(volume: Volume, spacing: Sequence[float]) -> Volume:
    """Brings uint8 labels to the grid of `to_grid` by the rule of `annotation.resample_labels`.

    What lies outside the volume is unannotated, unless a structure would vanish otherwise.
    """
    if is_aligned(volume):
        return resample_labels(canonical(volume), spacing)
    old = to_sitk(volume)
    grid = _covering_grid(volume, spacing)
    new = sitk.Resample(old, grid, sitk.Transform(), sitk.sitkNearestNeighbor, annotation.IGNORE)
    # At each old voxel, the label of the new voxel that it lies in.
    back = sitk.GetArrayFromImage(
        sitk.Resample(new, old, sitk.Transform(), sitk.sitkNearestNeighbor, annotation.IGNORE)
    )
    labels, resampled = volume.array[..., 0], sitk.GetArrayFromImage(new)
    lost = (labels != annotation.IGNORE) & (back == annotation.IGNORE)
    annotation.restore(labels, resampled, np.nonzero(lost), _affine_place(volume, grid))
    return from_sitk(grid).with_array(resampled[..., np.newaxis])


def is_aligned(volume: Volume) -> bool:
    """Whether the axes are those of the patient in some order and sense, within 0.001."""
    size = np.abs(np.reshape(volume.direction, (3, 3)))
    nearest = size > 0.5
    one_each = (nearest.sum(0) == 1).all() and (nearest.sum(1) == 1).all()
    return bool(one_each and np.abs(size - nearest).max() <= _ALIGNED)


def canonical(volume: Volume) -> Volume:
    """Flips and permutes the axes to the nearest LPS orientation; voxels stay what they are."""
    return from_sitk(sitk.DICOMOrient(to_sitk(volume), ORIENTATION))


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
    reference = _grid(volume, spacing)
    return from_sitk(sitk.Resample(to_sitk(volume), reference, sitk.Transform(), sitk.sitkLinear))


def resample_labels(volume: Volume, spacing: Sequence[float]) -> Volume:
    """Resamples uint8 labels to the grid of `resample_image` by `annotation.resample_labels`."""
    if np.allclose(volume.spacing, spacing):
        return volume
    shape = resampled_shape(volume.shape, volume.spacing, spacing)
    labels = annotation.resample_labels(volume.array[..., 0], volume.spacing, shape, spacing)
    return from_sitk(_grid(volume, spacing)).with_array(labels[..., np.newaxis])


def labels_onto(labels: Volume, reference: Volume) -> Volume:
    """Brings a segmentation back onto the grid of `reference`, by nearest neighbour.

    Voxels of the reference beyond the outermost label take the nearest label, those half-way
    between two labels that of the higher index.
    """
    affine, origin = _affine(labels)
    image = to_sitk(labels)
    image.SetOrigin((origin - TIE * affine.sum(axis=1)).tolist())
    target = to_sitk(reference.with_array(np.zeros((*reference.shape, 1), np.uint8)))
    extrapolate = sitk.ResampleImageFilter()
    extrapolate.SetReferenceImage(target)
    extrapolate.SetInterpolator(sitk.sitkNearestNeighbor)
    extrapolate.SetUseNearestNeighborExtrapolator(True)
    return reference.with_array(from_sitk(extrapolate.Execute(image)).array)


def _grid(volume: Volume, spacing: Sequence[float]) -> sitk.Image:
    old = to_sitk(volume.with_array(np.zeros((*volume.shape, 1), np.uint8)))
    z, y, x = resampled_shape(volume.shape, volume.spacing, spacing)
    grid = sitk.Image([x, y, z], sitk.sitkUInt8)
    grid.SetSpacing([float(s) for s in reversed(spacing)])
    grid.SetDirection(volume.direction)
    centre = old.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in old.GetSize()])
    grid_centre = grid.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in (x, y, z)])
    grid.SetOrigin([c - g for c, g in zip(centre, grid_centre, strict=True)])
    return grid


def _affine(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """The 3x3 matrix and the offset from (x, y, z) of a voxel to its place in mm."""
    direction = np.reshape(volume.direction, (3, 3))
    return direction * volume.spacing[::-1], np.array(volume.origin)


def _covering_grid(volume: Volume, spacing: Sequence[float]) -> sitk.Image:
    """The smallest grid along the patient's axes around a volume, with the same centre."""
    affine, origin = _affine(volume)
    size = np.array(volume.shape[::-1])
    # Each axis reaches along each of the patient's by its length times their cosine.
    extent = np.abs(affine) @ size
    step = np.array([float(s) for s in reversed(spacing)])
    # What is beyond a whole number of voxels by rounding alone gets no voxel more.
    number = np.maximum(1, np.ceil(extent / step - 1e-3)).astype(int)
    grid = sitk.Image(number.tolist(), sitk.sitkUInt8)
    grid.SetSpacing(step.tolist())
    centre = origin + affine @ ((size - 1) / 2)
    grid.SetOrigin((centre - (number - 1) / 2 * step).tolist())
    return grid


def _affine_place(volume: Volume, grid: sitk.Image) -> annotation.Place:
    old_affine, old_origin = _affine(volume)
    step, origin = np.array(grid.GetSpacing()), np.array(grid.GetOrigin())
    last = np.array(grid.GetSize()) - 1

    def place(old: tuple[np.ndarray, ...]) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        exact = (np.stack(old[::-1], -1) @ old_affine.T + old_origin - origin) / step
        index = np.clip(np.rint(exact), 0, last)
        seen = (index * step + origin - old_origin) @ np.linalg.inv(old_affine).T
        inside = ((seen >= -0.5) & (seen <= np.array(volume.shape[::-1]) - 0.5)).all(-1)
        far = np.where(inside, (((exact - index) * step) ** 2).sum(-1), np.inf)
        return tuple(index.astype(np.int64).T[::-1]), far

    return place
