"""Files and volumes: what goes out comes back, what cannot be used is named in one line."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from tl3d_keras import file_headers, resampling, volume_io, volumes
from tl3d_keras.errors import InputError
from tl3d_keras.volumes import Volume

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
OBLIQUE = tuple(Rotation.from_euler("xyz", [80, -5, 190], degrees=True).as_matrix().ravel())


def volume(array: np.ndarray) -> Volume:
    return Volume(array, (3.0, 1.25, 0.8), (-31.5, 12.25, 100.0), OBLIQUE)


def noise(rng, channels: int = 1, dtype=np.int16) -> np.ndarray:
    return rng.integers(-1000, 1000, (4, 5, 6, channels)).astype(dtype)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.uint8])
def test_round_trip(tmp_path, rng, suffix, channels, dtype):
    written = volume(noise(rng, channels, dtype))
    path = tmp_path / "new" / f"case{suffix}"
    volume_io.write(path, written)
    found = volume_io.read(path)
    assert found.array.dtype == dtype and found.shape == (4, 5, 6)
    np.testing.assert_array_equal(found.array, written.array)
    assert found.spacing == pytest.approx(written.spacing, abs=1e-6)
    assert found.origin == pytest.approx(written.origin, abs=1e-4)
    assert found.direction == pytest.approx(OBLIQUE, abs=1e-6)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_header_and_data_apart_are_read(tmp_path, rng, suffix):
    written = volume(noise(rng))
    sitk.WriteImage(volumes.to_sitk(written), str(tmp_path / f"case{suffix}"))
    found = volume_io.read(tmp_path / f"case{suffix}")
    np.testing.assert_array_equal(found.array, written.array)
    assert found.spacing == pytest.approx(written.spacing)


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_header_and_data_apart_are_not_written(tmp_path, rng, suffix):
    with pytest.raises(InputError, match=f"case{suffix}: .* two files .* use .(mha|nrrd)"):
        volume_io.write(tmp_path / f"case{suffix}", volume(noise(rng)))
    assert not list(tmp_path.iterdir())


def test_axes_of_the_array(tmp_path):
    array = np.zeros((2, 3, 4, 2), np.int16)
    array[1, 2, 3] = [7, 8]
    image = volumes.to_sitk(Volume(array, (3.0, 2.0, 1.0)))
    assert image.GetSize() == (4, 3, 2) and image.GetSpacing() == (1.0, 2.0, 3.0)
    assert image.GetPixel(3, 2, 1) == (7, 8)


def test_channels_are_stacked_in_order(tmp_path, rng):
    arrays = [noise(rng) for _ in range(3)]
    paths = [tmp_path / f"case_{c:04d}.nrrd" for c in range(3)]
    for path, array in zip(paths, arrays, strict=True):
        volume_io.write(path, volume(array))
    np.testing.assert_array_equal(
        volume_io.read_channels(paths).array, np.concatenate(arrays, axis=-1)
    )
    np.testing.assert_array_equal(volume_io.read_channels(paths[1:2]).array, arrays[1])


def stack(path: Path, arrays) -> None:
    """Writes volumes [Z, Y, X, 1] along a 4th dimension."""
    sitk.WriteImage(sitk.JoinSeries([volumes.to_sitk(volume(a)) for a in arrays]), str(path))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_4d_files(tmp_path, rng, suffix):
    arrays = [noise(rng) for _ in range(3)]
    path = tmp_path / f"case{suffix}"
    stack(path, arrays)
    refuse(
        volume_io.read, path, r"expected a 3D volume, found 3 .* --channel=N takes one \(0 to 2\)"
    )
    for channel, array in enumerate(arrays):
        found = volume_io.read(path, channel=channel)
        np.testing.assert_array_equal(found.array, array)
        volumes.check_same_grid(volume(array), found, "written", path)
    whole = volume_io.read_channels([path], channels=3)
    np.testing.assert_array_equal(whole.array, np.concatenate(arrays, -1))
    volumes.check_same_grid(found, whole, "one", "all")
    with pytest.raises(InputError, match="found 3 of them along a 4th dimension"):
        volume_io.read_channels([path], channels=2)
    with pytest.raises(InputError, match="expected --channel of 0 to 2, found 3"):
        volume_io.read(path, channel=3)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_4th_dimension_of_one_is_none(tmp_path, rng, suffix):
    array = noise(rng)
    stack(tmp_path / f"case{suffix}", [array])
    np.testing.assert_array_equal(volume_io.read(tmp_path / f"case{suffix}").array, array)


def test_a_component_is_chosen_as_a_channel(tmp_path, rng):
    array = noise(rng, 3)
    volume_io.write(tmp_path / "a.nrrd", volume(array))
    found = volume_io.read(tmp_path / "a.nrrd", channel=1)
    np.testing.assert_array_equal(found.array, array[..., 1:2])


def test_only_the_channel_asked_for_need_be_finite(tmp_path):
    stack(tmp_path / "a.nii.gz", [np.zeros((2, 3, 4, 1), np.float32), not_a_number()])
    assert volume_io.read(tmp_path / "a.nii.gz", channel=0).array.max() == 0
    with pytest.raises(InputError, match="expected finite intensities, found 2 NaN"):
        volume_io.read(tmp_path / "a.nii.gz", channel=1)


SHEARED = np.array([[-1.0, 0.0, 0.0, 5.0], [0.0, 2.0, 0.8, 6.0], [0.0, 0.0, 2.9, 7.0]])


@pytest.mark.parametrize("qform", [0, 1, 2])
@pytest.mark.parametrize(("units", "scale"), [(2, 1.0), (3, 0.001)])
def test_a_sheared_nifti_is_read_where_it_lies(tmp_path, capfd, qform, units, scale):
    path = tmp_path / "a.nii"
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4, 1)
    volume_io.write(path, Volume(array, (3.0, 2.0, 1.0)))
    content = bytearray(path.read_bytes())
    content[123] = units
    content[252:256] = np.int16([qform, 1]).tobytes()
    content[280:328] = SHEARED.astype("f4").tobytes()
    path.write_bytes(content)
    found = volume_io.read(path)
    np.testing.assert_array_equal(found.array, array)
    affine = np.reshape(found.direction, (3, 3)) * found.spacing[::-1]
    if qform == 2:
        # The qform tells of another space than the sform, and holds no shear.
        np.testing.assert_allclose(affine, np.diag([1.0, 2.0, 3.0]) * scale, atol=1e-6)
        return
    expected = np.diag([-1.0, -1.0, 1.0]) @ SHEARED * scale
    np.testing.assert_allclose(np.column_stack([affine, found.origin]), expected, rtol=1e-5)


def test_sheared_niftis_in_two_threads_say_nothing(tmp_path, capfd):
    axes = np.array([[1.0, 0.0, 0.2], [0.0, 1.0, 0.0], [0.0, 0.0, 0.98]])
    sheared = tuple((axes / np.linalg.norm(axes, axis=0)).ravel().tolist())
    written = Volume(np.zeros((4, 32, 32, 1), np.int16), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), sheared)

    def work(name: str) -> None:
        for _ in range(100):
            volume_io.write(tmp_path / name, written)
            assert volume_io.read(tmp_path / name).direction == pytest.approx(sheared, abs=1e-6)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, ["a.nii", "b.nii"]))
    assert capfd.readouterr().err == ""
    assert sitk.ProcessObject.GetGlobalWarningDisplay()
    assert "ITK_NIFTI_SFORM_PERMISSIVE" not in os.environ


@pytest.mark.skipif(not (DATA / "ct/dicom_series").is_dir(), reason="no DICOM series at hand")
def test_dicom_series():
    series = volume_io.read(DATA / "ct/dicom_series")
    assert series.array.shape == (20, *series.shape[1:], 1)
    # The label file runs through the same slices from back to front.
    series = resampling.canonical(series)
    labels = resampling.canonical(volume_io.read_labels(DATA / "ct/dicom_series_seg.nii.gz"))
    volumes.check_same_grid(series, labels, "dicom_series", "dicom_series_seg.nii.gz")
    # Hounsfield units: air around the patient, soft tissue where something is labelled.
    assert series.array.min() <= -1000
    assert -100 < np.median(series.array[labels.array > 0]) < 300


def test_whole_numbers_are_labels_whatever_their_type(tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4, 1)
    volume_io.write(tmp_path / "label.nii.gz", volume(array))
    found = volume_io.read_labels(tmp_path / "label.nii.gz").array
    assert np.issubdtype(found.dtype, np.integer)
    np.testing.assert_array_equal(found, array)


def not_a_number() -> np.ndarray:
    array = np.zeros((2, 3, 4, 1), np.float32)
    array[0, 1, 2], array[1, 1, 1] = np.nan, np.inf
    return array


def empty(path: Path) -> None:
    path.touch()


def garbage(path: Path) -> None:
    path.write_bytes(b"not a medical image " * 40)


def cut_short(path: Path) -> None:
    volume_io.write(path, volume(np.random.default_rng(0).normal(size=(9, 9, 9, 1))))
    path.write_bytes(path.read_bytes()[:700])


def flat(path: Path) -> None:
    sitk.WriteImage(sitk.Image(4, 5, sitk.sitkInt16), str(path))


def two_channels(path: Path) -> None:
    volume_io.write(path, volume(np.zeros((2, 3, 4, 2), np.int16)))


def half(path: Path) -> None:
    volume_io.write(path, volume(np.full((2, 3, 4, 1), 1.5, np.float32)))


def holes(path: Path) -> None:
    volume_io.write(path, volume(not_a_number()))


def huge(path: Path) -> None:
    volume_io.write(path, volume(np.full((2, 3, 4, 1), -1e300)))


def waves(path: Path) -> None:
    sitk.WriteImage(sitk.Image(4, 5, 6, sitk.sitkComplexFloat32), str(path))


BAD_FILES = [
    ("a.nii.gz", lambda path: None, "no such file"),
    ("a.nii.gz", empty, "expected a medical image, found an empty file"),
    ("a.nii.gz", garbage, "cannot read: "),
    ("a.nrrd", garbage, "cannot read: "),
    ("a.mha", garbage, "cannot read: "),
    ("a.nrrd", cut_short, "cannot read: "),
    ("a.txt", garbage, r"expected a file that ends in one of \.nii\.gz, .* or a folder with"),
    ("a.nii.gz", flat, r"expected a 3D volume, found size \(4, 5\)"),
    ("a.nii.gz", waves, "expected real numbers, found complex"),
    ("a.nii", holes, "expected finite intensities, found 2 NaN or infinite values"),
    ("a.nrrd", holes, "expected finite intensities, found 2 NaN or infinite values"),
    ("a.nii.gz", holes, "expected finite intensities, found 2 NaN or infinite values"),
    ("a.nii.gz", huge, r"expected values up to 3.4e\+38, found 1e\+300"),
    ("a", Path.mkdir, "expected a DICOM series, found none"),
]
BAD_LABELS = [
    ("a.nii.gz", half, "expected whole-number labels, found the value 1.5"),
    ("a.nrrd", two_channels, "expected labels of one channel, found 2"),
]


def refuse(reader, path: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        reader(path)
    assert str(raised.value).startswith(f"{path}: ") and "\n" not in str(raised.value)


@pytest.mark.parametrize(("name", "make", "message"), BAD_FILES)
def test_bad_image(tmp_path, capfd, name, make, message):
    make(tmp_path / name)
    refuse(volume_io.read, tmp_path / name, message)


@pytest.mark.parametrize(("name", "make", "message"), BAD_FILES + BAD_LABELS)
def test_bad_labels(tmp_path, capfd, name, make, message):
    make(tmp_path / name)
    refuse(volume_io.read_labels, tmp_path / name, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"array": np.zeros((4, 5, 7, 1))}, r"expected the shape \(4, 5, 6\) .* found \(4, 5, 7\)"),
        ({"spacing": (3.0, 1.25, 0.81)}, r"expected the spacing .*0\.8\) .* found .*0\.81\)"),
        ({"origin": (-31.5, 12.25, 99.0)}, r"expected the origin .*100\.0\) .* found .*99\.0\)"),
        ({"direction": tuple(np.eye(3).ravel())}, "expected the direction .* found "),
    ],
)
def test_grids_that_differ(rng, change, message):
    first = volume(noise(rng))
    second = Volume(**{**vars(first), **change})
    with pytest.raises(InputError, match=f"^b.nrrd: {message}") as raised:
        volumes.check_same_grid(first, second, "a.nrrd", "b.nrrd")
    assert "a.nrrd" in str(raised.value)


def test_rounding_of_headers_is_no_difference(rng):
    first = volume(noise(rng))
    second = Volume(first.array, (3.0, 1.25, 0.8000001), (-31.5002, 12.25, 100.0), OBLIQUE)
    volumes.check_same_grid(first, second, "a.nrrd", "b.nrrd")


def test_channels_on_two_grids(tmp_path, rng):
    volume_io.write(tmp_path / "a_0000.nrrd", volume(noise(rng)))
    volume_io.write(tmp_path / "a_0001.nrrd", Volume(noise(rng), (1.0, 1.0, 1.0)))
    with pytest.raises(InputError, match="a_0001.nrrd: expected the spacing .*a_0000.nrrd"):
        volume_io.read_channels([tmp_path / "a_0000.nrrd", tmp_path / "a_0001.nrrd"])


def test_a_failed_write_leaves_the_former_file(tmp_path, rng, monkeypatch):
    path = tmp_path / "case.nii.gz"
    volume_io.write(path, volume(noise(rng)))
    former = path.read_bytes()

    def fill_the_disk(image, name, **settings):
        Path(name).write_bytes(b"half of it")
        raise RuntimeError("sitk::ERROR: Unable to write\nNo space left on device")

    monkeypatch.setattr(sitk, "WriteImage", fill_the_disk)
    with pytest.raises(InputError, match="case.nii.gz: cannot write: No space left on device$"):
        volume_io.write(path, volume(noise(rng)))
    assert path.read_bytes() == former
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_reason_of_an_error_that_says_nothing():
    assert file_headers.reason(MemoryError()) == "MemoryError"


def test_labels_beyond_all_integers_are_refused(tmp_path):
    path = tmp_path / "label.nii.gz"
    volume_io.write(path, volume(np.full((2, 2, 2, 1), 1e30, np.float32)))
    with pytest.raises(InputError, match="expected whole-number labels, found the value 1e.30$"):
        volume_io.read_labels(path)


def test_unknown_suffix_is_not_written(tmp_path, rng):
    with pytest.raises(InputError, match=r"case.png: expected a name that ends in one of \.nii"):
        volume_io.write(tmp_path / "case.png", volume(noise(rng)))


def test_place_that_cannot_be_written(tmp_path, rng):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="case.nrrd: cannot write: "):
        volume_io.write(tmp_path / "file" / "case.nrrd", volume(noise(rng)))


@pytest.mark.parametrize(
    ("path", "name", "known"),
    [
        ("a/b.nii.gz", "b", True),
        ("a/b.c.NRRD", "b.c", True),
        ("a/series", "series", False),
        ("b.nii.gz.txt", "b.nii.gz.txt", False),
    ],
)
def test_names(path, name, known):
    assert volume_io.case_name(path) == name
    assert volume_io.has_known_suffix(path) is known


def test_on_same_grid_turns_axes(rng):
    image = Volume(rng.normal(size=(3, 4, 5, 1)), (3.0, 2.0, 1.0), (5.0, -7.0, 9.0))
    for code in ("LPS", "RAI", "SLP", "ILA"):
        turned = volumes.from_sitk(sitk.DICOMOrient(volumes.to_sitk(image), code))
        found = volumes.on_same_grid(image, turned, "image", code)
        np.testing.assert_array_equal(found.array, image.array)
        volumes.check_same_grid(image, found, "image", code)
    moved = Volume(turned.array, turned.spacing, (5.0, -7.0, 10.0), turned.direction)
    with pytest.raises(InputError, match="moved: expected the "):
        volumes.on_same_grid(image, moved, "image", "moved")
