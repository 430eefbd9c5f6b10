"""Pictures of what a person drew and what a network found, for the cases of a data set."""

from pathlib import Path

import numpy as np

from data_tools import case_reader, label_files, layouts
from data_tools.layouts.data_set import numbered
from data_tools.plan import read_header
from data_tools.reading import ReadOptions
from tl3d_keras import evaluation, figure_file, overlays, resampling, slices, volume_io, volumes
from tl3d_keras.errors import InputError
from tl3d_keras.html_page import Picture


def compare_cases(dataset_dir: Path, predictions: Path, count: int) -> list[Picture]:
    """Reference and prediction of the data set's first `count` cases that have both.

    Raises:
        InputError: there is no such case, or the grids of the two differ.
    """
    dataset = layouts.read_layout(dataset_dir)
    found = [
        (case, predictions / f"{case.case_id}.nii.gz")
        for case in dataset.cases
        if (case.label or case.masks) and (predictions / f"{case.case_id}.nii.gz").is_file()
    ]
    if not found:
        raise InputError(
            f"{predictions}: expected predictions of {dataset_dir} such as "
            f"{dataset.cases[0].case_id}.nii.gz, found none"
        )
    shown = []
    for source, path in found[:count]:
        options = ReadOptions(partial_labels=True)
        spacing = read_header(source, options, len(dataset.channels)).spacing
        case = case_reader.read_case(source, dataset, spacing, options)
        predicted = volume_io.read_labels(path)
        values = label_files.mapped(predicted.array, numbered(dataset.structures), path)
        predicted = resampling.labels_to_grid(predicted.with_array(values), spacing)
        volumes.check_same_grid(case.image, predicted, source.images[0], path)
        assert case.labels is not None
        arrays = {"reference": case.labels, "prediction": predicted.array[..., 0]}
        figure = overlays.comparison(
            case.image.array[..., 0],
            arrays,
            spacing,
            dataset.structures,
            window=slices.window_of(dataset.channels[0]),
        )
        dice = evaluation.evaluate_case(
            arrays["prediction"],
            case.labels,
            spacing,
            dict(enumerate(dataset.structures, 1)),
            case.annotated,
        )
        known = [s.dice for s in dice.values() if s.dice is not None]
        caption = (
            f"{dataset.channels[0]}. Mean Dice of this case: {np.mean(known):.3f}."
            if known
            else f"{dataset.channels[0]}. Nothing to score in this case."
        )
        shown.append(Picture(case.case_id, caption, figure_file.png(figure)))
    return shown
