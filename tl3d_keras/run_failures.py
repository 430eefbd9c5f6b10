"""What a run's failures mean for the user: a lost worker, a lack of memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from tl3d_keras import memory, memory_model
from tl3d_keras.errors import InputError, WorkerLost
from tl3d_keras.run_folder import RunFolder
from tl3d_keras.run_settings import RunSettings
from tl3d_keras.unet3d import UNet3D

_LOST_WORKER = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
)


@contextmanager
def explained(
    settings: RunSettings,
    network: UNet3D,
    setup: memory_model.Setup,
    replicas: int,
    folder: RunFolder,
) -> Iterator[None]:
    """A lost worker and a lack of memory in the block become lines that say what to do.

    Args:
        settings: of the run.
        network: in training.
        setup: of its step.
        replicas: devices that share a batch.
        folder: of the run.

    Raises:
        WorkerLost: another worker of the cluster ended.
        InputError: there was too little memory; the line has flags that should need less.
    """
    try:
        yield
    except Exception as error:
        # First, for an internal error may say either.
        if memory.ran_out(error):
            config, free = network.get_config(), memory.free_memory()
            message = memory_model.out_of_memory(config, setup, free, replicas)
            raise InputError(message) from error
        if settings.strategy == "workers" and isinstance(error, _LOST_WORKER):
            raise WorkerLost(
                f"{folder.path}: another worker was lost; start all of them again, and the run "
                "goes on from its last checkpoint"
            ) from error
        raise
