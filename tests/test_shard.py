"""From a folder of medical files to records, or to one line and nothing written."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from helpers import make_shards

from data_tools import case_pool, case_reader, flag_values, shard
from data_tools.reading import ReadOptions
from tl3d_keras import manifest, stored_case, volume_io
from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError
from tl3d_keras.stored_case import StoredCase
from tl3d_keras.volumes import Volume

ROOT = Path(__file__).resolve().parents[1]
SHAPE, SPACING = (6, 5, 4), (2.0, 1.0, 1.5)
PARTIAL = ReadOptions(partial_labels=True)
LABELS = {"background": 0, "liver": 1, "spleen": 2}


class Folder:
    """A data set folder that the tests fill case by case."""

    def __init__(self, path: Path, suffix: str = ".nrrd", **content) -> None:
        self.path, self.suffix = path, suffix
        self.content = {"modality": {"0": "CT"}, "labels": LABELS, "training": [], **content}
        self.rng = np.random.default_rng(3)
        self.save()

    def save(self) -> None:
        self.path.mkdir(exist_ok=True)
        (self.path / "dataset.json").write_text(json.dumps(self.content))

    def image(self, name: str, array: np.ndarray | None = None, **grid) -> str:
        if array is None:
            array = self.rng.integers(-100, 200, SHAPE).astype(np.int16)
        array = array[..., np.newaxis] if array.ndim == 3 else array
        volume = Volume(array, **{"spacing": SPACING, **grid})
        volume_io.write(self.path / f"{name}{self.suffix}", volume)
        return f"{name}{self.suffix}"

    def add(self, name: str, labels: np.ndarray | None, image: np.ndarray | None = None, **grid):
        entry = {"image": self.image(name, image)}
        if labels is not None:
            entry["label"] = self.image(f"{name}-label", labels, **grid)
        self.content["training"].append(entry)
        self.save()


def sparse(*slices: int) -> np.ndarray:
    """Labels of which these axial slices are annotated, with three voxels of liver in each."""
    labels = np.full(SHAPE, IGNORE, np.uint8)
    for z in slices:
        labels[z] = 0
        labels[z, 1, :3] = 1
    return labels


def stored(folder: Path) -> dict[str, StoredCase]:
    found = manifest.load(folder)
    return {case.case_id: stored_case.read(folder, found, case) for case in found.cases}


@pytest.fixture
def dataset(tmp_path) -> Folder:
    """Three cases: two slices annotated, fully annotated with a spleen, and unlabelled."""
    folder = Folder(tmp_path / "set")
    folder.add("sparse", sparse(1, 4))
    full = np.zeros(SHAPE, np.uint8)
    full[2:4, 2, 2] = 2
    full[0, 0, :2] = 1
    folder.add("full", full)
    folder.content["training"].append(folder.image("unlabelled"))
    folder.save()
    return folder


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_decathlon_to_records(tmp_path, suffix):
    folder = Folder(tmp_path / "set", suffix)
    image = folder.rng.integers(-100, 200, SHAPE).astype(np.int16)
    folder.add("a", sparse(1, 4), image)
    written = make_shards(folder.path, tmp_path / "out")
    _, volume, labels, annotated = stored(tmp_path / "out")["a"]
    np.testing.assert_array_equal(volume.array[..., 0], image)
    np.testing.assert_array_equal(labels, sparse(1, 4))
    assert volume.spacing == pytest.approx(SPACING)
    assert written.structures == ["liver", "spleen"] and written.channels == ["CT"]
    assert written.spacing == pytest.approx(SPACING)
    assert annotated == (1, 2)
    inside = image[labels == 1]
    found = written.cases[0].foreground[0]
    assert found.percentile(50) == np.median(inside)
    assert found.percentile(99.5) == pytest.approx(np.percentile(inside, 99.5))
    statistics = written.cases[0].intensity[0]
    assert (statistics["minimum"], statistics["maximum"]) == (image.min(), image.max())


def test_nnunet_to_records(tmp_path):
    folder = Folder(
        tmp_path / "set",
        ".nii.gz",
        channel_names={"0": "T1", "1": "T2"},
        labels={"background": 0, "liver": 1, "spleen": 2, "ignore": 3},
    )
    (folder.path / "imagesTr").mkdir()
    (folder.path / "labelsTr").mkdir()
    first, second = (folder.rng.normal(size=SHAPE).astype(np.float32) for _ in range(2))
    folder.image("imagesTr/p_0000", first)
    folder.image("imagesTr/p_0001", second)
    labels = sparse(2)
    folder.image("labelsTr/p", np.where(labels == IGNORE, 3, labels).astype(np.uint8))
    make_shards(folder.path, tmp_path / "out")
    _, volume, found, _ = stored(tmp_path / "out")["p"]
    np.testing.assert_array_equal(volume.array, np.stack([first, second], -1))
    np.testing.assert_array_equal(found, labels)


def test_every_case_comes_upright_and_to_one_spacing(tmp_path):
    folder = Folder(tmp_path / "set")
    flipped = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    image = np.zeros(SHAPE, np.int16)
    image[:, :, 0] = 100
    name = folder.image("a", image, direction=flipped)
    label = folder.image("a-label", (image // 100).astype(np.uint8), direction=flipped)
    folder.content["training"].append({"image": name, "label": label})
    folder.save()
    make_shards(folder.path, tmp_path / "out", spacing=(1.0, 1.0, 1.5))
    _, volume, labels, _ = stored(tmp_path / "out")["a"]
    assert volume.array.shape == (12, 5, 4, 1) and volume.spacing == (1.0, 1.0, 1.5)
    assert volume.direction == pytest.approx(np.eye(3).ravel())
    expected = np.zeros((12, 5, 4))
    expected[:, :, -1] = 1
    np.testing.assert_array_equal(volume.array[..., 0], 100 * expected)
    np.testing.assert_array_equal(labels, expected)


def test_default_spacing_is_the_median(tmp_path):
    folder = Folder(tmp_path / "set")
    for name, spacing in (("a", (1.0, 1.0, 1.0)), ("b", (2.0, 1.0, 3.0)), ("c", (5.0, 2.0, 2.0))):
        folder.content["training"].append(folder.image(name, spacing=spacing))
    folder.save()
    written = make_shards(folder.path, tmp_path / "out")
    assert written.spacing == (2.0, 1.0, 2.0)
    assert not any(case.foreground for case in written.cases)


def test_slices_and_voxels_are_printed(dataset, tmp_path, command, capsys):
    command(shard, dataset_dir=str(dataset.path), output_dir=str(tmp_path / "out"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 cases, 2 structures, spacing 2, 1, 1.5 mm (z, y, x)"
    assert lines[1:4] == [
        "sparse: annotated 2 of 6 slices, 40 voxels (33.3%): "
        "liver 2 slices 6 voxels; spleen 0 slices 0 voxels",
        "full: annotated 6 of 6 slices, 120 voxels (100.0%): "
        "liver 1 slices 2 voxels; spleen 2 slices 2 voxels",
        "unlabelled: annotated 0 of 6 slices, 0 voxels (0.0%): no labels",
    ]
    assert [line.split() for line in lines[5:7]] == [
        ["liver", "2", "2", "3", "8"],
        ["spleen", "2", "1", "2", "2"],
    ]


def test_unlabelled_case(dataset, tmp_path):
    written = make_shards(dataset.path, tmp_path / "out")
    case = stored(tmp_path / "out")["unlabelled"]
    assert case.annotated == ()
    assert written.cases[2].annotated_structures == []
    assert not written.is_fully_labelled(written.cases[2])
    assert (case.labels == IGNORE).all()


def test_annotated_labels(dataset, tmp_path):
    dataset.content["annotated_labels"] = {"sparse": ["liver"]}
    dataset.save()
    written = make_shards(dataset.path, tmp_path / "out")
    assert written.cases[0].annotated_structures == ["liver"]
    assert [written.is_fully_labelled(case) for case in written.cases] == [False, True, False]
    assert stored(tmp_path / "out")["sparse"].annotated == (1,)


def test_small_shards(dataset, tmp_path):
    written = make_shards(dataset.path, tmp_path / "out", shard_bytes=1)
    names = [f"shard-0000{number}.tfrecord" for number in range(3)]
    assert [entry.file for entry in written.shards] == names
    assert [case.shard for case in written.cases] == [0, 1, 2]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["manifest.json", *names]
    assert list(stored(tmp_path / "out")) == ["sparse", "full", "unlabelled"]
    manifest.verify(written, tmp_path / "out")
    # Enough for two cases of 120 voxels, were they float32.
    two = make_shards(dataset.path, tmp_path / "two", shard_bytes=10_000)
    assert [case.shard for case in two.cases] == [0, 0, 1]
    assert max(entry.bytes for entry in two.shards) <= 10_000


def test_offsets_lead_to_the_records(dataset, tmp_path):
    import tensorflow as tf

    written = make_shards(dataset.path, tmp_path / "out")
    assert len(written.shards) == 1
    file = tmp_path / "out" / written.shards[0].file
    whole = [record.numpy() for record in tf.data.TFRecordDataset(str(file))]
    assert whole == [file.read_bytes()[c.offset : c.offset + c.bytes] for c in written.cases]


def test_zlib_holds_the_same(dataset, tmp_path):
    dataset.add("even", sparse(0), np.zeros(SHAPE, np.int16))
    raw = make_shards(dataset.path, tmp_path / "raw")
    small = make_shards(dataset.path, tmp_path / "zlib", encoding="zlib")
    assert small.cases[3].bytes < raw.cases[3].bytes
    same = zip(stored(tmp_path / "raw").values(), stored(tmp_path / "zlib").values(), strict=True)
    for first, second in same:
        np.testing.assert_array_equal(first.image.array, second.image.array)
        np.testing.assert_array_equal(first.labels, second.labels)
        assert first.annotated == second.annotated


def test_two_workers_write_the_same_bytes(dataset, tmp_path, monkeypatch):
    make_shards(dataset.path, tmp_path / "one", workers=1)
    monkeypatch.setattr(case_pool, "_MIN_VOXELS_FOR_POOL", 0)
    # What this process reads itself would show.
    monkeypatch.setattr(case_reader, "read_case", None)
    make_shards(dataset.path, tmp_path / "two", workers=2)
    for file in sorted((tmp_path / "one").iterdir()):
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_partial_labels(dataset, tmp_path):
    box = np.zeros((2, 3, 2), np.uint8)
    box[1, 1, 1] = 2
    # Voxel (3, 1, 2) of the image.
    dataset.add("boxed", box, origin=(3.0, 1.0, 6.0))
    with pytest.raises(InputError, match="boxed-label.nrrd: expected the shape"):
        make_shards(dataset.path, tmp_path / "out")
    make_shards(dataset.path, tmp_path / "out", PARTIAL)
    expected = np.full(SHAPE, IGNORE)
    expected[3:5, 1:4, 2:4] = box
    cases = stored(tmp_path / "out")
    np.testing.assert_array_equal(cases["boxed"].labels, expected)
    np.testing.assert_array_equal(cases["sparse"].labels, sparse(1, 4))


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (
            {"origin": (3.0, 1.0, 10.0)},
            r"expected a box of whole voxels inside .*\[5, 1, 2\] to \[7, ",
        ),
        ({"origin": (-1.5, 0.0, 0.0)}, "expected a box of whole voxels inside"),
        ({"origin": (0.7, 0.0, 0.0)}, "expected a box of whole voxels inside"),
        ({"spacing": (1.0, 1.0, 1.5)}, "expected the spacing of"),
    ],
)
def test_partial_labels_off_the_grid(dataset, tmp_path, grid, message):
    dataset.add("boxed", np.zeros((2, 3, 2), np.uint8), **grid)
    with pytest.raises(InputError, match=f"boxed-label.nrrd: {message}"):
        make_shards(dataset.path, tmp_path / "out", PARTIAL)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def shifted_label(folder: Folder) -> None:
    folder.add("bad", sparse(1), origin=(0.0, 0.0, 1.0))


def misshapen_label(folder: Folder) -> None:
    folder.add("bad", sparse(1)[:-1])


def not_a_number(folder: Folder) -> None:
    image = np.zeros(SHAPE, np.float32)
    image[0, 0, 0] = np.nan
    folder.add("bad", sparse(1), image)


def undeclared_value(folder: Folder) -> None:
    folder.add("bad", np.where(sparse(1) == 1, 7, 0).astype(np.uint8))


def undeclared_structure(folder: Folder) -> None:
    folder.content["annotated_labels"] = {"bad": ["spleen"]}
    folder.add("bad", sparse(1))


def half_label(folder: Folder) -> None:
    folder.add("bad", np.full(SHAPE, 0.5, np.float32))


def empty_image(folder: Folder) -> None:
    folder.add("bad", sparse(1))
    (folder.path / f"bad{folder.suffix}").write_bytes(b"")


def empty_label(folder: Folder) -> None:
    folder.add("bad", sparse(1))
    (folder.path / f"bad-label{folder.suffix}").write_bytes(b"")


def garbage(folder: Folder) -> None:
    folder.add("bad", sparse(1))
    (folder.path / f"bad{folder.suffix}").write_bytes(b"no image" * 99)


def flat_image(folder: Folder) -> None:
    folder.add("bad", sparse(1))
    sitk.WriteImage(sitk.Image(4, 5, sitk.sitkInt16), str(folder.path / f"bad{folder.suffix}"))


def two_channels(folder: Folder) -> None:
    folder.add("bad", sparse(1), np.zeros((*SHAPE, 2), np.int16))


def missing_label(folder: Folder) -> None:
    folder.add("bad", sparse(1))
    (folder.path / f"bad-label{folder.suffix}").unlink()


def outside(folder: Folder) -> None:
    folder.content["training"].append({"image": "../secret.nrrd"})
    folder.save()


BAD = [
    (shifted_label, r"bad-label.nii.gz: expected the origin \(0.0, 0.0, 0.0\) of .*bad.nii.gz"),
    (misshapen_label, r"bad-label.nii.gz: expected the shape \(6, 5, 4\) .* found \(5, 5, 4\)"),
    (not_a_number, "bad.nii.gz: expected finite intensities, found 1 NaN or infinite"),
    (
        undeclared_value,
        r"bad-label.nii.gz: expected the declared label values \[0, 1, 2\] .* found 7",
    ),
    (undeclared_structure, r"bad-label.nii.gz: expected labels .* \(spleen\), found liver"),
    (half_label, "bad-label.nii.gz: expected whole-number labels, found the value 0.5"),
    (empty_image, "bad.nii.gz: expected a medical image, found an empty file"),
    (empty_label, "bad-label.nii.gz: expected a medical image, found an empty file"),
    (garbage, "bad.nii.gz: cannot read: "),
    (flat_image, r"bad.nii.gz: expected a 3D volume, found size \(4, 5\)"),
    (two_channels, r"bad.nii.gz: expected 1 channels \(CT\), found 2"),
    (missing_label, "bad-label.nii.gz: no such file, though .*dataset.json lists it"),
    (outside, "dataset.json: expected files inside .* found '../secret.nrrd'"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD, ids=[spoil.__name__ for spoil, _ in BAD])
def test_bad_data_set(tmp_path, command, capfd, spoil, message):
    folder = Folder(tmp_path / "set", ".nii.gz")
    folder.add("good", sparse(1))
    spoil(folder)
    with pytest.raises(InputError, match=message) as raised:
        command(shard, dataset_dir=str(folder.path), output_dir=str(tmp_path / "out"))
    assert "\n" not in str(raised.value)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_bad_data_set_seen_by_a_worker(dataset, tmp_path, monkeypatch):
    undeclared_value(dataset)
    monkeypatch.setattr(case_pool, "_MIN_VOXELS_FOR_POOL", 0)
    with pytest.raises(InputError, match="bad-label.nrrd: expected the declared label values"):
        make_shards(dataset.path, tmp_path / "out", workers=2)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_exit_code_and_one_line(dataset, tmp_path):
    empty_image(dataset)
    result = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-m",
            "data_tools.shard",
            f"--dataset_dir={dataset.path}",
            f"--output_dir={tmp_path / 'out'}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 2
    assert result.stderr == (
        f"error: {dataset.path / 'bad.nrrd'}: expected a medical image, found an empty file\n"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_command_passes_its_flags_on(dataset, tmp_path, command):
    command(
        shard,
        dataset_dir=str(dataset.path),
        output_dir=str(tmp_path / "out"),
        spacing="4,1,1.5",
        compression="zlib",
        workers=1,
    )
    assert manifest.load(tmp_path / "out").cases[0].shape == (3, 5, 4, 1)
    assert b"zlib" in (tmp_path / "out" / "shard-00000.tfrecord").read_bytes()


@pytest.mark.parametrize(
    "values",
    [
        ["1", "2"],
        ["1", "2", "x"],
        ["1", "0", "1"],
        ["1", "-2", "1"],
        ["1", "nan", "1"],
        ["1", "inf", "1"],
    ],
)
def test_spacing_flag(values):
    assert flag_values.spacing("spacing", ["3", "0.5", "1e0"]) == (3.0, 0.5, 1.0)
    with pytest.raises(InputError, match=f"--spacing: expected three .* found {','.join(values)}$"):
        flag_values.spacing("spacing", values)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_existing_output(dataset, tmp_path):
    out = tmp_path / "out"
    make_shards(dataset.path, out)
    former = contents(out)
    dataset.add("more", sparse(3))
    with pytest.raises(
        InputError,
        match="/out: expected a new or empty folder, found files in it; --overwrite replaces it",
    ):
        make_shards(dataset.path, out)
    assert contents(out) == former
    make_shards(dataset.path, out, overwrite=True)
    assert [case.case_id for case in manifest.load(out).cases][-1] == "more"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "set"]


def test_overwriting_that_fails_leaves_the_former_records(dataset, tmp_path):
    out = tmp_path / "out"
    make_shards(dataset.path, out)
    former = contents(out)
    undeclared_value(dataset)
    with pytest.raises(InputError, match="found 7"):
        make_shards(dataset.path, out, overwrite=True)
    assert contents(out) == former
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "set"]


def test_output_is_a_file(dataset, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match="/out: expected a folder, found a file"):
        make_shards(dataset.path, tmp_path / "out", overwrite=True)
