"""The 3D U-Net of Çiçek et al. (arXiv 1606.06650): a trunk and a head, every layer named."""

from collections.abc import Sequence
from functools import cached_property
from inspect import signature
from numbers import Integral
from typing import Any

import tensorflow as tf

from tl3d_keras.annotation import IGNORE
from tl3d_keras.convolutions import BiasedConv3D
from tl3d_keras.errors import InputError
from tl3d_keras.geometry import Geometry
from tl3d_keras.unet3d_trunk import MAX_GROUPS, TrunkBuilder

PADDINGS = ("valid", "same")
NORMALIZATIONS = (None, "group", "instance")
HEAD = "head"


@tf.keras.utils.register_keras_serializable("tl3d_keras")
class UNet3D(tf.keras.Model):
    """A U-Net whose layers keep their names: `encoder_<level>_conv_<i>`, `decoder_...`, `head`.

    Input: float32 [N, Z, Y, X, C], normalised. Output: float32 probabilities [N, z, y, x, K + 1],
    background first; z, y, x equal Z, Y, X for same padding and are smaller by 2 *
    `geometry.margin` for valid padding (88 at 4 levels). Spatial sizes are dynamic.

    Use `base_model` to make one.
    """

    def __init__(
        self,
        num_classes: int = 23,
        filters: int = 32,
        levels: int = 4,
        input_channels: int = 1,
        padding: str = "valid",
        normalization: str | None = None,
        structures: Sequence[str] | None = None,
        dtype: Any = None,
        name: str = "unet3d",
        **kwargs: Any,
    ) -> None:
        _check(num_classes, filters, levels, input_channels, padding, normalization, structures)
        config: dict[str, Any] = {
            "num_classes": num_classes,
            "filters": filters,
            "levels": levels,
            "input_channels": input_channels,
            "padding": padding,
            "normalization": normalization,
            "structures": list(structures) if structures else None,
        }
        policy = getattr(dtype, "name", dtype)
        inputs = tf.keras.Input((None, None, None, input_channels), name="image")
        build = TrunkBuilder(filters, levels, padding, normalization, policy)
        features = build.trunk(inputs)
        logits = BiasedConv3D(num_classes, 1, dtype=policy, name=HEAD)(features[-1])
        # Sums over many classes need more digits than half precision has.
        probabilities = tf.keras.layers.Softmax(dtype="float32", name="probabilities")(logits)
        super().__init__(inputs, probabilities, name=name, **kwargs)
        self._config = config
        self._policy_name = policy

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """As of any Keras model.

        Raises:
            InputError: images of another number of channels, or of a size that does not fit.
        """
        self._check_images(getattr(inputs, "shape", None))
        return super().__call__(inputs, *args, **kwargs)

    def _check_images(self, shape: Any) -> None:
        # Else the first convolution that does not fit says so, in oneDNN's words.
        shape = tuple(shape) if getattr(shape, "rank", 5) == 5 and shape is not None else ()
        if len(shape) != 5:
            return
        channels = self._config["input_channels"]
        if shape[-1] not in (None, channels):
            raise InputError(
                f"expected images [N, Z, Y, X, {channels}], channels last, found {list(shape)}"
                + ("; np.moveaxis(images, 1, -1) puts them there" if shape[1] == channels else "")
            )
        for size in shape[1:4]:
            if size is not None:
                self.geometry.output_size(size)

    @property
    def geometry(self) -> Geometry:
        """Which input sizes fit and how large their outputs are."""
        return Geometry(self._config["levels"], self._config["padding"])

    @property
    def structures(self) -> tuple[str, ...]:
        """Names of output channels 1..K; `structure_<k>` where none were given."""
        names = self._config["structures"]
        return tuple(names or (f"structure_{k}" for k in range(1, self._config["num_classes"])))

    # Cached, for Keras 2 saves what attributes give by its id, which one made anew may share.
    @cached_property
    def trunk(self) -> tf.keras.Model:
        """All but the head: a model of the same weights that returns features by level.

        Its outputs are a list: the decoder's features, coarsest first (the bottom of the U is item
        0), so that the last is what the head sees.
        """
        levels = self._config["levels"]
        last = "conv_1" if self._config["normalization"] is None else "relu_1"
        ends = [f"encoder_{levels - 1}", *(f"decoder_{i}" for i in reversed(range(levels - 1)))]
        outputs = [self.get_layer(f"{end}_{last}").output for end in ends]
        return tf.keras.Model(self.input, outputs, name="trunk")

    @cached_property
    def logits(self) -> tf.keras.Model:
        """A model of the same weights that ends before the softmax."""
        return tf.keras.Model(self.input, self.get_layer(HEAD).output, name="logits")

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**self._config, "dtype": self._policy_name, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "UNet3D":
        """The inverse of `get_config`."""
        return cls(**config)

    def rebuilt(self, **changes: Any) -> "UNet3D":
        """A new network of this configuration with `changes`; weights that fit are copied."""
        network = UNet3D(**{**self.get_config(), **changes})
        old = named_weights(self)
        for name, variable in named_weights(network).items():
            if name in old and old[name].shape == variable.shape:
                variable.assign(old[name])
        return network


def base_model(
    num_classes: int = 23,
    filters: int = 32,
    levels: int = 4,
    input_channels: int = 1,
    padding: str = "valid",
    normalization: str | None = None,
    weights: str | None = None,
    structures: Sequence[str] | None = None,
    dtype: Any = None,
) -> UNet3D:
    """Makes the base network; the defaults are those of arXiv 2311.05032 (16,317,015 parameters).

    Args:
        num_classes: output channels, background (channel 0) included; 2 to 255.
        filters: of the first convolution; doubled from level to level.
        levels: resolutions; at 4, valid inputs have 8k + 4 voxels an axis, 92 or more.
        input_channels: C.
        padding: "valid" (132^3 in, 44^3 out) or "same" (multiples of 8 in and out).
        normalization: None, "group" or "instance", before each activation.
        weights: None for random ones; the name of a base model that ships, or an artifact folder,
            whose configuration then replaces the arguments above it that are not given; or the
            authors' published `.h5`, which fits the defaults.
        structures: names of channels 1..K.
        dtype: a Keras dtype or mixed-precision policy for the layers.

    Returns:
        An uncompiled `UNet3D`.

    Raises:
        InputError: an argument outside its range, or weights that do not fit.
    """
    if weights is not None and not str(weights).endswith(".h5"):
        from tl3d_keras import artifact

        network = artifact.load(weights, dtype=dtype).network
        given = (num_classes, filters, levels, input_channels, padding, normalization)
        config, defaults = network.get_config(), signature(base_model).parameters
        for name, value in [
            *zip(defaults, given, strict=False),
            ("structures", structures and [*structures]),
        ]:
            if value not in (defaults[name].default, config[name]):
                raise InputError(
                    f"{weights}: expected no {name} or {config[name]!r} as the model has, found "
                    f"{value!r}; transfer_model makes another network of its weights"
                )
        return network
    network = UNet3D(
        num_classes, filters, levels, input_channels, padding, normalization, structures, dtype
    )
    if weights is not None:
        from tl3d_keras import published

        published.load_weights(network, weights)
    return network


def named_weights(model: tf.keras.Model) -> dict[str, tf.Variable]:
    """The weights by `<layer name>/<weight name>`, as `tf.Variable`, on either Keras."""
    named = {}
    for layer in model.layers:
        for weight in layer.weights:
            short = weight.name.rsplit("/", 1)[-1].split(":")[0]
            # Keras 3 wraps the tf.Variable that Keras 2 has as it is.
            named[f"{layer.name}/{short}"] = (
                weight if isinstance(weight, tf.Variable) else weight.value
            )
    return named


def _check(
    num_classes: int,
    filters: int,
    levels: int,
    input_channels: int,
    padding: str,
    normalization: str | None,
    structures: Sequence[str] | None,
) -> None:
    for name, value, least in (
        ("num_classes", num_classes, 2),
        ("filters", filters, 1),
        ("levels", levels, 1),
        ("input_channels", input_channels, 1),
    ):
        if not isinstance(value, Integral):
            raise InputError(f"expected a whole number as {name}, found {value!r}")
        if value < least:
            raise InputError(f"expected {name} of at least {least}, found {value}")
    if num_classes > IGNORE:
        raise InputError(
            f"expected num_classes of at most {IGNORE}, for the label {IGNORE} means unannotated, "
            f"found {num_classes}"
        )
    if padding not in PADDINGS:
        raise InputError(f"expected padding of {', '.join(PADDINGS)}, found {padding!r}")
    if normalization not in NORMALIZATIONS:
        raise InputError(f"expected normalization None, group or instance, found {normalization!r}")
    if normalization == "group" and filters % min(MAX_GROUPS, filters):
        raise InputError(
            f"expected filters divisible by {MAX_GROUPS} for group normalization, found {filters}"
        )
    if isinstance(structures, str) or not all(isinstance(s, str) for s in structures or ()):
        raise InputError(f"expected a list of names as structures, found {structures!r}")
    names = ["background", *(structures or ())]
    if len(set(names)) < len(names):
        twice = max(names, key=names.count)
        raise InputError(f"expected structures of different names, found {twice} twice")
    if structures and len(structures) != num_classes - 1:
        raise InputError(
            f"expected {num_classes - 1} structure names for {num_classes} classes, "
            f"found {len(structures)}"
        )
