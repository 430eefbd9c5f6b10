"""Seeds, four virtual processors, and quiet start-up for every test."""

import locale
import signal
from functools import cache

import numpy as np
import pytest

from data_tools.command import load_tensorflow

load_tensorflow()

import helpers  # noqa: E402
import tensorflow as tf  # noqa: E402

from tl3d_keras import devices  # noqa: E402

# Before anything starts the runtime: after that the number of devices is fixed.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)


@pytest.fixture(autouse=True)
def _seeded():
    tf.keras.utils.set_random_seed(0)


@pytest.fixture
def interruptible():
    """Processes that the test starts take Ctrl-C, also where the tests run in the background."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.fixture(scope="session")
def mirrored():
    """MirroredStrategy on n of the four virtual processors.

    On four it is that of the commands. A process cannot have two groups for collectives, so on two
    replicas it reduces to one device.
    """

    def make(replicas):
        if replicas == 4:
            return devices.choose_strategy("mirrored")
        return tf.distribute.MirroredStrategy(
            [f"CPU:{i}" for i in range(replicas)], tf.distribute.ReductionToOneDevice()
        )

    return cache(make)


@pytest.fixture(scope="session")
def records(tmp_path_factory):
    """Records of four sparsely annotated cases, which no test changes."""
    return helpers.write_records(tmp_path_factory.mktemp("records"))


@pytest.fixture
def rng():
    """A seeded NumPy generator."""
    return np.random.default_rng(0)


@pytest.fixture
def ascii_locale():
    """A system that prefers ASCII for the content of files."""
    former = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    yield
    locale.setlocale(locale.LC_CTYPE, former)


@pytest.fixture
def command():
    """Runs a command's main in this process: `command(module, flag=value, ...)`."""

    def call(module, **values):
        module.FLAGS.unparse_flags()
        module.FLAGS([module.__name__, *(f"--{name}={value}" for name, value in values.items())])
        module.main()

    return call
