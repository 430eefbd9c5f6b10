"""Headers that lie: each is refused in one line or read right, and nothing is allocated on trust.

`TL3D_FUZZ=10000 python -m pytest tests/test_hostile_files.py` looks further.
"""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import write_series
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tl3d_keras import file_headers, volume_io, volumes
from tl3d_keras.errors import InputError
from tl3d_keras.volumes import Volume

EXAMPLES = int(os.environ.get("TL3D_FUZZ", "300"))
BOUNDED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
SHAPE = (4, 5, 6)
KINDS = [".nii", ".nii.gz", ".nrrd", "packed.nrrd", ".nhdr", ".mha", "packed.mha", ".mhd"]


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, bytes]:
    """A small file of each kind; those in two parts have their data beside them as `data.raw`."""
    folder = tmp_path_factory.mktemp("originals")
    array = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(*SHAPE, 1)
    image = volumes.to_sitk(Volume(array, (3.0, 2.0, 1.0), (5.0, 6.0, 7.0)))
    content = {}
    for kind in KINDS:
        path = folder / f"a{kind}"
        sitk.WriteImage(image, str(path), useCompression="packed" in kind or kind == ".nii.gz")
        content[kind] = path.read_bytes().replace(b"a.raw", b"data.raw")
    content["data.raw"] = (folder / "a.raw").read_bytes()
    write_series(folder / "dicom", array[:2, ..., 0].astype(np.uint16))
    for number, file in enumerate(sorted((folder / "dicom").iterdir())):
        content[f"dicom{number}"] = file.read_bytes()
    return content


def assert_clear(path: Path) -> Volume | None:
    """Reads a file: an error of one line that names it, or a volume that can be."""
    stored = sum(f.stat().st_size for f in path.parent.rglob("*") if f.is_file())
    try:
        volume = volume_io.read(path)
    except InputError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
        return None
    assert volume.array.ndim == 4 and volume.array.nbytes <= stored * file_headers.MAX_COMPRESSION
    assert all(0 < s <= file_headers.MAX_SPACING for s in volume.spacing)
    assert np.isfinite(volume.array).all() and np.isfinite(volume.origin).all()
    axes = np.reshape(volume.direction, (3, 3))
    assert np.linalg.norm(axes, axis=0) == pytest.approx(1, abs=0.02)
    return volume


def write(folder: Path, kind: str, content: bytes, originals) -> Path:
    (folder / "data.raw").write_bytes(originals["data.raw"])
    path = folder / f"a{kind}"
    path.write_bytes(content)
    return path


def changed(content: bytes, changes, stop: int) -> bytes:
    """`changes` are (where in the header, new bytes)."""
    mutant = bytearray(content)
    for where, new in changes:
        place = int(where * min(stop, len(mutant)))
        mutant[place : place + len(new)] = new
    return bytes(mutant)


NUMBERS = st.sampled_from(
    [0, 1, -1, 2, 255, 32767, -32768, 2**31 - 1, 2**40, -(2**63)],
) | st.integers(-300, 300)
BYTES = st.one_of(
    st.binary(min_size=1, max_size=8),
    NUMBERS.map(lambda n: int(n).to_bytes(8, "little", signed=True)),
    NUMBERS.map(lambda n: np.int16(n % 2**15).tobytes()),
    st.floats(width=32).map(lambda f: np.float32(f).tobytes()),
)
CHANGES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), BYTES), min_size=1, max_size=4)
VALUES = st.one_of(
    st.lists(NUMBERS, min_size=1, max_size=5).map(lambda n: " ".join(map(str, n))),
    st.lists(st.floats(), min_size=1, max_size=9).map(lambda n: " ".join(map(str, n))),
    st.sampled_from(
        ["", "LOCAL", "LIST", "/etc/passwd", "../x", "data.raw", "MET_DOUBLE", "True", "gzip"]
        + [
            "double",
            "float",
            "(nan,0,0) (0,1,0) (0,0,1)",
            "x%03d.raw 1 9 1",
            "3 * 9",
            "MET_CHAR_ARRAY",
        ]
    ),
    st.text(max_size=12),
)


@BOUNDED
@given(st.sampled_from(KINDS), CHANGES)
def test_changed_bytes(tmp_path, originals, kind, changes):
    content = originals[kind]
    packed = kind == ".nii.gz"
    mutant = changed(gzip.decompress(content) if packed else content, changes, 352)
    assert_clear(write(tmp_path, kind, gzip.compress(mutant) if packed else mutant, originals))


@BOUNDED
@given(
    st.sampled_from([k for k in KINDS if ".nii" not in k]),
    st.lists(st.tuples(st.integers(0, 30), VALUES), min_size=1, max_size=3),
)
def test_changed_values(tmp_path, originals, kind, changes):
    header, separator, data = originals[kind].partition(
        b"\n\n" if "nrrd" in kind or "nhdr" in kind else b"LOCAL\n"
    )
    lines = header.split(b"\n")
    for number, value in changes:
        name, sign, _ = lines[number % len(lines)].partition(b"=" if b"=" in header else b":")
        lines[number % len(lines)] = name + sign + b" " + value.encode("utf-8", "replace")
    assert_clear(write(tmp_path, kind, b"\n".join(lines) + separator + data, originals))


@BOUNDED
@given(CHANGES, st.booleans())
def test_changed_slices(tmp_path, originals, changes, first):
    folder = tmp_path / "dicom"
    folder.mkdir(exist_ok=True)
    for number in range(2):
        content = originals[f"dicom{number}"]
        if first == (number == 0):
            content = changed(content, changes, len(content))
        (folder / f"{number}.dcm").write_bytes(content)
    assert_clear(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_to_cut_a_file_short_is_refused(tmp_path, originals, kind):
    content = originals[kind] if kind not in (".mhd", ".nhdr") else originals["data.raw"]
    path = write(tmp_path, kind, originals[kind], originals)
    assert assert_clear(path) is not None
    for stop in range(0, len(content), 7):
        part = path if content is originals[kind] else tmp_path / "data.raw"
        part.write_bytes(content[:stop])
        assert assert_clear(path) is None, stop


def test_a_name_that_hides_the_compression(tmp_path, originals):
    path = write(tmp_path, ".nii", originals[".nii.gz"], originals)
    with pytest.raises(InputError, match="it is compressed; rename it to end in .nii.gz"):
        volume_io.read(path)
    plain = write(tmp_path, ".nii.gz", originals[".nii"], originals)
    assert volume_io.read(plain).shape == SHAPE


def test_reasons_are_the_same_in_every_process(tmp_path, originals):
    path = write(tmp_path, ".mha", originals[".mha"].replace(b"MET_SHORT", b"MET_LONGS"), originals)
    with pytest.raises(InputError, match="a.mha: cannot read: ") as raised:
        volume_io.read(path)
    assert "0x" not in str(raised.value)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_flipped_bit_in_a_compressed_file_is_seen(tmp_path, rng, suffix):
    noise = rng.integers(-999, 999, (10, 20, 30, 1)).astype(np.int16)
    path = tmp_path / f"a{suffix}"
    volume_io.write(path, Volume(noise, (1.0, 1.0, 1.0)))
    content = path.read_bytes()
    for place in np.linspace(len(content) // 10, len(content) - 1, 25).astype(int):
        mutant = bytearray(content)
        mutant[place] ^= 4
        path.write_bytes(mutant)
        with pytest.raises(InputError, match="cannot read: "):
            volume_io.read(path)


def test_a_checksum_alone_tells(tmp_path, rng):
    noise = rng.integers(-999, 999, (100, 120, 140, 1)).astype(np.int16)
    path = tmp_path / "a.nii"
    volume_io.write(path, Volume(noise, (1.0, 1.0, 1.0)))
    # Stored, not deflated: a flipped bit is one in a voxel.
    content = bytearray(gzip.compress(path.read_bytes(), 0))
    content[len(content) // 2] ^= 4
    (tmp_path / "b.nii.gz").write_bytes(content)
    with pytest.raises(InputError, match="cannot read: CRC check failed"):
        volume_io.read(tmp_path / "b.nii.gz")


def test_data_outside_the_folder_are_not_read(tmp_path, originals):
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "data.raw").write_bytes(originals["data.raw"])
    for kind in (".mhd", ".nhdr", ".mha", ".nrrd"):
        content = originals[".mhd" if "m" in kind else ".nhdr"]
        for name in ("../data.raw", str(tmp_path / "data.raw")):
            path = write(folder, kind, content.replace(b"data.raw", name.encode()), originals)
            with pytest.raises(InputError, match="expected its data file inside .* found "):
                volume_io.read(path)
        # A link that lies in the folder was put there by its owner.
        write(folder, kind, content, originals)
        (folder / "data.raw").unlink()
        (folder / "data.raw").symlink_to(tmp_path / "data.raw")
        assert volume_io.read(path).shape == SHAPE
        (folder / "data.raw").unlink()


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        (".nrrd", b"sizes: 6 5 4", b"sizes: 10000 10000 10000"),
        ("packed.nrrd", b"sizes: 6 5 4", b"sizes: 10000 10000 10000"),
        (".nhdr", b"sizes: 6 5 4", b"sizes: 10000 10000 10000"),
        (".mha", b"DimSize = 6 5 4", b"DimSize = 10000 10000 10000"),
        ("packed.mha", b"DimSize = 6 5 4", b"DimSize = 10000 10000 10000"),
        (".mhd", b"DimSize = 6 5 4", b"DimSize = 10000 10000 10000"),
        (".nii", np.int16([6, 5, 4]).tobytes(), np.int16([10000] * 3).tobytes()),
        (".nii.gz", np.int16([6, 5, 4]).tobytes(), np.int16([10000] * 3).tobytes()),
    ],
)
def test_a_trillion_voxels_are_refused(tmp_path, originals, kind, old, new):
    content = originals[kind]
    if kind == ".nii.gz":
        content = gzip.compress(gzip.decompress(content).replace(old, new, 1))
    path = write(tmp_path, kind, content.replace(old, new, 1), originals)
    with pytest.raises(InputError, match="a header that claims 2000000000000;"):
        volume_io.read(path)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, 1001.0])
@pytest.mark.parametrize("kind", [".nii", ".nrrd", ".mha"])
def test_impossible_spacing_is_refused(tmp_path, originals, kind, value):
    content = bytearray(originals[kind])
    if kind == ".nii":
        content[84:88] = np.float32(value).tobytes()
    content = content.replace(b"Spacing = 1 2 3", b"Spacing = 1 %g 3" % value)
    content = content.replace(b"(0,2,0)", b"(0,%g,0)" % value)
    path = write(tmp_path, kind, bytes(content), originals)
    if kind == ".nrrd" and value == -1:
        # A vector that points the other way is a flip.
        assert volume_io.read(path).direction[4] == -1
        return
    with pytest.raises(InputError):
        volume_io.read(path)
