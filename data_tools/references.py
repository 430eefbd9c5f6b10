"""The references that segmentations are scored against, by the names of their structures."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from data_tools import label_files
from data_tools.label_files import Case
from tl3d_keras import evaluation
from tl3d_keras.errors import InputError
from tl3d_keras.evaluation import Scores


class References:
    """A label file, or a folder of label files with the names of the scans.

    Args:
        path: the file or folder; a dataset.json there or one above tells the structures' values,
            else they are those of the model.
        structures: names of the model's labels 1..K.

    Raises:
        InputError: no such file or folder, or no structure of the model in dataset.json.
    """

    def __init__(self, path: Path, structures: Sequence[str]) -> None:
        self._path = path
        self._files = label_files.find_files(path)
        names = () if label_files.find_description(path) else structures
        labels = label_files.read_meaning((), path, names, False)
        values = {name: value for value, name in labels.structures.items()}
        self._shared = [name for name in structures if name in values]
        if not self._shared:
            raise InputError(
                f"{path}: expected structures of the model ({', '.join(structures)}), found "
                f"{', '.join(values)}"
            )
        # What the references do not know counts as background there.
        predicted = {k: values.get(name, 0) for k, name in enumerate(structures, start=1)}
        self._labels = replace(labels, prediction={0: 0} | predicted)

    def scores(self, name: str, prediction: Path) -> Mapping[str, Scores] | None:
        """Scores a label file with the model's labels; None without a reference of that name.

        Raises:
            InputError: the reference is on another grid, or holds a value that is not declared.
        """
        reference = self._files.get(name)
        if reference is None and self._path.is_file():
            reference = self._path
        if reference is None:
            return None
        predicted, true, spacing = label_files.read_pair(
            Case(name, prediction, reference), self._labels
        )
        annotated = self._labels.annotated.get(name, self._shared)
        return evaluation.evaluate_case(
            predicted,
            true,
            spacing,
            self._labels.structures,
            [structure for structure in annotated if structure in self._shared],
        )
