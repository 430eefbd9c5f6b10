"""What ended a run: too little memory, a lost worker, or a fault of the program."""

import helpers
import pytest
import tensorflow as tf
from runs import settings

from tl3d_keras import run_failures
from tl3d_keras.errors import InputError, WorkerLost
from tl3d_keras.memory_model import Setup
from tl3d_keras.run_folder import RunFolder

LOST = tf.errors.UnavailableError(None, None, "Connection reset by peer")
OUT_OF_MEMORY = [
    MemoryError(),
    tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"),
    tf.errors.InternalError(None, None, "Failed to allocate memory for convolution"),
]


@pytest.fixture
def fail(tmp_path):
    """Raises an error within a run under a strategy."""
    folder = RunFolder(tmp_path / "run", {})

    def fail(error, strategy):
        setup = Setup((16, 16, 16), 2, "float32")
        run = settings("records", strategy=strategy)
        with run_failures.explained(run, helpers.network(), setup, 1, folder):
            raise error

    yield fail
    folder.close()


@pytest.mark.parametrize("strategy", ["one", "workers"])
@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_too_little_memory(fail, error, strategy):
    with pytest.raises(InputError, match="expected memory for a training step of about .* found "):
        fail(error, strategy)


def test_a_lost_worker(fail):
    with pytest.raises(WorkerLost, match="run: another worker was lost; start all of them again"):
        fail(LOST, "workers")


@pytest.mark.parametrize(("error", "strategy"), [(LOST, "one"), (ValueError(), "workers")])
def test_other_errors_stay_what_they_are(fail, error, strategy):
    with pytest.raises(type(error)) as found:
        fail(error, strategy)
    assert found.value is error
