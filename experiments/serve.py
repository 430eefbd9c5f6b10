"""Serves models on this machine by TF Serving's two APIs, for tests and laptops.

    python -m experiments.serve --model_name=liver --model_base_path=served/liver

listens on 127.0.0.1 with TF Serving's ports and takes TF Serving's flags, so that what works here
works there. It is no replacement for TF Serving: no batching, no TLS, no monitoring, and Python in
each request. New versions in the folder are loaded, warmed up and taken into use without a failed
request.
"""

import signal
import threading
from pathlib import Path

from absl import flags

from data_tools.command import load_tensorflow, run
from tl3d_keras.errors import InputError

FLAGS = flags.FlagValues()
_MODEL_NAME = flags.DEFINE_string("model_name", "default", "Name of the model.", flag_values=FLAGS)
_MODEL_BASE_PATH = flags.DEFINE_string(
    "model_base_path", None, "The model's folder, with its versions.", flag_values=FLAGS
)
_MODEL_CONFIG_FILE = flags.DEFINE_string(
    "model_config_file", None, "Several models, as for TF Serving.", flag_values=FLAGS
)
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on.", flag_values=FLAGS)
_PORT = flags.DEFINE_integer(
    "port", 8500, "For gRPC; 0 takes a free one.", 0, 65535, flag_values=FLAGS
)
_REST_API_PORT = flags.DEFINE_integer(
    "rest_api_port", 8501, "For REST; 0 takes a free one.", 0, 65535, flag_values=FLAGS
)
_POLL_SECONDS = flags.DEFINE_float(
    "file_system_poll_wait_seconds",
    1.0,
    "Between two looks for new versions.",
    lower_bound=0.01,
    flag_values=FLAGS,
)
_MAX_REQUEST_MIB = flags.DEFINE_integer(
    "max_request_mib", 1024, "The most that a request may take.", 1, 2047, flag_values=FLAGS
)


def main() -> None:
    """Reads the flags and serves until SIGINT or SIGTERM."""
    base_path, config_file = _MODEL_BASE_PATH.value, _MODEL_CONFIG_FILE.value
    if (base_path is None) == (config_file is None):
        raise InputError("expected either --model_base_path or --model_config_file")
    load_tensorflow()
    import tensorflow as tf

    from tl3d_keras.serving import served_models
    from tl3d_keras.serving.server import Ports, serve

    # It would tell at each start that the loader of TF Serving is deprecated in Python.
    tf.get_logger().setLevel("ERROR")
    if config_file is not None:
        configs = served_models.read_config(Path(config_file))
    else:
        configs = served_models.single(_MODEL_NAME.value, str(base_path))
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with serve(
        configs,
        _HOST.value,
        Ports(_PORT.value, _REST_API_PORT.value),
        _MAX_REQUEST_MIB.value * 2**20,
        _POLL_SECONDS.value,
        _tell,
    ) as ports:
        _tell(f"gRPC on {_HOST.value}:{ports.grpc}, REST on {_HOST.value}:{ports.rest}")
        ended.wait()


def _tell(line: str) -> None:
    print(line, flush=True)


def cli() -> None:
    """The console script."""
    run(main, FLAGS)


if __name__ == "__main__":
    cli()
