"""Volumes, the grids that they lie on, and SimpleITK's images of them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk

from tl3d_keras.errors import InputError

# Headers store float32 in places, so equal grids may differ by rounding.
GEOMETRY_TOLERANCE = 1e-3
# mm that the voxels of a scan of a person can have.
MIN_SPACING, MAX_SPACING = 0.01, 50.0


@dataclass(frozen=True)
class Volume:
    """A volume and where it lies in the patient (LPS millimetres).

    Attributes:
        array: [Z, Y, X, C].
        spacing: (z, y, x) in mm.
        origin: (x, y, z) of the centre of voxel 0 in mm.
        direction: 3x3 row-major direction cosines in ITK's (x, y, z) order.
    """

    array: np.ndarray
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (Z, Y, X)."""
        z, y, x = self.array.shape[:3]
        return z, y, x

    def with_array(self, array: np.ndarray) -> "Volume":
        """Returns `array` on this volume's grid."""
        return replace(self, array=array)


def oriented_like(volume: Volume, reference: Volume) -> Volume:
    """Flips and permutes the axes of a volume to those nearest to the reference's."""
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines
    if code(volume.direction) == code(reference.direction):
        return volume
    return from_sitk(sitk.DICOMOrient(to_sitk(volume), code(reference.direction)))


def on_same_grid(
    first: Volume,
    second: Volume,
    first_path: str | os.PathLike,
    second_path: str | os.PathLike,
) -> Volume:
    """The second volume with its axes in the first's order and sense, voxel by voxel beside it.

    Raises:
        InputError: the volumes do not lie on one grid; it names what differs.
    """
    turned = oriented_like(second, first)
    try:
        check_same_grid(first, turned, first_path, second_path)
    except InputError:
        # The message speaks of the file as it is.
        check_same_grid(first, second, first_path, second_path)
        raise
    return turned


def check_same_grid(
    first: Volume,
    second: Volume,
    first_path: str | os.PathLike,
    second_path: str | os.PathLike,
) -> None:
    """Raises an `InputError` that names what differs unless both volumes lie on one grid."""
    if first.shape != second.shape:
        raise InputError(
            f"{second_path}: expected the shape {first.shape} (z, y, x) of {first_path}, "
            f"found {second.shape}"
        )
    for what in ("spacing", "origin", "direction"):
        expected, found = getattr(first, what), getattr(second, what)
        if not np.allclose(expected, found, rtol=0, atol=GEOMETRY_TOLERANCE):
            raise InputError(
                f"{second_path}: expected the {what} {_rounded(expected)} of {first_path}, "
                f"found {_rounded(found)}"
            )


def from_sitk(image: sitk.Image) -> Volume:
    """Converts a 3D SimpleITK image."""
    array = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() == 1:
        array = array[..., np.newaxis]
    x, y, z = image.GetSpacing()
    return Volume(array, (z, y, x), image.GetOrigin(), image.GetDirection())


def to_sitk(volume: Volume) -> sitk.Image:
    """Converts to a SimpleITK image: scalar where C is 1, else a vector image."""
    array = volume.array
    single = array.shape[-1] == 1
    image = sitk.GetImageFromArray(array[..., 0] if single else array, isVector=not single)
    image.SetSpacing(volume.spacing[::-1])
    image.SetOrigin(volume.origin)
    image.SetDirection(volume.direction)
    return image


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(float(v), 4) for v in values)
