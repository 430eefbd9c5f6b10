"""Cases of every layout on the records' grid, and through the command."""

from pathlib import Path

import numpy as np
import pytest

from data_tools import case_reader, layouts, shard
from tl3d_keras import manifest, volume_io
from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError
from tl3d_keras.volumes import Volume

SHAPE = (6, 8, 8)


def write(path: Path, array: np.ndarray) -> None:
    volume_io.write(path, Volume(array[..., None], (1.0, 1.0, 1.0)))


@pytest.fixture
def total(tmp_path, rng) -> Path:
    """A TotalSegmentator folder: liver in both cases, spleen looked for in the second alone."""
    folder = tmp_path / "set"
    for case, structures in (("s0", ("liver",)), ("s1", ("liver", "spleen"))):
        write(folder / case / "ct.nii.gz", rng.integers(-100, 200, SHAPE).astype(np.int16))
        for number, name in enumerate(structures):
            mask = np.zeros(SHAPE, np.uint8)
            mask[1:3, 4 * number : 4 * number + 4] = 1
            write(folder / case / f"segmentations/{name}.nii.gz", mask)
    return folder


def test_totalsegmentator(total):
    data_set = layouts.read_layout(total, ["spleen", "liver"])
    cases = [case_reader.read_case(s, data_set, (1.0, 1.0, 1.0)) for s in data_set.cases]
    assert [case.annotated for case in cases] == [("liver",), ("spleen", "liver")]
    expected = np.zeros(SHAPE)
    expected[1:3, :4] = 2
    np.testing.assert_array_equal(cases[0].labels, expected)
    expected[1:3, 4:] = 1
    np.testing.assert_array_equal(cases[1].labels, expected)


def test_the_command_passes_everything_on(total, tmp_path, command, capsys):
    command(
        shard,
        dataset_dir=str(total),
        output_dir=str(tmp_path / "out"),
        structures="liver",
        channel_names="portal venous CT",
        annotated="labelled_slices",
        overlap="last",
    )
    written = manifest.load(tmp_path / "out")
    assert written.structures == ["liver"] and written.channels == ["portal venous CT"]
    assert [case.coverage["annotated"]["slices"] for case in written.cases] == [2, 2]
    assert "warning" not in capsys.readouterr().out


def test_doubts_are_printed(total, tmp_path, command, capsys):
    command(shard, dataset_dir=str(total), output_dir=str(tmp_path / "out"))
    warnings = [w for w in capsys.readouterr().out.splitlines() if w.startswith("warning: ")]
    assert len(warnings) == 2
    assert warnings[0].startswith("warning: s0: liver ends as if cut at slice 1, and slice 0 is")


def test_table(tmp_path, rng):
    labels = np.zeros(SHAPE, np.uint8)
    labels[2, 3, 3], mask = 1, np.ones(SHAPE, np.uint8)
    mask[4:] = 0
    for name, array in (("t1", labels * 5), ("t2", labels * 7), ("l", labels), ("m", mask)):
        write(tmp_path / f"{name}.nrrd", array)
    (tmp_path / "cases.csv").write_text(
        "case_id,image,image2,label,annotated_mask\na,t1.nrrd,t2.nrrd,l.nrrd,m.nrrd\n"
    )
    data_set = layouts.read_layout(tmp_path, ["lesion"], ["T1", "T2"])
    case = case_reader.read_case(data_set.cases[0], data_set, (1.0, 1.0, 1.0))
    assert case.image.array.shape == (*SHAPE, 2)
    np.testing.assert_array_equal(case.image.array[2, 3, 3], [5, 7])
    assert case.labels[2, 3, 3] == 1 and (case.labels[4:] == IGNORE).all()
    assert (case.labels[:4] != IGNORE).all()


def test_the_intensities_of_an_oblique_scan_are_without_corners(tmp_path):
    """In the records too, for training takes its z-score from there."""
    array = np.random.default_rng(0).integers(200, 300, SHAPE).astype(np.int16)[..., None]
    turned = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
    means = {}
    for name, direction in (("aslant", turned), ("along", tuple(np.eye(3).ravel()))):
        volume_io.write(
            tmp_path / f"{name}.nrrd", Volume(array, (1.0, 1.0, 1.0), direction=direction)
        )
        (tmp_path / "cases.csv").write_text(f"case_id,image,label\na,{name}.nrrd,\n")
        data_set = layouts.read_layout(tmp_path, ["lesion"], ["MR"])
        case = case_reader.read_case(data_set.cases[0], data_set, (1.0, 1.0, 1.0))
        means[name] = case.image.array.mean()
        assert case.intensity[0]["mean"] == pytest.approx(array.mean())
        assert case.intensity[0]["std"] == pytest.approx(array.std())
    assert means["aslant"] < means["along"] - 5


def test_overlap_names_its_flag(total, tmp_path, command):
    write(total / "s1/segmentations/heart.nii.gz", np.ones(SHAPE, np.uint8))
    with pytest.raises(InputError, match="liver.nii.gz: .* 64 voxels of .*heart.nii.gz too"):
        command(shard, dataset_dir=str(total), output_dir=str(tmp_path / "out"))
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
