"""Stages from text and from modes."""

import helpers
import pytest

from tl3d_keras import run_settings
from tl3d_keras.errors import InputError
from tl3d_keras.run_settings import RunSettings
from tl3d_keras.stages import Stage, frozen_layers, parse


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["all"], [("all", 1000, 0.1, ("all",))]),
        (
            ["head:300@1e-3", "decoder_*+head:600", "all@5e-4"],
            [
                ("head", 300, 1e-3, ("head",)),
                ("decoder_*+head", 600, 0.1, ("decoder_*", "head")),
                ("all", 100, 5e-4, ("all",)),
            ],
        ),
        (
            ["encoder_0:encoder_2:400", "encoder_1:head:600@1"],
            [
                ("encoder_0:encoder_2", 400, 0.1, ("encoder_0:encoder_2",)),
                ("encoder_1:head", 600, 1.0, ("encoder_1:head",)),
            ],
        ),
    ],
)
def test_stages_from_text(texts, expected):
    assert parse(texts, 1000, 0.1) == [
        Stage(name, steps, rate, trained=trained) for name, steps, rate, trained in expected
    ]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["head:300"], r"--steps=1000 together, found 300"),
        (["head:300", "all:800"], r"found 300 \+ 800"),
        (["head:1000", "all"], r"1 step or more each .* found 1000 \+ 0"),
        (["head:1200", "all"], r"found 1200 \+ -200"),
        (["head:0", "all"], r"found 0 \+ 1000"),
        (["head", "all"], r"found 0 \+ 1000"),
        (["head@fast:1", "all"], "found 'head@fast:1'"),
        (["head:3@-1", "all"], "found 'head:3@-1'"),
        (["head:3@nan", "all"], "found 'head:3@nan'"),
        (["head:3@", "all"], "found 'head:3@'"),
        (["head+:3", "all"], r"found 'head\+:3'"),
        (["", "all"], "found ''"),
    ],
)
def test_wrong_stages(texts, message):
    with pytest.raises(InputError, match=f"--stages: expected .*{message}"):
        parse(texts, 1000, 0.1)


def test_what_a_stage_leaves():
    network = helpers.network(levels=3)
    stage = Stage("a", 1, 0.1, frozen=("decoder_1",), trained=("decoder", "head"))
    kept = frozen_layers(network, stage)
    assert kept == [
        layer.name
        for layer in network.layers
        if layer.weights and layer.name.startswith(("encoder", "decoder_1"))
    ]
    with pytest.raises(InputError, match="stage b: expected a layer to train, found all"):
        frozen_layers(network, Stage("b", 1, 0.1, frozen=("head",), trained=("head",)))
    with pytest.raises(InputError, match="found 'haed'; the layers are"):
        frozen_layers(network, Stage("c", 1, 0.1, trained=("haed",)))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"mode": "scratch"}, [Stage("scratch", 8, 1e-2)]),
        ({"mode": "transfer", "freeze": ("head",)}, [Stage("transfer", 8, 1e-2, ("head",))]),
        (
            {"mode": "finetune"},
            [Stage("head", 2, 1e-2, ("encoder", "decoder")), Stage("all", 6, 1e-3)],
        ),
        (
            {"mode": "finetune", "head_steps": 3, "fine_rate": 0.5, "freeze": ("encoder_0",)},
            [Stage("head", 3, 1e-2, ("encoder_0",)), Stage("all", 5, 5e-3)],
        ),
        ({"mode": "finetune", "head_steps": 0}, [Stage("all", 8, 1e-3)]),
        ({"mode": "transfer", "stages": ("all@0.1",)}, [Stage("all", 8, 0.1)]),
    ],
)
def test_modes_are_short_for_stages(settings, expected):
    given = RunSettings("records", steps=8, learning_rate=1e-2, **settings)
    assert run_settings.make_stages(given) == expected
