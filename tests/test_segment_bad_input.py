"""What the segment command refuses or doubts, in one line each, and what it does all the same."""

import dataclasses
import gzip
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import helpers
import numpy as np
import pytest
import SimpleITK as sitk
import tensorflow as tf

from experiments import segment
from tl3d_keras import artifact, inference, scan_check, volume_io
from tl3d_keras.errors import InputError
from tl3d_keras.intensity import Intensity
from tl3d_keras.volumes import Volume

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SHAPE = (9, 8, 7)
# Before the spacing in a NIfTI-1 header, and its type.
PIXDIM = 80


def ct(shape=SHAPE, seed=0) -> np.ndarray:
    """Air, fat and organs at random, int16 [Z, Y, X, 1]."""
    rng = np.random.default_rng(seed)
    tissue = rng.choice([-1000, -100, 50, 300], shape)
    return (tissue + rng.normal(scale=10, size=shape)).astype(np.int16)[..., None]


def mr(shape=SHAPE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 900, (*shape, 1)).astype(np.int16)


def written(array: np.ndarray, spacing=(2.0, 1.0, 1.0)):
    return lambda path: volume_io.write(path, Volume(array, spacing))


def cut(share: float):
    def make(path: Path) -> None:
        written(ct())(path)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return make


def pixdim(value: float):
    """A compressed NIfTI whose header says this spacing along y."""

    def make(path: Path) -> None:
        written(ct())(path.with_name("plain.nii"))
        content = bytearray(path.with_name("plain.nii").read_bytes())
        path.with_name("plain.nii").unlink()
        content[PIXDIM + 4 : PIXDIM + 8] = np.float32(value).tobytes()
        path.write_bytes(gzip.compress(content))

    return make


def without(word: bytes):
    """A text header without the line that starts with `word`."""

    def make(path: Path) -> None:
        written(ct())(path)
        lines = path.read_bytes().split(b"\n")
        path.write_bytes(b"\n".join(line for line in lines if not line.startswith(word)))

    return make


def flat(path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(ct()[0, ..., 0]), str(path))


def in_time(path: Path) -> None:
    image = sitk.GetImageFromArray(ct()[..., 0])
    sitk.WriteImage(sitk.JoinSeries([image] * 3), str(path))


def holed(value: float) -> np.ndarray:
    array = ct().astype(np.float32)
    array[2, 3, 4] = value
    return array


BAD = [
    ("a.nii.gz", Path.touch, "expected a medical image, found an empty file"),
    ("a.nii.gz", lambda p: p.write_bytes(b"no image " * 99), "cannot read: "),
    ("a.nii.gz", cut(0.1), "cannot read: |cut short"),
    ("a.nii.gz", cut(0.9), "cannot read: |cut short"),
    ("a.nii", cut(0.9), "cut short"),
    ("a.nrrd", cut(0.9), "cannot read: "),
    ("a.mha", cut(0.9), "cannot read: "),
    ("a.txt", lambda p: p.write_text("notes"), "expected a file that ends in one of"),
    ("a", Path.mkdir, "expected a DICOM series, found none"),
    ("a.nii.gz", flat, r"expected a 3D volume, found size \(7, 8\)"),
    ("a.nrrd", flat, r"expected a 3D volume, found "),
    ("a.nii.gz", in_time, "found 3 of them along a 4th dimension; --channel=N takes one"),
    ("a.nii.gz", written(holed(np.nan)), "expected finite intensities, found 1 NaN or infinite"),
    ("a.nrrd", written(holed(np.inf)), "expected finite intensities, found 1 NaN or infinite"),
    ("a.nii.gz", pixdim(0), "expected a spacing above 0, found 1, 0, 2"),
    ("a.nii.gz", pixdim(-1), "expected a spacing above 0, found 1, -1, 2"),
    ("a.nii.gz", pixdim(np.nan), "expected a spacing above 0, found 1, nan, 2"),
    ("a.nrrd", without(b"space directions"), "expected a spacing, found none in the header"),
    ("a.mha", without(b"ElementSpacing"), "expected a spacing, found none in the header"),
    ("a.nrrd", written(ct(), (51.0, 1.0, 1.0)), "spacing of 0.01 to 50 mm, found 51, 1, 1"),
    ("a.nrrd", written(ct(), (2.0, 1.0, 0.001)), "of 0.01 to 50 mm, found 2, 1, 0.001"),
    ("a.nrrd", written(ct((9, 8, 7, 2))[..., 0]), r"expected 1 channel \(CT\), found 2"),
    ("a.nrrd", written(mr()), "Hounsfield units, found values of . to 89., with neither air"),
    ("a.nrrd", written(ct() + np.int16(1024)), "Hounsfield units, found .* with neither air"),
    ("a.nrrd", written(ct() * np.int16(3)), "Hounsfield units, found .* darker than air"),
    ("a.nrrd", written(ct() / np.float32(999)), "units, found .*, which is too narrow for CT"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    artifact.save(helpers.network(), helpers.info(), path)
    return path


@pytest.fixture
def run(model, command, capfd):
    """Runs the command; its exit status and its lines of standard error and output."""

    def call(status: int, model=model, **flags) -> tuple[list[str], list[str]]:
        found, raised = 0, []
        try:
            command(segment, model=model, **flags)
        except SystemExit as error:
            found = error.code
        except InputError as error:
            found, raised = 2, [f"error: {error}"]
        printed = capfd.readouterr()
        assert found == status
        return printed.err.splitlines() + raised, printed.out.splitlines()

    return call


@pytest.mark.parametrize(("name", "make", "message"), BAD)
def test_one_bad_scan(tmp_path, run, name, make, message):
    make(tmp_path / name)
    lines, printed = run(2, input=tmp_path / name, output=tmp_path / "out" / "labels.nii.gz")
    assert lines[1:] in ([], ["error: 1 of 1 scans failed"]) and not printed
    assert lines[0].startswith(f"error: {tmp_path / name}: ")
    with pytest.raises(InputError, match=message):
        raise InputError(lines[0])
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file/labels.nii.gz", "cannot write: Not a directory"),
        ("labels.png", "expected a name that ends in one of .nii.gz"),
        ("labels.mhd", "header and data in two files cannot be replaced at once; use .mha"),
        ("folder.nii.gz", "cannot write: expected a file, found a folder"),
        ("a.nrrd", "a.nrrd: expected another file than that of --input"),
        ("labels.nii.gz --report=page.txt", "page.txt: expected a file name that ends in .html"),
        ("labels.nii.gz --report={}/file/page.html", "page.html: cannot write: Not a directory"),
        ("labels.nii.gz --reference=x", "--reference: expected --report=FILE.html with it"),
    ],
)
def test_an_output_that_cannot_be_written_is_known_before(tmp_path, run, name, message):
    written(ct())(tmp_path / "a.nrrd")
    (tmp_path / "file").touch()
    (tmp_path / "folder.nii.gz").mkdir()
    output, _, flag = name.partition(" --")
    flags = dict([flag.format(tmp_path).split("=")]) if flag else {}
    # The model is not even looked for.
    lines, _ = run(2, model="none", input=tmp_path / "a.nrrd", output=tmp_path / output, **flags)
    assert len(lines) == 1 and message in lines[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nrrd", "file", "folder.nii.gz"]


def test_a_folder_of_all_sorts(tmp_path, run):
    scans = tmp_path / "scans"
    for name, seed in (("b.nii.gz", 1), ("d.mha", 2)):
        written(ct(seed=seed))(scans / name)
    cut(0.9)(scans / "a.nii.gz")
    written(mr())(scans / "c.nrrd")
    for name in ("notes.txt", "table.csv", "dataset.json", "x.jpg", ".hidden.nii.gz"):
        (scans / name).touch()
    (scans / "more.nii").mkdir()
    output = scans / "labels"
    for _ in range(2):
        lines, printed = run(2, input=scans, output=output)
        assert lines[0] == (
            f"warning: {scans}: skipped 5 that are no scans (.nii.gz, .nii, .nrrd, .nhdr, .mha, "
            ".mhd): dataset.json, more.nii, notes.txt and 2 more"
        )
        assert [line.split(": ")[:2] for line in lines[1:]] == [
            ["error", str(scans / "a.nii.gz")],
            ["error", str(scans / "c.nrrd")],
            ["error", "2 of 4 scans failed"],
        ]
        assert printed == [
            f"{scans / 'b.nii.gz'} -> {output / 'b.nii.gz'}",
            f"{scans / 'd.mha'} -> {output / 'd.nii.gz'}",
            "2 of 4 scans segmented, 2 failed, 5 other files skipped",
        ]
        assert sorted(p.name for p in output.iterdir()) == ["b.nii.gz", "d.nii.gz"]


OUT_OF_MEMORY = [
    MemoryError("Unable to allocate 9 GiB"),
    RuntimeError("itk::ERROR: Failed to allocate memory for image."),
    tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"),
]


@pytest.mark.parametrize("where", ["read_channels", "segment", "write"])
@pytest.mark.parametrize("flags", [{}, {"memory_gib": 64}], ids=["default", "limit"])
def test_out_of_memory_fails_that_scan_alone(tmp_path, run, monkeypatch, where, flags):
    for name in "abc":
        written(ct())(tmp_path / "scans" / f"{name}.nrrd")
    module = inference if where == "segment" else volume_io
    original, calls, errors = getattr(module, where), [], iter(OUT_OF_MEMORY)

    def short(*arguments):
        calls.append(where)
        if len(calls) == 2:
            raise next(errors)
        return original(*arguments)

    output = tmp_path / "labels"
    for _ in OUT_OF_MEMORY:
        calls.clear()
        monkeypatch.setattr(module, where, short)
        lines, printed = run(2, input=tmp_path / "scans", output=output, **flags)
        expected = "32" if flags else r"[\d.]+"
        assert re.fullmatch(
            f"error: .*/b.nrrd: out of memory; try --memory_gib={expected}, for smaller tiles and "
            "one scan at a time",
            lines[0],
        )
        assert lines[1:] == ["error: 1 of 3 scans failed"]
        assert printed[-1] == "2 of 3 scans segmented, 1 failed, 0 other files skipped"


def test_a_limit_below_the_smallest_tile_names_each_scan(tmp_path, run):
    for name in "ab":
        written(ct())(tmp_path / "scans" / f"{name}.nrrd")
    lines, _ = run(2, input=tmp_path / "scans", output=tmp_path / "labels", memory_gib=0.01)
    for name, line in zip("ab", lines, strict=False):
        assert line.startswith(f"error: {tmp_path}/scans/{name}.nrrd: expected at least ")
        assert line.endswith("GiB left for it; see --memory_gib")
    assert lines[2:] == ["error: 2 of 2 scans failed"]


def test_two_files_of_one_name(tmp_path, run):
    for name in ("a.nii.gz", "a.nrrd"):
        written(ct())(tmp_path / "scans" / name)
    lines, _ = run(2, input=tmp_path / "scans", output=tmp_path / "labels")
    assert lines == [
        f"error: {tmp_path / 'scans/a.nrrd'}: expected one file a scan, found a.nii.gz too"
    ]


def test_a_scan_without_all_channels_stops_no_other(tmp_path, run):
    two = Intensity("window", (-100.0,) * 2, (300.0,) * 2)
    info = helpers.info(channels=("T1", "T2"), intensity=two)
    artifact.save(helpers.network(input_channels=2), info, tmp_path / "two")
    for name in ("a_0000", "b_0000", "b_0001"):
        written(mr())(tmp_path / f"scans/{name}.nrrd")
    lines, printed = run(
        2, model=tmp_path / "two", input=tmp_path / "scans", output=tmp_path / "labels"
    )
    assert lines[0] == (
        f"error: {tmp_path / 'scans/a_0000.nrrd'}: expected 2 channels (T1, T2), found 1"
    )
    assert [p.name for p in (tmp_path / "labels").iterdir()] == ["b.nii.gz"]


def test_numbers_of_cases_are_no_channels(tmp_path, run):
    for name in ("case_0001", "case_0002"):
        written(ct())(tmp_path / f"scans/{name}.nrrd")
    run(0, input=tmp_path / "scans", output=tmp_path / "labels")
    assert sorted(p.name for p in (tmp_path / "labels").iterdir()) == [
        "case_0001.nii.gz",
        "case_0002.nii.gz",
    ]


def test_another_modality_by_flag(tmp_path, run):
    written(mr())(tmp_path / "a.nrrd")
    flags = {"input": tmp_path / "a.nrrd", "output": tmp_path / "labels.nrrd"}
    lines, _ = run(2, **flags)
    assert lines[0].endswith("; --any_modality segments it all the same")
    lines, _ = run(0, any_modality=True, **flags)
    assert len(lines) == 1 and lines[0].startswith(f"warning: {tmp_path / 'a.nrrd'}: expected CT")
    assert (tmp_path / "labels.nrrd").is_file()


@pytest.mark.parametrize(
    ("array", "low", "message"),
    [
        (ct(), -100, None),
        # A tilted stack is resampled into a box whose corners hold a padding of its own.
        (np.where(ct() < -900, -3024, ct()), -100, None),
        # A crop of an organ has no fat in it.
        (np.clip(ct(), 30, 120), -100, "with neither air nor fat"),
        # Neither has a brain without its skull, for which the window tells.
        (np.clip(ct((50, 60, 60)), 0, 300), 0, "with neither air nor fat"),
        (ct((1, 8, 7)), -100, r"found a single slice: \(1, 8, 7\)"),
        (np.full((9, 8, 7, 1), 5.0), -100, "expected a scan, found 5 everywhere in CT"),
    ],
)
def test_doubts(array, low, message):
    info = helpers.info(intensity=Intensity("window", (low,), (300.0,)))
    doubts = scan_check.check(Volume(array, (2.0, 1.0, 1.0)), info, "a.nrrd")
    assert len(doubts) == (message is not None)
    for doubt in doubts:
        with pytest.raises(InputError, match=f"^a.nrrd: .*{message}"):
            raise InputError(doubt)


def mr_info(**provenance):
    info = helpers.info(channels=("T1",), intensity=Intensity("zscore"))
    return dataclasses.replace(info, provenance=provenance)


@pytest.mark.parametrize(
    ("array", "provenance", "message"),
    [
        (mr(), {"lowest_intensities": [0.0]}, None),
        (ct(), {"lowest_intensities": [0.0]}, "no training scan goes below 0; --any_modality"),
        # Older and edited models do not say what they were trained on.
        (ct(), {}, "what looks like CT in Hounsfield units, 2.% of it air$"),
        (ct(), {"lowest_intensities": [None]}, "what looks like CT"),
        (ct(), {"lowest_intensities": "low"}, "what looks like CT"),
        # A channel of CT by another name.
        (ct(), {"lowest_intensities": [-1024.0]}, None),
        # Scores in thousandths.
        (np.where(ct() > 200, 1050, ct()), {"lowest_intensities": [0.0]}, "looks .* below 0$"),
        (np.clip(ct(), 0, 300), {"lowest_intensities": [0.0]}, None),
        (np.where(ct() < -900, -2000, ct()), {"lowest_intensities": [0.0]}, None),
    ],
)
def test_ct_for_a_model_of_mr(array, provenance, message):
    try:
        found = scan_check.check(Volume(array, (2.0, 1.0, 1.0)), mr_info(**provenance), "a.nrrd")
    except InputError as error:
        found = [str(error)]
        assert "--any_modality" in message
    assert len(found) == (message is not None)
    for line in found:
        assert re.search(f"^a.nrrd: expected T1, found .*{message}", line)


@pytest.mark.skipif(not (DATA / "ct").is_dir(), reason="no real scans at hand")
@pytest.mark.parametrize(
    ("pattern", "is_ct"),
    [
        ("ct/example_ct.nii.gz", True),
        ("ct/dicom_series", True),
        ("ct/cropped/aorta_ct.nii.gz", True),
        ("ct/example_mr.nii.gz", False),
        ("brain_tumour/imagesTr/*_0000.nii.gz", False),
        ("hippocampus/imagesTr/*[05].nii.gz", False),
        ("left_atrium/imagesTr/*0.nii.gz", False),
        ("nrrd/*_image.nrrd", False),
    ],
)
def test_real_scans(pattern, is_ct):
    found = sorted(DATA.glob(pattern))
    assert found
    for path in found:
        volume = volume_io.read(path)
        try:
            doubts = scan_check.check(volume, helpers.info(), path)
        except InputError as error:
            doubts = [str(error)]
        assert bool(doubts) != is_ct, path
        first = volume.with_array(volume.array[..., :1])
        if is_ct:
            with pytest.raises(InputError, match="expected T1, found what looks like CT"):
                scan_check.check(first, mr_info(lowest_intensities=[0.0]), path)
        else:
            assert not scan_check.check(first, mr_info(lowest_intensities=[0.0]), path)


def test_a_kill_leaves_whole_files_alone(tmp_path):
    code = (
        "import sys, numpy as np\n"
        "from tl3d_keras import volume_io\n"
        "from tl3d_keras.volumes import Volume\n"
        "rng = np.random.default_rng(0)\n"
        "array = rng.integers(0, 5, (60, 60, 60, 1)).astype(np.uint8)\n"
        "for number in range(10**6):\n"
        "    volume_io.write(f'{sys.argv[1]}/{number % 3}.nii.gz', Volume(array, (1, 1, 1)))\n"
        "    print(number, flush=True)\n"
    )
    for delay in (0.001, 0.01, 0.02):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
        )
        with child:
            child.stdout.readline()
            time.sleep(delay)
            child.send_signal(signal.SIGKILL)
        assert child.returncode == -signal.SIGKILL
        files = [p for p in tmp_path.iterdir() if not p.name.startswith(".")]
        assert files
        for path in files:
            assert volume_io.read_labels(path).shape == (60, 60, 60)
    # The next to write there removes what the killed ones left.
    volume_io.write(tmp_path / "0.nii.gz", Volume(np.zeros((2, 2, 2, 1), np.uint8), (1, 1, 1)))
    assert not list(tmp_path.glob(".*"))
