"""The page of the segment command: what it says, and what a browser shows of it."""

import io
import re
from dataclasses import replace

import browser
import helpers
import numpy as np
import pages
import pytest
import SimpleITK as sitk
from PIL import Image

from experiments import segment
from tl3d_keras import artifact, slice_sheets, slices, volume_io, volume_ranges, volumes
from tl3d_keras.errors import InputError
from tl3d_keras.segmentation_report import SegmentationReport
from tl3d_keras.volume_ranges import VolumeRange
from tl3d_keras.volumes import Volume

NAME = 'a<b> & "c"'
RANGES = {"liver": {"low": 0.1, "high": 0.2, "cases": 7}}


def blocks() -> np.ndarray:
    """Labels [Z, Y, X]: 1 is low, to the left and in front, 2 high, to the right and behind."""
    labels = np.zeros((20, 24, 30), np.uint8)
    labels[2:8, 2:8, 18:28] = 1
    labels[12:18, 14:22, 2:10] = 2
    return labels


def scan(labels: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(scale=15, size=labels.shape)
    return (np.array([-900, 60, 160])[labels] + noise).astype(np.int16)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, two scans that can be read and one that cannot, and references of the first."""
    root = tmp_path_factory.mktemp("segmented")
    info = helpers.info(structures=("liver", NAME))
    info = replace(info, provenance={"data": "0badcafe", volume_ranges.PROVENANCE_KEY: RANGES})
    artifact.save(helpers.network(), info, root / "model")
    for name in ("a", "b"):
        volume_io.write(root / f"scans/{name}.nii.gz", Volume(scan(blocks())[..., None], (2, 1, 1)))
    (root / "scans/c.nii.gz").touch()
    volume_io.write(root / "references/a.nii.gz", Volume(blocks()[..., None], (2, 1, 1)))
    return root


def test_the_page_of_a_folder(made, command, capsys, tmp_path):
    page = tmp_path / "new" / "page.html"
    with pytest.raises(SystemExit):
        command(
            segment,
            model=made / "model",
            input=made / "scans",
            output=tmp_path / "labels",
            report=page,
            reference=made / "references",
        )
    assert f"report: {page}" in capsys.readouterr().out
    assert [p.name for p in page.parent.iterdir()] == ["page.html"]
    text = page.read_text()
    read = pages.Page(text)
    assert not {tag for tag, _ in read.seen} & {"link", "iframe"}
    assert not any("src" in a for tag, a in read.seen if tag == "script")
    assert not re.search(r"https?://|url\(|@import", text)
    assert NAME not in text and NAME in read.words
    assert sum(tag == "canvas" for tag, _ in read.seen) == 6
    for words in (
        "20 × 24 × 30 voxels of 2 × 1 × 1 mm (z, y, x)",
        "0badcafe",
        "2 × 1 × 1 mm (z, y, x)",
        "CT -100 to 300",
        f"model, version 1 ({made / 'model' / '1'})",
        str(tmp_path / "labels/a.nii.gz"),
        "none of this name",
        "no range known",
        "0.1 to 0.2",
    ):
        assert words in read.words
    rows = re.findall(r"<tr><th>(\w)</th>(.*?)</tr>", text)
    assert [name for name, _ in rows] == ["a", "b", "c"]
    assert rows[2][1].endswith("expected a medical image, found an empty file</td>")
    assert re.search(r"<td>0\.\d{3}</td>", rows[0][1]) and "<td>-</td>" in rows[1][1]
    first = volume_io.read_labels(tmp_path / "labels/a.nii.gz").array
    assert f"{np.count_nonzero(first == 2) * 0.002:.3g}</td>" in text


def test_a_reference_on_another_grid(made, command, capsys, tmp_path):
    volume_io.write(tmp_path / "other.nrrd", Volume(blocks()[1:, ..., None], (2, 1, 1)))
    with pytest.raises(SystemExit):
        command(
            segment,
            model=made / "model",
            input=made / "scans/a.nii.gz",
            output=tmp_path / "labels.nrrd",
            report=tmp_path / "page.html",
            reference=tmp_path / "other.nrrd",
        )
    assert "expected the shape (19, 24, 30)" in capsys.readouterr().err
    text = (tmp_path / "page.html").read_text()
    # Once among the problems, and once beside the slices, which are there.
    assert text.count("expected the shape (19, 24, 30)") == 2 and text.count("<canvas") == 3


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("missing", "no such file or folder"),
        ("references/a.nii.gz", "expected a folder for 3 scans, found a file"),
    ],
)
def test_references_that_do_not_fit(made, command, tmp_path, reference, message):
    with pytest.raises(InputError, match=message):
        command(
            segment,
            model=made / "model",
            input=made / "scans",
            output=tmp_path / "labels",
            report=tmp_path / "page.html",
            reference=made / reference,
        )
    assert not any(tmp_path.iterdir())


def report(labels: np.ndarray, **ranges: VolumeRange) -> SegmentationReport:
    """One scan on a page."""
    page = SegmentationReport(["liver", "spleen"], "CT", ranges, [("date", "today")], 1)
    image = Volume(scan(labels)[..., None], (2.0, 1.0, 1.0))
    page.add("scan", image, image.with_array(labels[..., None]))
    return page


def test_the_overview_has_columns_for_what_there_is(tmp_path):
    """A model from before there were ranges has no marks, which is no zero marks."""
    for ranges, note in (({}, ""), ({"liver": VolumeRange(0.5, 0.8, 9)}, "too dark")):
        page = report(blocks(), **ranges)
        if note:
            page.add_note("scan", note)
        page.write(tmp_path / "page.html")
        text = (tmp_path / "page.html").read_text()
        assert "<th>Dice</th>" not in text
        for title in ("marked", "problem"):
            assert (f"<th>{title}</th>" in text) == bool(ranges)
        assert ("no range known: the model has none from training" in text) != bool(ranges)


@pytest.mark.parametrize(
    ("low", "high", "cell"),
    [
        (0.5, 0.8, '<td title="within the known range">0.72</td>'),
        (0.8, 0.9, '<td title="below the known range" class="mark">&#9660; 0.72</td>'),
        (0.5, 0.7, '<td title="above the known range" class="mark">&#9650; 0.72</td>'),
    ],
)
def test_marks(tmp_path, low, high, cell):
    report(blocks(), liver=VolumeRange(low, high, 9)).write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    # 6 x 6 x 10 voxels of 2 mm3.
    assert cell in text
    assert '<td title="no range known">0.768</td><td class="soft">no range known</td>' in text


def test_a_structure_that_is_not_there(tmp_path):
    labels = np.where(blocks() == 1, 0, blocks())
    report(labels, liver=VolumeRange(0.5, 0.8, 9)).write(tmp_path / "page.html")
    assert 'class="mark">&#8709; 0</td>' in (tmp_path / "page.html").read_text()


def test_volumes_of_a_sheared_grid(tmp_path):
    labels = blocks()
    sheared = (1.0, 0.0, 0.0, 0.0, 1.0, 0.6, 0.0, 0.0, 0.8)
    image = Volume(scan(labels)[..., None], (2.0, 1.0, 1.0), (0.0, 0.0, 0.0), sheared)
    page = SegmentationReport(["liver", "spleen"], "CT", {}, [], 1)
    page.add("scan", image, image.with_array(labels[..., None]))
    page.write(tmp_path / "page.html")
    # 0.72 ml, 20 % less high.
    assert ">0.576</td>" in (tmp_path / "page.html").read_text()


def test_a_page_of_many_scans_stays_small(tmp_path):
    labels = np.zeros((90, 100, 110), np.uint8)
    page = SegmentationReport(["liver"], "T1", {}, [], 300)
    image = Volume(np.random.default_rng(0).normal(size=(*labels.shape, 1)), (1.0, 1.0, 1.0))
    page.add("scan", image, image.with_array(labels[..., None]))
    page.write(tmp_path / "page.html")
    # Noise compresses worst of all.
    assert (tmp_path / "page.html").stat().st_size < 900_000


def test_sheets_hold_the_slices_the_right_way_up():
    labels = blocks()
    image = np.where(labels > 0, 100.0, 0.0)
    sheets = slice_sheets.make(image, labels, (2.0, 1.0, 1.0), (0, 100), most_slices=7)
    assert [s.plane.name for s in sheets] == ["axial", "coronal", "sagittal"]
    for sheet in sheets:
        grey = np.asarray(Image.open(io.BytesIO(sheet.grey)))
        values = np.asarray(Image.open(io.BytesIO(sheet.labels)))
        assert grey.shape == values.shape and len(sheet.slices) == 7
        assert sheet.count == labels.shape[sheet.plane.axis]
        assert sheet.slices[sheet.first] == slices.best_slices(labels)[sheet.plane.axis]
        for tile, index in enumerate(sheet.slices):
            top, left = tile // sheet.columns * sheet.height, tile % sheet.columns * sheet.width
            box = np.s_[top : top + sheet.height, left : left + sheet.width]
            expected = np.take(labels, index, sheet.plane.axis)
            if sheet.plane.name != "axial":
                expected = expected[::-1]
            rows, columns = (
                ((np.arange(n) + 0.5) * old / n).astype(int)
                for n, old in zip((sheet.height, sheet.width), expected.shape, strict=True)
            )
            np.testing.assert_array_equal(values[box], expected[np.ix_(rows, columns)])
            # The picture lies where its labels do, but for its blurred edges.
            assert np.mean((grey[box] > 127) != (values[box] > 0)) < 0.02


def test_axes_are_turned_to_the_viewer(tmp_path):
    """A scan stored in another order of axes makes the same page."""
    image = Volume(scan(blocks())[..., None], (2.0, 1.0, 1.0))
    labels = image.with_array(blocks()[..., None])
    pages = []
    for code in ("LPS", "RAI", "SLP"):
        turned = [
            volumes.from_sitk(sitk.DICOMOrient(volumes.to_sitk(v), code)) for v in (image, labels)
        ]
        page = SegmentationReport(["liver", "spleen"], "CT", {}, [], 1)
        page.add("scan", *turned)
        page.write(tmp_path / "page.html")
        pages.append(re.findall('base64,[^"]*', (tmp_path / "page.html").read_text()))
    assert pages[0] == pages[1] == pages[2] and len(pages[0]) == 6


@pytest.mark.skipif(browser.PATH is None, reason=f"none of {', '.join(browser.NAMES)} is installed")
def test_a_browser_shows_slices_in_colour_without_a_complaint(tmp_path):
    report(blocks(), liver=VolumeRange(0.5, 0.6, 9)).write(tmp_path / "page.html")
    (tmp_path / "browser").mkdir()
    shown, said = browser.look(tmp_path / "page.html", tmp_path / "browser")
    assert said == []
    assert shown.shape == (1500, 1400, 3)
    for structure, grey in enumerate((60, 160)):
        colour = 255 * np.array(slices.palette()[structure])
        # Over the noise of the picture, which is brighter for the second.
        level = 255 * np.clip((grey - slices.CT_WINDOW[0]) / np.ptp(slices.CT_WINDOW), 0, 1)
        expected = 0.45 * colour + 0.55 * level
        close = (np.abs(shown.astype(float) - expected) < 25).all(-1)
        # In three planes, at the slices with most of it.
        assert close.sum() > 3000, structure
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 1000
