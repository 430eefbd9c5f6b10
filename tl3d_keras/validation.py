"""Validation of a training run on whole volumes."""

from collections.abc import Sequence

import numpy as np

from tl3d_keras import stored_case, validation_pictures
from tl3d_keras.inference import Segmenter
from tl3d_keras.lazy_image import ArrayImage
from tl3d_keras.manifest import CaseEntry, Manifest
from tl3d_keras.metrics import DiceSums
from tl3d_keras.run_folder import RunFolder


def validate(
    segmenter: Segmenter,
    records_dir: str,
    manifest: Manifest,
    cases: Sequence[CaseEntry],
    folder: RunFolder,
) -> list[float | None]:
    """The Dice of each structure over all voxels of the cases, None where it is not defined.

    Args:
        segmenter: of the network in training.
        records_dir: holds the cases.
        manifest: of the records.
        cases: to validate on.
        folder: is given pictures of the first of them.
    """
    sums = DiceSums(len(manifest.structures))
    for number, entry in enumerate(cases):
        case = stored_case.read(records_dir, manifest, entry)
        image = case.image.array.astype(np.float32)
        predicted = segmenter.labels(ArrayImage(image, entry.intensity))
        sums.add(case.labels, predicted, case.annotated)
        if number < validation_pictures.MOST_PICTURES:
            picture = validation_pictures.draw(case, predicted, manifest)
            folder.add_picture(case.case_id, picture)
    return sums.dice()
