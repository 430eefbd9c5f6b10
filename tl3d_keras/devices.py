"""Which devices a run computes on, how precisely, and how repeatably."""

import os
from functools import cache
from importlib import metadata

import tensorflow as tf

from tl3d_keras import slurm
from tl3d_keras.errors import InputError

PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
STRATEGIES = ("auto", "mirrored", "one", "workers")


@cache
def choose_strategy(name: str) -> tf.distribute.Strategy:
    """`auto`: all GPUs where there are several, else one device; `mirrored`: all GPUs or, without
    any, all logical CPU devices; `one`: one device; `workers`: all devices of a cluster's workers,
    as TF_CONFIG or SLURM's variables describe it, to be called before anything is computed.

    A process gets one strategy a name: TensorFlow mixes up the collectives of two on the same
    devices.

    Raises:
        InputError: `workers` on Keras 3, or without a cluster.
    """
    if name == "workers":
        return _workers()
    gpus = tf.config.list_logical_devices("GPU")
    if name == "one" or (name == "auto" and len(gpus) < 2):
        return tf.distribute.get_strategy()
    devices = gpus or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def _workers() -> tf.distribute.Strategy:
    if not keras_version().startswith("2."):
        # Upstream: keras-team/keras#20585.
        raise InputError(
            "--strategy=workers: Keras 3 cannot train on several workers yet; set "
            'TF_USE_LEGACY_KERAS=1 after pip install "tl3d-keras[cluster]", or use the addons extra'
        )
    if "TF_CONFIG" in os.environ:
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    elif "SLURM_PROCID" in os.environ:
        addresses, rank = slurm.step_workers(os.environ)
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec({"worker": addresses}),
            task_type="worker",
            task_id=rank,
            # Those that SLURM lets this task see; to list logical ones would start the runtime.
            num_accelerators={"GPU": len(tf.config.list_physical_devices("GPU"))},
            rpc_layer="grpc",
        )
    else:
        raise InputError(
            "--strategy=workers: expected a cluster in TF_CONFIG or in SLURM's variables, found "
            "neither; docs/cluster.md has the lines"
        )
    return tf.distribute.MultiWorkerMirroredStrategy(resolver)


def keras_version() -> str:
    """The version of the Keras that `tf.keras` is: keras or tf-keras."""
    return metadata.version(tf.keras.Model.__module__.partition(".")[0])


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes what all workers of a cluster have in common."""
    resolver = strategy.cluster_resolver
    return not resolver or (resolver.task_type, resolver.task_id) in (
        (None, None),
        ("", 0),
        ("chief", 0),
        ("worker", 0),
    )


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
