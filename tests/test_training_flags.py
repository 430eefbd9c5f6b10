"""The flags of training commands become the settings of a run, or one line of error."""

import pytest
from absl import flags

from experiments import training_flags
from tl3d_keras import losses, run_settings
from tl3d_keras.errors import InputError


def parsed(*arguments: str) -> run_settings.RunSettings:
    values = flags.FlagValues()
    training_flags.define(values)
    values(["command", "--records_dir=records", "--output_dir=run", *arguments])
    return run_settings.RunSettings(**training_flags.settings(values))


def test_defaults_are_those_of_the_settings():
    assert parsed() == run_settings.RunSettings("records")


def test_what_concerns_losses_and_validation():
    found = parsed(
        "--loss=focal",
        "--loss_options=gamma=3,alpha=0.25",
        "--class_weights=balanced",
        "--deep_supervision",
        "--gradient_checkpointing",
        "--validation_cases=case_1,case_2",
    )
    assert found.loss == "focal" and found.loss_options == {"gamma": 3.0, "alpha": 0.25}
    assert found.class_weights == "balanced" and found.deep_supervision
    assert found.gradient_checkpointing
    assert found.validation_cases == ("case_1", "case_2")


@pytest.mark.parametrize("name", losses.LOSSES)
def test_every_loss_has_its_flag(name):
    assert parsed(f"--loss={name}").loss == name


@pytest.mark.parametrize("pair", ["gamma", "gamma=", "gamma=two", "gamma 2"])
def test_wrong_loss_options(pair):
    message = f"--loss_options: expected NAME=NUMBER, found '{pair}'"
    with pytest.raises(InputError, match=message):
        parsed(f"--loss_options={pair}")
