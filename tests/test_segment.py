"""The segment command: what it reads of folders and files, and the grid that it answers on."""

import dataclasses

import helpers
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import SHAPE, write_series

from experiments import segment
from tl3d_keras import artifact, volume_io, volumes
from tl3d_keras.errors import InputError
from tl3d_keras.intensity import Intensity
from tl3d_keras.volumes import Volume


@pytest.fixture
def model(tmp_path):
    def save(channels=("CT",)):
        count = len(channels)
        window = Intensity("window", (-100.0,) * count, (300.0,) * count)
        network = helpers.network(input_channels=count)
        artifact.save(
            network, helpers.info(channels=channels, intensity=window), tmp_path / "model"
        )
        return tmp_path / "model"

    return save


def test_a_series_with_gantry_tilt_is_answered_on_its_grid(tmp_path, model, command, rng, capsys):
    for number in (1, 2):
        write_series(
            tmp_path / "scan",
            rng.integers(0, 3000, SHAPE).astype(np.uint16),
            step=(0.0, 0.2 * number, 1.9),
            prefix=str(number),
            SeriesInstanceUID=f"1.2.{number}",
            SeriesNumber=number,
        )
    output = tmp_path / "labels.nii.gz"
    arguments = {"model": model(), "input": tmp_path / "scan", "output": output}
    with pytest.raises(SystemExit):
        command(segment, **arguments)
    assert "expected --series=" in capsys.readouterr().err and not output.exists()
    command(segment, series="2", **arguments)
    volumes.check_same_grid(
        volume_io.read(tmp_path / "scan", series="2"), volume_io.read_labels(output), "scan", output
    )


def test_a_4d_file(tmp_path, model, command, rng, capsys):
    arrays = [rng.normal(size=(6, 7, 8, 1)).astype(np.float32) * 100 for _ in range(2)]
    images = [volumes.to_sitk(Volume(v, (2.0, 1.0, 1.0))) for v in arrays]
    for name, image in (("both", sitk.JoinSeries(images)), ("second", images[1])):
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    one = model()
    with pytest.raises(SystemExit):
        command(segment, model=one, input=tmp_path / "both.nii.gz", output=tmp_path / "a.nrrd")
    assert "--channel=N takes one" in capsys.readouterr().err
    command(
        segment, model=one, input=tmp_path / "both.nii.gz", output=tmp_path / "a.nrrd", channel=1
    )
    command(segment, model=one, input=tmp_path / "second.nii.gz", output=tmp_path / "b.nrrd")
    expected = volume_io.read_labels(tmp_path / "b.nrrd").array
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(volume_io.read_labels(tmp_path / "a.nrrd").array, expected)


def test_a_4d_file_holds_the_channels_of_a_model(tmp_path, model, command, rng):
    arrays = [rng.normal(size=(6, 7, 8, 1)).astype(np.float32) * 100 for _ in range(2)]
    images = [volumes.to_sitk(Volume(v, (2.0, 1.0, 1.0))) for v in arrays]
    for name, image in (
        ("both", sitk.JoinSeries(images)),
        ("a_0000", images[0]),
        ("a_0001", images[1]),
    ):
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    two = model(("T1", "T2"))
    command(segment, model=two, input=tmp_path / "both.nii.gz", output=tmp_path / "a.nrrd")
    command(
        segment,
        model=two,
        input=f"{tmp_path / 'a_0000.nii.gz'},{tmp_path / 'a_0001.nii.gz'}",
        output=tmp_path / "b.nrrd",
    )
    np.testing.assert_array_equal(
        volume_io.read_labels(tmp_path / "a.nrrd").array,
        volume_io.read_labels(tmp_path / "b.nrrd").array,
    )


def test_series_of_a_file_is_refused(tmp_path, model, command, capsys):
    volume_io.write(tmp_path / "a.nrrd", Volume(np.zeros((3, 3, 3, 1), np.int16), (1.0, 1.0, 1.0)))
    with pytest.raises(SystemExit):
        command(
            segment,
            model=model(),
            input=tmp_path / "a.nrrd",
            output=tmp_path / "b.nrrd",
            series="1",
        )
    assert "expected a folder with --series=1" in capsys.readouterr().err


def test_a_folder_is_segmented_in_its_order_with_and_without_overlap(
    tmp_path, model, command, rng, capsys
):
    """Whatever is read ahead, each scan gets its own labels, and one that fails its line."""
    names = ["a", "b", "c", "d"]
    for number, name in enumerate(names):
        image = rng.normal(size=(6, 7, 8 + number, 1)).astype(np.float32) * 300
        volume_io.write(tmp_path / "scans" / f"{name}.nii.gz", Volume(image, (2.0, 1.0, 1.0)))
    (tmp_path / "scans" / "b.nii.gz").write_bytes(b"")
    found = {}
    for folder, arguments in (("one", {"memory_gib": 64}), ("ahead", {})):
        with pytest.raises(SystemExit):
            command(
                segment,
                model=model(),
                input=tmp_path / "scans",
                output=tmp_path / folder,
                **arguments,
            )
        lines = capsys.readouterr()
        assert [line.split("/")[-1] for line in lines.out.splitlines()[:3]] == [
            "a.nii.gz",
            "c.nii.gz",
            "d.nii.gz",
        ]
        assert "b.nii.gz: expected a medical image" in lines.err
        found[folder] = [
            volume_io.read_labels(tmp_path / folder / f"{name}.nii.gz").array for name in "acd"
        ]
    for one, ahead in zip(found["one"], found["ahead"], strict=True):
        np.testing.assert_array_equal(one, ahead)


def test_mirrors_air_and_overlap_by_flag(tmp_path, model, command, rng, capsys):
    image = rng.normal(size=(20, 24, 28, 1)).astype(np.float32) * 300
    scan = tmp_path / "a.nrrd"
    volume_io.write(scan, Volume(image, (2.0, 1.0, 1.0)))
    given = {"model": model(), "input": scan, "output": tmp_path / "b.nrrd"}
    labels = []
    for flags in ({}, {"skip_air": True}, {"mirror_axes": "z,x"}, {"overlap": 0.5}):
        command(segment, **given, **flags)
        labels.append(volume_io.read_labels(tmp_path / "b.nrrd").array)
    np.testing.assert_array_equal(labels[0], labels[1])
    for changed in labels[2:]:
        assert 0 < (changed != labels[0]).mean() < 0.5
    assert "warning" not in capsys.readouterr().err
    with pytest.raises(InputError, match="--mirror_axes: expected axes of z,y,x, found 'w'"):
        command(segment, **given, mirror_axes="z,w")


def test_mirrors_that_the_model_has_not_seen(tmp_path, command, capsys):
    scan = tmp_path / "a.nrrd"
    volume_io.write(scan, Volume(np.ones((8, 8, 8, 1), np.float32), (2.0, 1.0, 1.0)))
    for number, (flipped, unseen) in enumerate([([0], "y"), ([0, 1], ""), ("z", "")], start=1):
        info = helpers.info(channels=("T1",))
        info = dataclasses.replace(info, provenance={"settings": {"flip_axes": flipped}})
        artifact.save(helpers.network(), info, tmp_path / "model")
        command(
            segment,
            model=tmp_path / "model" / str(number),
            input=scan,
            output=tmp_path / "b.nrrd",
            mirror_axes="z,y",
        )
        warned = f"trained without --flip_axes={unseen}, so" in capsys.readouterr().err
        assert warned == bool(unseen)
