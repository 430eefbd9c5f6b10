"""The 3D U-Net of Çiçek et al. (arXiv 1606.06650): a trunk and a head, every layer named."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import tensorflow as tf

from tl3d_keras.convolutions import BiasedConv3D, JoinedConv3D
from tl3d_keras.errors import InputError
from tl3d_keras.instance_normalization import InstanceNormalization

PADDINGS = ("valid", "same")
NORMALIZATIONS = (None, "group", "instance")
_MAX_GROUPS = 8
HEAD = "head"


@dataclass(frozen=True)
class Geometry:
    """How input sizes and output sizes of a U-Net belong together.

    Attributes:
        levels: resolutions, the finest included.
        padding: "valid" or "same".
    """

    levels: int
    padding: str

    @property
    def stride(self) -> int:
        """The pooling stride: shifts of the input by its multiples shift the output alike."""
        return 2 ** (self.levels - 1)

    @property
    def reach(self) -> int:
        """How far from a voxel the input can change the output there, in voxels.

        That of the convolutions, and up to the stride less one for where in its pooling window the
        voxel lies.
        """
        return self._convolutions + self.stride - 1

    @property
    def margin(self) -> int:
        """Voxels that a valid network's output is smaller by on each side; 0 if padding is same."""
        return self._convolutions if self.padding == "valid" else 0

    def is_input_size(self, size: int) -> bool:
        """Whether an axis of the input can have `size` voxels."""
        if self.padding == "same":
            return size > 0 and size % self.stride == 0
        return size > 2 * self.margin and (size - 2 * self.margin) % self.stride == self._rest

    def output_size(self, size: int) -> int:
        """Output voxels along an axis with `size` input voxels.

        Raises:
            InputError: the input cannot have that size; the message names the nearest that can.
        """
        if not self.is_input_size(size):
            fitting = sorted(
                (
                    n
                    for n in range(1, size + 2 * self.margin + 2 * self.stride + 1)
                    if self.is_input_size(n)
                ),
                key=lambda n: abs(n - size),
            )[:3]
            raise InputError(
                f"expected an input size such as {', '.join(map(str, sorted(fitting)))} for "
                f"{self.padding} padding and {self.levels} levels, found {size}"
            )
        return size - 2 * self.margin

    def input_size(self, output: int) -> int:
        """The smallest input size whose output has at least `output` voxels."""
        size = output + 2 * self.margin
        while not self.is_input_size(size):
            size += 1
        return size

    @property
    def _convolutions(self) -> int:
        # Two of 3x3x3 a level, on the way down and, but at the coarsest level, up.
        return 6 * self.stride - 4

    @property
    def _rest(self) -> int:
        # Sizes stay even before every pooling: n = 4 (1 + 2 + ...) modulo the stride, less margins.
        return (4 * (self.stride - 1) - 2 * self.margin) % self.stride


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
        build = _Builder(filters, levels, padding, normalization, policy)
        features = build.trunk(inputs)
        logits = BiasedConv3D(num_classes, 1, dtype=policy, name=HEAD)(features[-1])
        # Sums over many classes need more digits than half precision has.
        probabilities = tf.keras.layers.Softmax(dtype="float32", name="probabilities")(logits)
        super().__init__(inputs, probabilities, name=name, **kwargs)
        self._config = config
        self._policy_name = policy

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
        num_classes: output channels, background (channel 0) included.
        filters: of the first convolution; doubled from level to level.
        levels: resolutions; at 4, valid inputs have 8k + 4 voxels an axis, 92 or more.
        input_channels: C.
        padding: "valid" (132^3 in, 44^3 out) or "same" (multiples of 8 in and out).
        normalization: None, "group" or "instance", before each activation.
        weights: None for random ones; the name of a base model that ships, or an artifact folder,
            whose configuration then replaces the arguments above it; or the authors' published
            `.h5`, which fits the defaults.
        structures: names of channels 1..K.
        dtype: a Keras dtype or mixed-precision policy for the layers.

    Returns:
        An uncompiled `UNet3D`.

    Raises:
        InputError: an argument outside its range, or weights that do not fit.
    """
    if weights is not None and not str(weights).endswith(".h5"):
        from tl3d_keras import artifact

        return artifact.load(weights, dtype=dtype).network
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


class _Builder:
    """Makes the layers; holds what they share."""

    def __init__(
        self, filters: int, levels: int, padding: str, normalization: str | None, dtype: Any
    ) -> None:
        self._filters = filters
        self._levels = levels
        self._padding = padding
        self._normalization = normalization
        self._dtype = dtype

    def trunk(self, x: Any) -> list[Any]:
        """The features of the coarsest level and of each decoder level above it."""
        skips = []
        for level in range(self._levels):
            first = self._filters * 2**level
            x = self._block(x, "encoder", level, (first, 2 * first))
            if level < self._levels - 1:
                skips.append(x)
                # Processors have no float16 kernel, and a maximum is exact in any precision.
                dtype = "float32" if self._dtype == "mixed_float16" else self._dtype
                x = tf.keras.layers.MaxPooling3D(2, dtype=dtype, name=f"encoder_{level}_pool")(x)
        features = [x]
        for level in reversed(range(self._levels - 1)):
            width = self._filters * 2 ** (level + 1)
            x = self._block(
                [x, self._cropped(skips[level], level)], "decoder", level, (width, width)
            )
            features.append(x)
        return features

    def _cropped(self, skip: Any, level: int) -> Any:
        if self._padding == "same":
            return skip
        # Two convolutions on the way down and two up at each coarser level, in its voxels.
        crop = 6 * 2 ** (self._levels - 1 - level) - 8
        return tf.keras.layers.Cropping3D(crop, dtype=self._dtype, name=f"decoder_{level}_crop")(
            skip
        )

    def _block(self, x: Any, part: str, level: int, widths: Sequence[int]) -> Any:
        layers = tf.keras.layers
        for i, width in enumerate(widths):
            plain = self._normalization is None
            arguments = {
                "padding": self._padding,
                "dtype": self._dtype,
                "name": f"{part}_{level}_conv_{i}",
                "activation": "relu" if plain else None,
            }
            joins = isinstance(x, list)
            x = (
                JoinedConv3D(width, **arguments)(x)
                if joins
                else BiasedConv3D(width, 3, **arguments)(x)
            )
            if not plain:
                x = self._normalized(x, f"{part}_{level}_norm_{i}", width)
                x = layers.ReLU(dtype=self._dtype, name=f"{part}_{level}_relu_{i}")(x)
        return x

    def _normalized(self, x: Any, name: str, width: int) -> Any:
        if self._normalization == "instance":
            return InstanceNormalization(dtype=self._dtype, name=name)(x)
        groups = min(_MAX_GROUPS, width)
        return tf.keras.layers.GroupNormalization(groups, dtype=self._dtype, name=name)(x)


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
        if value < least:
            raise InputError(f"expected {name} of at least {least}, found {value}")
    if padding not in PADDINGS:
        raise InputError(f"expected padding of {', '.join(PADDINGS)}, found {padding!r}")
    if normalization not in NORMALIZATIONS:
        raise InputError(f"expected normalization None, group or instance, found {normalization!r}")
    if normalization == "group" and filters % min(_MAX_GROUPS, filters):
        raise InputError(
            f"expected filters divisible by {_MAX_GROUPS} for group normalization, found {filters}"
        )
    if structures and len(structures) != num_classes - 1:
        raise InputError(
            f"expected {num_classes - 1} structure names for {num_classes} classes, "
            f"found {len(structures)}"
        )
