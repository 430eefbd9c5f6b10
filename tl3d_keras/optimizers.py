"""Optimizers by name, with their learning rates, on either Keras."""

import inspect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tl3d_keras.errors import InputError
from tl3d_keras.schedules import SCHEDULES, make_schedule

_ADDONS = "Addons>"
# The momentum of nnU-Net (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z).
_PRESETS = {"sgd_nesterov": ("sgd", {"momentum": 0.99, "nesterov": True})}


@dataclass(frozen=True)
class OptimizerPlan:
    """How weights follow from gradients.

    Attributes:
        name: "sgd_nesterov", or any name registered with Keras, such as "adamw" or "Addons>LAMB".
        schedule: one of `schedules.SCHEDULES`.
        warmup_steps: of a linear rise at the start of every stage.
        weight_decay: as the optimizer understands it; None: its default.
        clip_norm: the largest global norm of the whole batch's gradient; 0: any.
        ema: decay of a moving average of the weights, below 1, which is then validated and saved
            in their stead; 0: none.
        layer_rates: pairs of a layer name pattern and what the learning rate is multiplied with
            there; of several that match a layer the last counts.
        adapter_rank: of what is trained in place of 3x3x3 kernels, see `adapters`; 0: none.
    """

    name: str = "adam"
    schedule: str = "cosine"
    warmup_steps: int = 0
    weight_decay: float | None = None
    clip_norm: float = 0.0
    ema: float = 0.0
    layer_rates: tuple[tuple[str, float], ...] = ()
    adapter_rank: int = 0


def check(plan: OptimizerPlan, stages: Sequence[int]) -> None:
    """Checks a plan without making anything.

    Args:
        plan: to check.
        stages: how many steps each stage has.

    Raises:
        InputError: a value out of its range, or an optimizer that is not to be had.
    """
    if plan.schedule not in SCHEDULES:
        raise InputError(
            f"--schedule: expected one of {', '.join(SCHEDULES)}, found {plan.schedule!r}"
        )
    for steps in stages:
        if not 0 <= plan.warmup_steps < steps:
            raise InputError(
                f"--warmup_steps: expected fewer than the {steps} steps of a stage, "
                f"found {plan.warmup_steps}"
            )
    if not 0 <= plan.ema < 1:
        raise InputError(f"--ema: expected a decay from 0 to below 1, found {plan.ema}")
    if not 0 <= plan.clip_norm < float("inf"):
        raise InputError(f"--clip_norm: expected 0 or more, found {plan.clip_norm}")
    if plan.weight_decay is not None and not 0 <= plan.weight_decay < float("inf"):
        raise InputError(f"--weight_decay: expected 0 or more, found {plan.weight_decay}")
    for pattern, rate in plan.layer_rates:
        if not 0 <= rate < float("inf"):
            raise InputError(f"--layer_rates: expected 0 or more for {pattern!r}, found {rate}")
    _class_and_arguments(plan)


def make_optimizer(plan: OptimizerPlan, learning_rate: float, steps: int, precision: str) -> Any:
    """The optimizer of a stage.

    Args:
        plan: its name, schedule and weight decay.
        learning_rate: the highest.
        steps: of the stage.
        precision: a Keras policy; float16 gets dynamic loss scaling.

    Raises:
        InputError: there is no such optimizer.
    """
    kind, arguments = _class_and_arguments(plan)
    rate = make_schedule(plan.schedule, learning_rate, steps, plan.warmup_steps)
    try:
        rule = kind(learning_rate=rate, **arguments)
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--optimizer={plan.name}: cannot be made by name: {reason}") from error
    if precision == "mixed_float16":
        rule = tf.keras.mixed_precision.LossScaleOptimizer(rule)
    return rule


def build(optimizer: Any, weights: Sequence[Any]) -> None:
    """Creates an optimizer's variables, so that a checkpoint can fill them."""
    if hasattr(optimizer, "build"):
        optimizer.build(weights)
    else:
        # Those of tensorflow-addons are of Keras's older kind, which would wait for the first step.
        optimizer._create_all_weights(weights)


def _class_and_arguments(plan: OptimizerPlan) -> tuple[Any, dict[str, Any]]:
    name, arguments = _PRESETS.get(plan.name, (plan.name, {}))
    kind = _optimizer_class(name)
    decay = inspect.signature(kind).parameters.get("weight_decay")
    if plan.weight_decay is not None:
        if decay is None:
            raise InputError(f"--weight_decay: {plan.name} has none, found {plan.weight_decay}")
        arguments = {**arguments, "weight_decay": plan.weight_decay}
    elif decay is not None and decay.default is inspect.Parameter.empty:
        raise InputError(f"--optimizer={plan.name}: expected --weight_decay, found none")
    return kind, arguments


def _optimizer_class(name: str) -> Any:
    """By a registered name such as Addons>LAMB, or one of Keras's own in any case."""
    if name.startswith(_ADDONS):
        _register_addons(name)
    found = tf.keras.utils.get_registered_object(name)
    if found is not None and hasattr(found, "apply_gradients"):
        return found
    optimizers = tf.keras.optimizers
    kinds = [getattr(optimizers, n) for n in dir(optimizers) if n != "Optimizer"]
    known = {
        kind.__name__.lower(): kind
        for kind in kinds
        if isinstance(kind, type) and issubclass(kind, optimizers.Optimizer)
    }
    if name.lower() not in known:
        raise InputError(
            f"--optimizer: expected one that Keras knows, such as adam, adamw or sgd_nesterov, "
            f"found {name!r}"
        )
    return known[name.lower()]


def _register_addons(name: str) -> None:
    try:
        with warnings.catch_warnings():
            # It warns of its own end at every import.
            warnings.simplefilter("ignore")
            import tensorflow_addons  # noqa: F401
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"--optimizer={name}: expected tensorflow-addons with TensorFlow 2.15 "
            f"(pip install 'tl3d-keras[addons]'), found TensorFlow {tf.__version__} without it"
        ) from error
