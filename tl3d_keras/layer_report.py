"""What the user is told of a network's layers before they are trained."""

from collections.abc import Callable, Mapping, Sequence

from tl3d_keras import transfer, weight_surgery
from tl3d_keras.adapters import trained_parameters
from tl3d_keras.stages import Stage, frozen_layers
from tl3d_keras.transfer import LayerRow
from tl3d_keras.unet3d import UNet3D


def say(
    network: UNet3D,
    origins: Mapping[str, str],
    stages: Sequence[Stage],
    adapter_rank: int,
    tell: Callable[[str], None],
) -> list[LayerRow]:
    """Tells of each layer where its weights are from, and what of it each stage trains.

    Args:
        network: to be trained.
        origins: as `transfer.transfer_model` gives them.
        stages: of the run.
        adapter_rank: 0: no adapters.
        tell: is given the lines.

    Returns:
        The table of the layers, frozen as in the first stage.

    Raises:
        InputError: a stage names a layer that is not there, or trains none.
    """
    frozen = [frozen_layers(network, stage) for stage in stages]
    table = transfer.layer_table(network, origins, frozen[0])
    trained = [_trained(network, names, adapter_rank) for names in frozen]
    _say_table(table, list(zip(stages, trained, strict=True)), tell)
    unused = weight_surgery.unused_layers(origins)
    if unused:
        tell(f"not taken from the base: {', '.join(unused)}")
    return table


def _say_table(
    table: Sequence[LayerRow],
    stages: Sequence[tuple[Stage, Mapping[str, int]]],
    say: Callable[[str], None],
) -> None:
    """The layers, of which the first stage trains some, and what each stage trains."""
    width = max(len(row.layer) for row in table)
    _, trained = stages[0]
    say(f"{'layer':{width}}  {'parameters':>10}  {'trained':>10}  weights")
    for row in table:
        say(
            f"{row.layer:{width}}  {row.parameters:10,}  {trained[row.layer]:10,}  {row.origin}"
            f"{', frozen' if row.frozen else ''}"
        )
    parameters = sum(row.parameters for row in table)
    for stage, trained in stages:
        say(
            f"stage {stage.name}: {stage.steps} steps at {stage.learning_rate:.3g}, trains "
            f"{sum(trained.values()):,} parameters, the network has {parameters:,}"
        )


def _trained(network: UNet3D, frozen: Sequence[str], rank: int) -> dict[str, int]:
    """How many numbers a stage trains, by layer."""
    return {
        layer.name: 0 if layer.name in frozen else trained_parameters(layer, rank)
        for layer in network.layers
    }
