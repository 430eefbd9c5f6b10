"""Steps whose loss or gradients are not finite change nothing; too many in a row end the run."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tl3d_keras.errors import InputError

MOST_IN_A_ROW = 5
_REMEMBERED = 64


class Diverged(InputError):
    """Too many steps in a row had no finite loss and gradients."""


class Guard:
    """Applies gradients unless a replica's loss or gradients hold NaN or Inf.

    All replicas skip a step together, so weights and optimizer stay equal. Overflowing float16
    gradients are no fault while loss scaling can still come down: the optimizer sees to those.
    After `MOST_IN_A_ROW` skipped steps nothing is applied any more, however late the host looks.

    Make it in the scope of the strategy.
    """

    def __init__(self) -> None:
        self._step, self._in_a_row = (tf.Variable(0, dtype=tf.int64, trainable=False) for _ in "ab")
        self._skipped = tf.Variable(tf.zeros([_REMEMBERED], tf.int64), trainable=False)

    @property
    def state(self) -> dict[str, tf.Variable]:
        """What a checkpoint has to hold for an exact resume."""
        return {"step": self._step, "in_a_row": self._in_a_row}

    @property
    def in_a_row(self) -> int:
        """How many of the last steps were skipped."""
        return int(self._in_a_row.numpy())

    def skipped_since(self, step: int) -> list[int]:
        """The numbers of the steps skipped after `step`, the last 64 at most; the first is 1."""
        return [int(number) for number in self._skipped.numpy() if number > step]

    def apply(
        self,
        optimizer: Any,
        loss: tf.Tensor,
        gradients: Sequence[tf.Tensor],
        take: Callable[[Sequence[tf.Tensor]], None],
    ) -> tf.Tensor:
        """Takes the step in a replica's context.

        Args:
            optimizer: with or without loss scaling.
            loss: this replica's, unscaled.
            gradients: this replica's.
            take: applies a replica's gradients, in its context.

        Returns:
            Whether the step was taken, a boolean scalar that is the same on all replicas.
        """
        finite = [tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients]
        unusable = ~tf.reduce_all(finite) & (_loss_scale(optimizer) <= 1)
        bad = tf.cast(~tf.math.is_finite(loss) | unusable, tf.int32)

        def on_all(strategy: Any, bad: Any, gradients: Any) -> tf.Tensor:
            goes_on = self._in_a_row < MOST_IN_A_ROW
            taken = goes_on & (strategy.reduce("SUM", bad, axis=None) == 0)

            def on_each() -> tf.Tensor:
                strategy.run(take, args=(gradients,))
                return taken

            # In the context of all replicas, for the optimizer merges them inside the branch.
            tf.cond(taken, on_each, lambda: taken)
            self._count(taken, goes_on)
            return taken

        context = tf.distribute.get_replica_context()
        return context.merge_call(on_all, args=(bad, list(gradients)))

    def _count(self, taken: tf.Tensor, goes_on: tf.Tensor) -> None:
        number = self._step + 1
        remembered = tf.convert_to_tensor(self._skipped)
        is_new = goes_on & ~taken
        self._skipped.assign(tf.where(is_new, tf.concat([remembered[1:], [number]], 0), remembered))
        counted = tf.where(taken, tf.zeros_like(number), self._in_a_row + 1)
        self._in_a_row.assign(tf.where(goes_on, counted, self._in_a_row))
        self._step.assign(number)


def _loss_scale(optimizer: Any) -> Any:
    """By which gradients were multiplied at most; Keras 3 and 2 name it differently."""
    for name in ("dynamic_scale", "loss_scale"):
        scale = getattr(optimizer, name, None)
        if scale is not None:
            return tf.convert_to_tensor(scale)
    return tf.constant(1.0)


class GuardReport:
    """Tells of skipped steps and ends a run that has too many.

    Args:
        guard: of the run.
        batches: gives the batches from a number on; each may hold `case`, indices into `names`.
        names: case ids.
        tell: is given a skipped step and its cases.
    """

    def __init__(
        self,
        guard: Guard,
        batches: Callable[[int], tf.data.Dataset],
        names: Sequence[str],
        tell: Callable[[int, Sequence[str]], None],
    ) -> None:
        self._guard = guard
        self._batches = batches
        self._names = names
        self._tell = tell
        self._last: list[str] = []
        self._told = int(guard.state["step"].numpy())

    def check(self) -> None:
        """Tells what is new.

        Raises:
            Diverged: `MOST_IN_A_ROW` steps were skipped one after the other.
        """
        skipped = self._guard.skipped_since(self._told)
        if skipped:
            cases = self._cases_from(skipped[0], skipped[-1])
            for step in skipped:
                self._told, self._last = step, cases[step]
                self._tell(step, self._last)
        if self._guard.in_a_row >= MOST_IN_A_ROW:
            raise Diverged(
                f"expected a finite loss and gradients, found NaN or Inf in {MOST_IN_A_ROW} steps "
                f"in a row, up to step {self._told} with the cases "
                f"{', '.join(self._last) or 'unknown'}; try a lower --learning_rate or "
                "--precision=float32, in another --output_dir"
            )

    def _cases_from(self, first: int, last: int) -> dict[int, list[str]]:
        # Batches are a pure function of their number, so none has to be remembered.
        batches = self._batches(first - 1).take(last - first + 1)
        found = {}
        for step, batch in enumerate(batches, first):
            numbers = batch["case"].numpy() if "case" in batch else []
            found[step] = sorted({self._names[number] for number in numbers})
        return found
