"""Which devices a run computes on, how precisely, and how repeatably."""

from functools import cache

import tensorflow as tf

PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
STRATEGIES = ("auto", "mirrored", "one")


@cache
def choose_strategy(name: str) -> tf.distribute.Strategy:
    """`auto`: all GPUs where there are several, else one device; `mirrored`: all GPUs or, without
    any, all logical CPU devices; `one`: one device.

    A process gets one strategy a name: TensorFlow mixes up the collectives of two on the same
    devices.
    """
    gpus = tf.config.list_logical_devices("GPU")
    if name == "one" or (name == "auto" and len(gpus) < 2):
        return tf.distribute.get_strategy()
    devices = gpus or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def choose_precision(name: str) -> str:
    """Resolves `auto`: bfloat16 where GPU or processor compute in it, float16 on older GPUs with
    tensor cores, else float32.

    Returns:
        A Keras policy: "float32", "mixed_bfloat16" or "mixed_float16".
    """
    if name != "auto":
        return name
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        capability = min(d.get("compute_capability", (0, 0)) for d in details)
        if capability >= (8, 0):
            return "mixed_bfloat16"
        return "mixed_float16" if capability >= (7, 0) else "float32"
    return "mixed_bfloat16" if {"avx512_bf16", "amx_bf16"} & _processor_flags() else "float32"


def _processor_flags() -> set[str]:
    try:
        with open("/proc/cpuinfo") as file:
            return set(next((line for line in file if line.startswith("flags")), "").split())
    except OSError:
        return set()


def make_deterministic(seed: int) -> None:
    """Seeds Python, NumPy and TensorFlow, and on processors makes every operation repeatable.

    On GPUs some operations of 3D networks have no deterministic kernel, so there the order of
    floating-point sums stays free.
    """
    tf.keras.utils.set_random_seed(seed)
    if not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()
