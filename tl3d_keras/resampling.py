"""Volumes between the grid they came on and the axis-aligned grid that networks see."""

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from tl3d_keras import annotation
from tl3d_keras.volume_io import Volume, from_sitk, to_sitk

# Array axes run to superior, posterior, left, so that left and right mean the same everywhere.
ORIENTATION = "LPS"


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

    Voxels of the reference beyond the outermost label take the nearest label.
    """
    image = to_sitk(labels)
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
