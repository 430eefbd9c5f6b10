"""Seeds, four virtual processors, and quiet start-up for every test."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest

from data_tools.command import load_tensorflow


@pytest.fixture(scope="session", autouse=True)
def _virtual_devices():
    load_tensorflow()
    import tensorflow as tf

    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        processor, [tf.config.LogicalDeviceConfiguration()] * 4
    )


@pytest.fixture(autouse=True)
def _seeded():
    import tensorflow as tf

    tf.keras.utils.set_random_seed(0)
    yield
    tf.keras.backend.clear_session()


@pytest.fixture
def rng():
    """A seeded NumPy generator."""
    return np.random.default_rng(0)


@pytest.fixture
def command():
    """Runs a command's main in this process: `command(module, flag=value, ...)`."""

    def call(module, **values):
        module.FLAGS.unparse_flags()
        module.FLAGS([module.__name__, *(f"--{name}={value}" for name, value in values.items())])
        module.main()

    return call
