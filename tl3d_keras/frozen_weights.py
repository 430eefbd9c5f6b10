"""Whether weights that a stage freezes really stay as they are, to the bit."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tl3d_keras.run_folder import RunFolder
from tl3d_keras.training_state import TrainingState

_ENTRY = "frozen"


class FrozenWeights(tf.keras.callbacks.Callback):
    """Compares the frozen layers of a stage with its start, before every checkpoint.

    run.json keeps the hashes of the start, so that a resumed stage is compared with them too.

    Args:
        network: whose layers are meant; statistics of normalisation count as weights.
        layers: names of those that are frozen.
        folder: of the run.
        state: of the run, as the stage or what is left of it begins.
        stage: its name.
        start: number of steps before the stage.
    """

    def __init__(
        self,
        network: tf.keras.Model,
        layers: Sequence[str],
        folder: RunFolder,
        state: TrainingState,
        stage: str,
        start: int,
    ) -> None:
        super().__init__()
        self._network, self._folder, self._state = network, folder, state
        noted = folder.noted(_ENTRY, [])
        self._former = [entry for entry in noted if entry["first_step"] <= start]
        here = [entry for entry in noted if entry["first_step"] == start + 1]
        self._entry: dict[str, Any] = {
            "stage": stage,
            "first_step": start + 1,
            "layers": hashes(network, layers),
        }
        if here and state.step > start:
            self._entry = here[0]
        self._note()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Notes in run.json up to which step nothing changed.

        Raises:
            RuntimeError: a layer changed, which is a fault of the program.
        """
        layers = self._entry["layers"]
        check_equal(layers, hashes(self._network, list(layers)))
        self._entry["unchanged_to_step"] = self._state.step + self.params["steps"]
        self._note()

    @property
    def summary(self) -> str:
        """A line for the user after the stage, empty if it freezes nothing."""
        layers = len(self._entry["layers"])
        line = f"stage {self._entry['stage']}: {layers} frozen layers are unchanged to the bit"
        return line if layers else ""

    def _note(self) -> None:
        self._folder.note(**{_ENTRY: [*self._former, self._entry]})


def hashes(network: tf.keras.Model, layers: Sequence[str]) -> dict[str, str]:
    """The SHA-256 of all weights of each layer, in hexadecimal digits."""
    return {
        name: hashlib.sha256(
            b"".join(values.tobytes() for values in network.get_layer(name).get_weights())
        ).hexdigest()
        for name in layers
    }


def check_equal(before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """Raises a RuntimeError that names the layers whose hashes differ."""
    moved = [name for name in before if before[name] != after[name]]
    if moved:
        raise RuntimeError(f"expected frozen weights to stay as they were, found {moved} changed")
