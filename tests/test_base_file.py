"""What a transfer starts from: models that ship by name, folders, and networks of another size."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import helpers
import pytest

from experiments import transfer as command_module
from tl3d_keras import artifact, base_file, run_parts, shipped
from tl3d_keras.errors import InputError
from tl3d_keras.intensity import Intensity
from tl3d_keras.run_settings import RunSettings
from tl3d_keras.unet3d import base_model

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def shipping(tmp_path, monkeypatch):
    """The folder of an installed package in which `phantom` and `organs` ship."""
    package = tmp_path / "site-packages" / "tl3d_keras"
    for seed, name in enumerate(("phantom", "organs")):
        network = helpers.network(seed)
        artifact.save(network, helpers.info(), package / "saved_models" / name)
    (package / "saved_models" / "README.md").write_text("# Models\n")
    monkeypatch.setattr(shipped, "__file__", str(package / "shipped.py"))
    return package / "saved_models"


def test_models_that_ship_are_found_by_name(shipping, tmp_path, monkeypatch):
    assert shipped.names() == ["organs", "phantom"]
    phantom = helpers.network(0)
    helpers.assert_equal_weights(base_model(weights="phantom"), phantom)
    helpers.assert_equal_weights(base_file.load("phantom").network, phantom)
    assert artifact.inspect("phantom")["structures"] == ["background", "liver", "spleen"]
    helpers.assert_equal_weights(base_model(weights=str(shipping / "organs")), helpers.network(1))
    with pytest.raises(InputError, match="phantm: .* one of the models that ship: organs, phantom"):
        base_model(weights="phantm")
    assert base_model(3, weights="phantom", filters=2).count_params() == phantom.count_params()
    with pytest.raises(InputError, match="phantom: expected no num_classes or 3 .* found 5; tran"):
        base_model(num_classes=5, weights="phantom")
    # A folder of the user's comes first.
    shutil.copytree(shipping / "organs", tmp_path / "phantom")
    monkeypatch.chdir(tmp_path)
    helpers.assert_equal_weights(base_model(weights="phantom"), helpers.network(1))


def test_a_checkout_has_them_beside_the_package(shipping, monkeypatch):
    package = shipping.parent
    shutil.move(shipping, package.parent / "saved_models")
    assert shipped.names() == ["organs", "phantom"]
    shutil.rmtree(package.parent / "saved_models")
    assert shipped.names() == []
    with pytest.raises(InputError, match="one of the models that ship: none"):
        base_model(weights="phantom")


@pytest.mark.slow
def test_a_wheel_brings_them(tmp_path):
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "runs", "demo")
    shutil.copytree(ROOT, source, ignore=ignored)
    artifact.save(helpers.network(), helpers.info(), source / "saved_models" / "dummy")
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(source)], check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    code = (
        "import tl3d_keras, tl3d_keras.shipped as s; print(s.names(), tl3d_keras.__file__);"
        "print(tl3d_keras.base_model(weights='dummy').count_params())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "installed", capture_output=True, text=True
    )
    assert "'dummy'" in done.stdout and str(tmp_path) in done.stdout, done.stderr
    assert done.stdout.split()[-1] == str(helpers.network().count_params())


def parsed(*arguments):
    values = command_module.FLAGS
    values.unparse_flags()
    values(["transfer", "--records_dir=records", "--output_dir=run", "--base=base", *arguments])
    return command_module.architecture(values)


def test_the_network_is_the_bases_but_for_given_flags():
    assert parsed() == {}
    assert parsed("--filters=8", "--levels=4") == {"filters": 8, "levels": 4}
    found = parsed("--padding=valid", "--normalization=none")
    assert found == {"padding": "valid", "normalization": None}


def test_a_run_of_another_depth_names_every_layer(tmp_path, command, capsys):
    records = helpers.write_records(tmp_path)
    base = artifact.save(helpers.network(levels=3), helpers.info(), tmp_path / "base")
    command(
        command_module,
        base=base,
        mode="transfer",
        records_dir=records,
        output_dir=tmp_path / "run",
        levels=2,
        normalization="instance",
        patch_size="8,16,16",
        steps=1,
        num_validation=0,
        precision="float32",
        strategy="one",
    )
    said = capsys.readouterr().out
    unused = ", ".join(f"{p}_conv_{i}" for p in ("encoder_2", "decoder_1") for i in (0, 1))
    assert f"not taken from the base: {unused}" in said
    layers = json.loads((tmp_path / "run" / "run.json").read_text())["layers"]
    origins = {row["layer"]: row["origin"] for row in layers}
    assert origins["encoder_1_conv_1"] == origins["head"] == "copied"
    assert origins["decoder_0_norm_0"] == "new, not in the base"
    config = artifact.load(tmp_path / "run" / "model").network.get_config()
    assert config["levels"] == 2 and config["normalization"] == "instance"


@pytest.mark.parametrize(
    ("channels", "low"),
    [
        (["CT", "PET"], (-100.0, 0.0)),
        (["PET", "CT"], (0.0, -100.0)),
        # As many channels go on in the base's places where their names are new.
        (["PET", "MR"], (0.0, -100.0)),
        (["PET", "MR", "CT"], (0.0, 5.0, -100.0)),
        (["MR"], (5.0,)),
    ],
)
def test_windows_follow_the_channels(channels, low):
    window = Intensity("window", (-100.0, 0.0), (300.0, 50.0))
    base = base_file.Base(
        helpers.network(input_channels=2), helpers.info(channels=("CT", "PET"), intensity=window)
    )
    proposal = helpers.Proposal((1.0, 1.0, 1.0), [(5.0, 6.0)] * len(channels), (8, 8, 8), [])
    manifest = helpers.make_manifest(["liver"], [], channels=channels, proposal=proposal)
    settings = RunSettings("records", mode="transfer", base="base")
    assert run_parts.choose_intensity(settings, manifest, base).low == low
