"""Phantoms: anatomy that is plausible, consistent, and too hard for a threshold."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from data_tools.layouts import read_layout
from data_tools.phantoms import primitives
from data_tools.phantoms.anatomy import generate
from data_tools.phantoms.annotation import select, sparsify
from tl3d_keras.paper import STRUCTURES

ROOT = Path(__file__).resolve().parents[1]
NUMBER = {name: number for number, name in enumerate(STRUCTURES, start=1)}
TINY = (48, 40, 48), (8.0, 8.0, 8.0)

# Where the median HU of a structure may lie over all contrast phases.
MEDIAN_HU = {
    "aorta": (20, 420),
    "bladder": (-25, 40),
    "duodenum": (-40, 110),
    "gallbladder": (-30, 70),
    "heart": (20, 300),
    "inferior_vena_cava": (10, 220),
    "left_adrenal_gland": (-50, 140),
    "left_kidney": (0, 260),
    "left_lung": (-910, -550),
    "left_psoas_major": (30, 90),
    "liver": (30, 150),
    "pancreas": (-20, 150),
    "portal_vein_and_splenic_vein": (10, 260),
    "right_adrenal_gland": (-50, 140),
    "right_kidney": (0, 260),
    "right_lung": (-910, -550),
    "right_psoas_major": (30, 90),
    "spinal_cord": (10, 90),
    "spleen": (20, 190),
    "sternum": (100, 700),
    "stomach": (-1020, 110),
    "trachea": (-1020, -600),
}


@pytest.fixture(scope="module")
def cases():
    """Five cases at 6 mm."""
    return [generate(seed, (64, 54, 64), (6.0, 6.0, 6.0)) for seed in range(5)]


def centers(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Centre of mass (z, y, x) in voxels of every structure that is there."""
    present = [number for number in NUMBER.values() if (labels == number).any()]
    found = ndimage.center_of_mass(np.ones_like(labels), labels, present)
    return {STRUCTURES[n - 1]: np.array(c) for n, c in zip(present, found, strict=True)}


def test_structures_are_the_22_of_the_paper_in_order():
    assert len(STRUCTURES) == 22
    assert list(STRUCTURES) == sorted(STRUCTURES)
    assert (STRUCTURES[0], STRUCTURES[10], STRUCTURES[21]) == ("aorta", "liver", "trachea")


def test_a_seed_makes_one_case_and_another_seed_another():
    first, again, other = (generate(seed, *TINY) for seed in (3, 3, 4))
    for made, remade, differs in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(made, remade)
        assert (made != differs).mean() > 0.01
    image, labels = first
    assert (image.dtype, labels.dtype) == (np.int16, np.uint8)
    assert image.shape == labels.shape == TINY[0]


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        TINY,
        ((96, 80, 96), (4.0, 4.0, 4.0)),
        ((40, 64, 64), (10.0, 6.0, 6.0)),
        ((90, 50, 60), (8.0, 8.0, 8.0)),
        ((40, 50, 40), (10.0, 6.0, 6.0)),
    ],
)
def test_every_structure_is_inside_and_in_one_piece(shape, spacing):
    for seed in (0, 1):
        _, labels = generate(seed, shape, spacing)
        present = {STRUCTURES[n - 1] for n in np.unique(labels) if n}
        assert present | {"gallbladder"} == set(STRUCTURES)
        for name in present:
            _, parts = ndimage.label(labels == NUMBER[name], structure=np.ones((3, 3, 3)))
            assert parts == 1, name
        inner = np.zeros_like(labels)
        inner[1:-1, 1:-1, 1:-1] = labels[1:-1, 1:-1, 1:-1]
        cut = {STRUCTURES[n - 1] for n in np.unique(labels[inner != labels])}
        # Windpipe and cord leave the field of view through the neck.
        assert cut <= {"trachea", "spinal_cord"}


def test_some_patients_have_no_gallbladder():
    missing = [
        not (generate(seed, (24, 20, 24), (16.0,) * 3)[1] == NUMBER["gallbladder"]).any()
        for seed in range(40)
    ]
    assert 1 <= sum(missing) <= 14


def test_sides_and_heights_are_those_of_a_patient_in_lps(cases):
    for _, labels in cases:
        place = centers(labels)
        z, y, x = ({name: center[k] for name, center in place.items()} for k in range(3))
        for organ in ("adrenal_gland", "kidney", "lung", "psoas_major"):
            assert x[f"right_{organ}"] + 3 < x["spinal_cord"] < x[f"left_{organ}"] - 3
        assert x["liver"] < x["spinal_cord"] < x["stomach"] < x["spleen"]
        assert x["inferior_vena_cava"] < x["aorta"]
        assert x["spinal_cord"] < x["heart"]
        assert y["sternum"] < y["heart"] < y["aorta"] + 9 < y["spinal_cord"] + 9
        assert y["bladder"] < y["spinal_cord"]
        assert z["bladder"] < z["right_psoas_major"] < z["right_kidney"] < z["liver"]
        assert z["liver"] < z["heart"] < z["trachea"]
        assert z["right_kidney"] < z["right_adrenal_gland"] < z["right_lung"]


def test_proportions_are_human(cases):
    for _, labels in cases:
        size = np.bincount(labels.ravel(), minlength=23)
        liver = size[NUMBER["liver"]]
        for name, least, most in (
            ("right_lung", 1.1, 2.4), ("left_lung", 0.9, 2.2), ("spleen", 0.05, 0.25),
            ("left_kidney", 0.05, 0.22), ("heart", 0.22, 0.65), ("aorta", 0.08, 0.28),
            ("pancreas", 0.01, 0.08), ("stomach", 0.12, 0.55),
        ):  # fmt: skip
            assert least < size[NUMBER[name]] / liver < most, name


def test_hu_are_plausible(cases):
    for image, labels in cases:
        for name, (least, most) in MEDIAN_HU.items():
            inside = image[labels == NUMBER[name]]
            if inside.size:
                assert least < np.median(inside) < most, name
        assert np.median(image[labels == 0]) > -1100
        assert image.min() >= -1024


def test_contrast_phase_noise_and_breath_vary():
    images = [generate(seed, *TINY) for seed in range(8)]
    aorta = [np.median(image[labels == NUMBER["aorta"]]) for image, labels in images]
    lung = [np.median(image[labels == NUMBER["right_lung"]]) for image, labels in images]
    noise = [image[-4:, :4].std() for image, _ in images]
    assert np.ptp(aorta) > 80
    assert np.ptp(lung) > 40
    assert max(noise) > 1.5 * min(noise)


def test_no_interval_of_hu_segments_a_structure(cases):
    """The best single interval over all cases stays below a mean Dice of 0.5."""
    edges = np.concatenate([np.arange(-1030, -200, 15), np.arange(-200, 350, 5), [450, 800, 3100]])
    counts = np.array(
        [
            [np.histogram(image[labels == n], edges)[0] for n in range(23)]
            for image, labels in cases
        ],
        float,
    )
    below = np.concatenate([np.zeros((*counts.shape[:2], 1)), counts.cumsum(axis=2)], axis=2)
    # In [case, label, low, high]: the voxels of a label from edge `low` to edge `high`.
    within = np.maximum(below[:, :, None, :] - below[:, :, :, None], 0.0)
    chosen = within.sum(axis=1)
    for name, number in NUMBER.items():
        total = counts[:, number].sum(axis=1)[:, None, None]
        with_it = total[:, 0, 0] > 0
        dice = (2.0 * within[:, number] / np.maximum(chosen + total, 1.0))[with_it]
        assert 0.0 < dice.mean(axis=0).max() < 0.5, name


@pytest.mark.parametrize(
    ("slices", "structures", "kept_slices", "kept_structures"),
    [(1.0, 1.0, 48, 22), (0.25, 0.5, 12, 11), (0.0, 0.0, 1, 1), (0.5, 1.0, 24, 22)],
)
def test_sparsify_keeps_the_asked_share(slices, structures, kept_slices, kept_structures):
    labels = generate(0, *TINY)[1]
    before = labels.copy()
    sparse, names = sparsify(labels, np.random.default_rng(5), slices, structures, STRUCTURES)
    np.testing.assert_array_equal(labels, before)
    assert sparse.dtype == np.uint8
    ignored = (sparse == 255).all(axis=(1, 2))
    np.testing.assert_array_equal(ignored, (sparse == 255).any(axis=(1, 2)))
    assert (~ignored).sum() == kept_slices
    assert len(names) == kept_structures and names == sorted(set(names))
    kept = np.isin(labels, [NUMBER[name] for name in names])
    np.testing.assert_array_equal(sparse[~ignored], np.where(kept, labels, 0)[~ignored])


def test_select_numbers_the_named_structures():
    labels = generate(0, *TINY)[1]
    chosen = select(labels, ("spleen", "liver"), STRUCTURES)
    np.testing.assert_array_equal(chosen == 1, labels == NUMBER["spleen"])
    np.testing.assert_array_equal(chosen == 2, labels == NUMBER["liver"])
    assert set(np.unique(chosen)) == {0, 1, 2}


def test_sparsify_draws_anew_for_every_case():
    labels = generate(0, *TINY)[1]
    drawn = [
        sparsify(labels, np.random.default_rng(seed), 0.3, 0.3, STRUCTURES) for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(drawn[0][0], drawn[1][0])
    assert drawn[0][1] == drawn[1][1] != drawn[2][1]
    assert (drawn[0][0] != drawn[2][0]).any()


def test_every_solid_fits_its_ball_and_has_a_sound_distance():
    axis = np.linspace(-1.2, 1.2, 61)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij")).astype(np.float32)
    radius = np.sqrt((points**2).sum(axis=0))
    for kind, distance in primitives.SOLIDS.items():
        found = distance(points)
        assert 0.8 < radius[found < 0].max() <= 1.0, kind
        slope = np.sqrt(sum(part**2 for part in np.gradient(found, axis[1] - axis[0])))
        assert 0.8 < np.median(slope[np.abs(found) < 0.05]) < 1.35, kind


def test_primitives_are_seeded_and_have_a_look_by_kind():
    shape, spacing = (40, 40, 40), (2.0, 1.0, 1.0)
    (image, labels), again, other = (primitives.generate(n, shape, spacing) for n in (3, 3, 4))
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(labels, again[1])
    assert image.dtype == np.int16 and (labels != other[1]).any()
    cases = [primitives.generate(n, (64, 64, 64), (1.0, 1.0, 1.0)) for n in range(6)]
    means = [
        [image[labels == kind].mean() for image, labels in cases if (labels == kind).sum() > 50]
        for kind in range(1, 1 + len(primitives.STRUCTURES))
    ]
    assert all(len(values) >= 3 for values in means)
    between = np.std([np.mean(values) for values in means])
    assert between > 3 * np.mean([np.std(values) for values in means])


def phantom_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command as a user does; its flags are global, so it gets a process of its own."""
    line = [sys.executable, "-W", "error", "-m", "data_tools.phantom", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120)


def make(folder: Path, *arguments: str) -> dict:
    size = ("--shape=24,20,22", "--spacing=16,15,14")
    done = phantom_command(f"--output_dir={folder}", *size, *arguments)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return json.loads((folder / "dataset.json").read_text())


def test_command_writes_a_fully_annotated_data_set(tmp_path):
    folder = tmp_path / "new" / "phantoms"
    content = make(folder, "--num_cases=2")
    assert content["labels"] == {"background": 0, **NUMBER}
    assert content["channel_names"] == {"0": "CT"}
    assert (content["numTraining"], content["file_ending"]) == (2, ".nii.gz")
    assert "annotated_labels" not in content
    image = sitk.ReadImage(str(folder / "imagesTr/phantom_001_0000.nii.gz"))
    labels = sitk.ReadImage(str(folder / "labelsTr/phantom_001.nii.gz"))
    for file, kind in ((image, "16-bit signed integer"), (labels, "8-bit unsigned integer")):
        assert file.GetSize() == (22, 20, 24)
        np.testing.assert_allclose(file.GetSpacing(), (14, 15, 16))
        np.testing.assert_allclose(file.GetDirection(), np.eye(3).ravel())
        assert file.GetPixelIDTypeAsString() == kind
    assert sitk.GetArrayFromImage(labels).max() <= 22
    assert [path.name for path in folder.parent.iterdir()] == ["phantoms"]
    assert read_layout(folder).structures == STRUCTURES


def test_command_writes_sparse_annotation_the_nnunet_way(tmp_path):
    sparse = ("--annotated_slices=0.25", "--annotated_structures=0.5")
    content = make(tmp_path / "sparse", "--num_cases=2", "--seed=4", *sparse)
    assert content["labels"]["ignore"] == 23
    assert {len(names) for names in content["annotated_labels"].values()} == {11}
    for case_id, names in content["annotated_labels"].items():
        file = tmp_path / "sparse" / f"labelsTr/{case_id}.nii.gz"
        labels = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
        assert (labels == 23).all(axis=(1, 2)).sum() == 18
        assert set(np.unique(labels)) <= {0, 23, *(NUMBER[name] for name in names)}


def test_command_writes_primitives(tmp_path):
    content = make(tmp_path / "solids", "--num_cases=1", "--content=primitives")
    assert list(content["labels"]) == ["background", *primitives.STRUCTURES]
    assert content["channel_names"] == {"0": "primitives"}
    some = make(tmp_path / "some", "--num_cases=1", "--content=primitives", "--structures=ring,box")
    assert some["labels"] == {"background": 0, "ring": 1, "box": 2}


def test_a_case_depends_on_seed_and_number_alone(tmp_path):
    make(tmp_path / "one", "--num_cases=1")
    make(tmp_path / "two", "--num_cases=2", "--annotated_slices=0.5")
    make(tmp_path / "other", "--num_cases=1", "--seed=1")
    images = [
        sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"{name}_0000.nii.gz")))
        for name in (
            "one/imagesTr/phantom_000", "two/imagesTr/phantom_000",
            "two/imagesTr/phantom_001", "other/imagesTr/phantom_000",
        )
    ]  # fmt: skip
    np.testing.assert_array_equal(images[0], images[1])
    assert (images[0] != images[2]).any() and (images[0] != images[3]).any()


def test_command_replaces_a_data_set_only_if_told_to(tmp_path):
    (tmp_path / "old.txt").write_text("mine")
    done = phantom_command(f"--output_dir={tmp_path}", "--num_cases=1")
    assert done.returncode == 2 and "--overwrite" in done.stderr
    assert (tmp_path / "old.txt").exists()
    make(tmp_path, "--num_cases=1", "--overwrite")
    assert not (tmp_path / "old.txt").exists()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--shape=96,80", "three whole numbers"),
        ("--shape=96,8,96", "at least 16"),
        ("--spacing=4,0,4", "three positive numbers"),
        ("--spacing=4,nan,4", "three positive numbers"),
        ("--annotated_slices=1.5", r"annotated_slices=1.5"),
        ("--annotated_structures=nan", "expected a finite number, found nan"),
        ("--num_cases=0", "num_cases=0"),
        ("--structures=ring", "liver"),
    ],
)
def test_a_bad_flag_is_one_line_and_status_2(tmp_path, flag, message):
    done = phantom_command(f"--output_dir={tmp_path / 'out'}", flag)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
