"""DICOM folders: the series asked for, slices by place, values in the series' units."""

import numpy as np
import pytest
from dicom_files import ORIGIN, SHAPE, ct_slice, write_series
from pydicom.uid import RTStructureSetStorage

from tl3d_keras import volume_io, volumes
from tl3d_keras.errors import InputError


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 3000, SHAPE).astype(np.uint16)


def refuse(folder, message, **arguments):
    with pytest.raises(InputError, match=message) as raised:
        volume_io.read(folder, **arguments)
    assert str(raised.value).startswith(str(folder)) and "\n" not in str(raised.value)
    return str(raised.value)


def test_slices_are_stacked_by_position(tmp_path, pixels):
    write_series(tmp_path, pixels)
    (tmp_path / "notes.txt").write_text("not DICOM")
    found = volume_io.read(tmp_path)
    np.testing.assert_array_equal(found.array[..., 0], pixels.astype(int) - 1024)
    assert found.spacing == (2.0, 0.75, 1.5) and found.origin == ORIGIN
    assert found.direction == (1, 0, 0, 0, 1, 0, 0, 0, 1)


def test_slopes_that_differ_by_slice(tmp_path, pixels):
    # As PET has them: the first slice alone would be read as whole numbers.
    for z, slope in enumerate([1.0, 0.37, 2.5, 1.0, 0.01]):
        position = np.array(ORIGIN) + (0, 0, 2 * z)
        slice_ = ct_slice(pixels[z], position, RescaleSlope=slope, RescaleIntercept=0.0)
        slice_.save_as(tmp_path / f"{z}.dcm", enforce_file_format=True)
    expected = pixels * np.reshape([1.0, 0.37, 2.5, 1.0, 0.01], (5, 1, 1))
    np.testing.assert_allclose(volume_io.read(tmp_path).array[..., 0], expected, rtol=1e-6)


def test_gantry_tilt_shears_the_grid(tmp_path, pixels):
    write_series(tmp_path, pixels, step=(0.0, 0.9, 1.8))
    found = volume_io.read(tmp_path)
    length = np.hypot(0.9, 1.8)
    assert found.spacing == pytest.approx((length, 0.75, 1.5))
    assert np.reshape(found.direction, (3, 3))[:, 2] == pytest.approx(
        (0, 0.9 / length, 1.8 / length)
    )
    np.testing.assert_array_equal(found.array[..., 0], pixels.astype(int) - 1024)
    for suffix in (".nii.gz", ".nrrd", ".mha"):
        volume_io.write(tmp_path / f"case{suffix}", found)
        again = volume_io.read(tmp_path / f"case{suffix}")
        volumes.check_same_grid(found, again, "series", suffix)
        np.testing.assert_array_equal(found.array, again.array)


def test_oblique_slices(tmp_path, pixels):
    c, s = np.cos(0.3), np.sin(0.3)
    write_series(tmp_path, pixels, step=(0, -2 * s, 2 * c), orientation=(1, 0, 0, 0, c, s))
    found = volume_io.read(tmp_path)
    expected = [[1, 0, 0], [0, c, -s], [0, s, c]]
    np.testing.assert_allclose(np.reshape(found.direction, (3, 3)), expected, atol=1e-6)
    np.testing.assert_array_equal(found.array[..., 0], pixels.astype(int) - 1024)


@pytest.fixture
def three_series(tmp_path, pixels):
    for number, name in ((2, "thorax"), (3, "scout"), (4, "thorax")):
        write_series(
            tmp_path,
            pixels + number,
            prefix=f"{number}-",
            SeriesInstanceUID=f"1.2.3.{number}",
            SeriesNumber=number,
            SeriesDescription=name,
        )
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "number"), [("1.2.3.2", 2), ("4", 4), ("scout", 3), ("1.2.3.4", 4)]
)
def test_a_series_is_chosen(three_series, pixels, asked, number):
    found = volume_io.read(three_series, series=asked)
    np.testing.assert_array_equal(found.array[..., 0], pixels.astype(int) + number - 1024)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (None, "expected --series=UID, number or description .* found 3: "),
        ("thorax", "expected --series=thorax to choose one DICOM series, found 2: "),
        ("1.2", "expected --series=1.2 to choose one DICOM series, found 0: "),
    ],
)
def test_a_choice_that_is_none_lists_the_series(three_series, asked, message):
    line = refuse(three_series, message, series=asked)
    for number, name in ((2, "thorax"), (3, "scout"), (4, "thorax")):
        assert f"1.2.3.{number} (number {number}, '{name}', 5 slices)" in line


def test_other_objects_in_the_folder_are_no_series(tmp_path, pixels):
    write_series(tmp_path, pixels)
    other = ct_slice(pixels[0], ORIGIN, SeriesInstanceUID="1.2.9", Modality="RTSTRUCT")
    other.file_meta.MediaStorageSOPClassUID = other.SOPClassUID = RTStructureSetStorage
    for name in ("Rows", "Columns", "PixelData", "BitsAllocated", "SamplesPerPixel"):
        delattr(other, name)
    other.save_as(tmp_path / "structures.dcm", enforce_file_format=True)
    assert volume_io.read(tmp_path).shape == SHAPE


def test_slices_without_a_spacing(tmp_path, pixels):
    write_series(tmp_path, pixels)
    other = ct_slice(pixels[0], ORIGIN)
    del other.PixelSpacing
    other.save_as(tmp_path / "003.dcm", enforce_file_format=True)
    with pytest.raises(InputError, match="003.dcm: expected a spacing, found none: no PixelSp"):
        volume_io.read(tmp_path)


def test_series_of_a_file(tmp_path):
    with pytest.raises(InputError, match="a.nrrd: expected a folder with --series=4, found a file"):
        volume_io.read(tmp_path / "a.nrrd", series="4")


def missing(folder, pixels):
    write_series(folder, pixels)
    (folder / "003.dcm").unlink()


def uneven(folder, pixels):
    write_series(folder, pixels[:4])
    ct_slice(pixels[4], np.array(ORIGIN) + (0, 0, 8.3)).save_as(folder / "9.dcm")


def twice(folder, pixels):
    write_series(folder, pixels)
    ct_slice(pixels[0], ORIGIN).save_as(folder / "9.dcm")


def smaller(folder, pixels):
    write_series(folder, pixels[:4])
    ct_slice(pixels[4, :-1], np.array(ORIGIN) + (0, 0, 8)).save_as(folder / "9.dcm")


def turned(folder, pixels):
    write_series(folder, pixels[:4])
    ct_slice(pixels[4], np.array(ORIGIN) + (0, 0, 8), (0, 1, 0, 1, 0, 0)).save_as(folder / "9.dcm")


def placeless(folder, pixels):
    for slice_ in write_series(folder, pixels):
        del slice_.ImagePositionPatient
        slice_.save_as(folder / f"{5 - slice_.InstanceNumber + 1:03d}.dcm")


def huge(folder, pixels):
    write_series(folder, pixels, Rows=65535, Columns=65535)


def cut_short(folder, pixels):
    write_series(folder, pixels)
    content = (folder / "002.dcm").read_bytes()
    (folder / "002.dcm").write_bytes(content[:-50])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (missing, "expected a slice every 2 mm, found 4 mm between 004.dcm and 002.dcm"),
        (uneven, "expected a slice every 2 mm, found 2.3 mm between 001.dcm and 9.dcm"),
        (twice, "expected one slice at each position, found .*005.dcm .*at the same"),
        (smaller, r"9.dcm: expected the size \(10, 12\) .* found \(10, 11\)"),
        (turned, "9.dcm: expected the orientation .* found "),
        (placeless, "expected the position and orientation of a slice, found none"),
        (huge, "expected voxels of at most .* bytes, found a header that claims 17179344900"),
        (
            cut_short,
            "002.dcm: expected elements within the .* found one that claims 240: ",
        ),
    ],
)
def test_stacks_that_are_none(tmp_path, pixels, make, message):
    make(tmp_path / "scan", pixels)
    refuse(tmp_path / "scan", message)
