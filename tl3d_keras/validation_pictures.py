"""Pictures of validation cases: the reference above, the prediction below."""

import numpy as np

from tl3d_keras import figure_file, overlays, slices
from tl3d_keras.manifest import Manifest
from tl3d_keras.stored_case import StoredCase

# Drawing takes longer than scoring a small case.
MOST_PICTURES = 3


def draw(case: StoredCase, predicted: np.ndarray, manifest: Manifest) -> bytes:
    """Reference and prediction at the reference's fullest slices, as a PNG file.

    Args:
        case: unannotated voxels of its labels are hatched.
        predicted: uint8 [Z, Y, X].
        manifest: of the case's records.
    """
    figure = overlays.comparison(
        case.image.array[..., 0],
        {"reference": case.labels, "prediction": predicted},
        case.image.spacing,
        manifest.structures,
        window=slices.window_of(manifest.channels[0]),
    )
    return figure_file.png(figure)
