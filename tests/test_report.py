"""The report page: what is on it, that it is whole and offline, and what it refuses."""

import csv
import html
import json
import re

import numpy as np
import pages
import pytest

from data_tools import case_comparison
from experiments import evaluate, report
from tl3d_keras import overlays, run_report, volume_io
from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError
from tl3d_keras.volumes import Volume
from tl3d_keras.whole_folder import write_file

NAME = 'a<b> & "c"'
RAS = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)


def labels_of(*starts: int) -> np.ndarray:
    """A liver 4 x 2 x 2 from x = start on, in each half along z; the last slice is unannotated."""
    labels = np.zeros((9, 6, 8, 1), np.uint8)
    for index, start in enumerate(starts):
        labels[4 * index : 4 * index + 4, 2:4, start : start + 2] = 1
    labels[8] = IGNORE
    return labels


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data set of four cases, predictions of all but the second, scores, and a run."""
    root = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    names = [f"case_{i}" for i in range(5)]
    for name in names:
        image = rng.normal(100, 20, (9, 6, 8, 1)).astype(np.float32)
        volume_io.write(
            root / f"data/images/{name}.nii.gz", Volume(image, (3, 1, 1), direction=RAS)
        )
        volume_io.write(
            root / f"data/labels/{name}.nii.gz", Volume(labels_of(2, 2), (3, 1, 1), direction=RAS)
        )
        if name != "case_1":
            found = np.where(labels_of(2, 3) == IGNORE, 0, labels_of(2, 3)).astype(np.uint8)
            volume_io.write(root / f"found/{name}.nii.gz", Volume(found, (3, 1, 1), direction=RAS))
    (root / "data/dataset.json").write_text(
        json.dumps(
            {
                "modality": {"0": "MRI"},
                "labels": {"0": "background", "1": NAME},
                "training": [
                    {"image": f"images/{n}.nii.gz", "label": f"labels/{n}.nii.gz"} for n in names
                ],
            }
        )
    )
    (root / "references").mkdir()
    for name in names[:1] + names[2:]:
        source = root / f"data/labels/{name}.nii.gz"
        (root / f"references/{name}.nii.gz").write_bytes(source.read_bytes())
    evaluate.evaluate(root / "found", root / "references", root / "scores", [NAME])
    run = root / "run"
    run.mkdir()
    with (run / "metrics.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [
                ["step", "stage", "dice", "loss", "validation_dice"],
                [10, "scratch", 0.2, 1.5, 0.3],
                [20, "scratch", 0.4, 1, ""],
            ]
        )
    (run / "run.json").write_text(
        json.dumps(
            {
                "settings": {"mode": "scratch", "filters": 8, "data": "0badcafe"},
                "seconds": 123.4,
                "versions": {"tensorflow": "2.99"},
                "precision": "mixed_bfloat16",
                "peak_memory_gib": 1.25,
                "command": ["/somewhere/experiments/train_base.py", "--records_dir=a b"],
                "training_cases": ["x", "y"],
                "validation_cases": ["z"],
                "done": True,
            }
        )
    )
    return root


@pytest.fixture(scope="module")
def page(made):
    """The page with everything; what the command prints is checked apart."""
    scores = {NAME: made / "scores", "again": made / "scores"}
    loaded = {
        name: json.loads((folder / "metrics.json").read_text()) for name, folder in scores.items()
    }
    pictures = case_comparison.compare_cases(made / "data", made / "found", 3)
    return run_report.page(loaded, {NAME: made / "run"}, [("data", pictures)])


def test_page_is_whole_and_needs_no_network(page):
    reader = pages.Page(page)
    tags = {tag for tag, _ in reader.seen}
    assert not tags & {"script", "link", "iframe"}
    sources = [attributes["src"] for tag, attributes in reader.seen if tag == "img"]
    assert len(sources) == 4
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in sources)
    assert not re.search(r"https?://|url\(|@import", page)


def test_scores_are_those_of_the_evaluation(page, made):
    summary = json.loads((made / "scores/metrics.json").read_text())["summary"]
    mean = summary["structures"][NAME]
    assert mean["dice"]["mean"] == pytest.approx(0.75)
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", page.split("<tbody>")[1].split("</tfoot>")[0])
    # By structure and as the mean of the one structure, in both columns.
    assert (
        cells
        == [
            f"{mean['dice']['mean']:.3f}",
            f"{mean['hd95_mm']['mean']:.1f}",
            f"{mean['nsd']['mean']:.3f}",
        ]
        * 4
    )
    assert "mean Dice, 4 cases" in " ".join(pages.Page(page).words)


def test_names_are_escaped(page):
    assert NAME not in page and html.escape(NAME) in page
    assert NAME in pages.Page(page).words


def test_first_cases_with_a_prediction_are_shown(page, made):
    shown = [attributes["alt"] for tag, attributes in pages.Page(page).seen if tag == "img"]
    assert shown == ["case_0", "case_2", "case_3", NAME]
    assert page.count("Mean Dice of this case: 0.750.") == 3


def test_pictures_are_of_reference_and_prediction_in_one_orientation(made, monkeypatch):
    drawn = []
    comparison = overlays.comparison
    monkeypatch.setattr(
        overlays, "comparison", lambda *a, **k: drawn.append(a) or comparison(*a, **k)
    )
    case_comparison.compare_cases(made / "data", made / "found", 1)
    _, arrays, spacing, structures = drawn[0]
    # The files run to the right and front, what is drawn runs to the left and back.
    np.testing.assert_array_equal(arrays["reference"], labels_of(2, 2)[:, ::-1, ::-1, 0])
    annotated = arrays["reference"] != IGNORE
    np.testing.assert_array_equal(
        arrays["prediction"][annotated], labels_of(2, 3)[:, ::-1, ::-1, 0][annotated]
    )
    assert (spacing, structures) == ((3, 1, 1), (NAME,))


def test_provenance(page, made):
    words = pages.Page(page).words
    for expected in (
        "python -m experiments.train_base '--records_dir=a b'",
        "123 s (2.1 min)",
        "mixed_bfloat16",
        "1.25 GiB",
        "2 for training, 1 for validation",
        "mode scratch, filters 8",
        "CRC32C fingerprint 0badcafe",
        "tensorflow 2.99",
    ):
        assert expected in words
    assert "not finished" not in page
    assert f"--base={made / 'run' / 'model'}" in page


def test_command_writes_and_ends_with_the_table(made, command, capsys, tmp_path):
    output = tmp_path / "new" / "report.html"
    command(report, output=output, scores=f"one={made / 'scores'},two={made / 'scores'}")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[-4:]] == [
        ["Dice", "one", "two"],
        [*NAME.split(), "0.7500", "0.7500"],
        ["mean", "0.7500", "0.7500"],
        ["report:", str(output)],
    ]
    text = output.read_text()
    assert "Your own scans" in text and "Training</h2>" not in text
    assert [p.name for p in output.parent.iterdir()] == ["report.html"]


def test_pairs_are_aligned(made, command, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_CASES_SHOWN", 1)
    output = tmp_path / "report.html"
    command(
        report,
        output=output,
        dataset_dir=f"{made / 'data'},{made / 'data'}",
        predictions=f"{made / 'found'},{made / 'data/labels'}",
    )
    captions = re.findall(r"Mean Dice of this case: [0-9.]+", output.read_text())
    assert [c[-6:-1] for c in captions] == ["0.750", "1.000"]


def test_structures_that_one_folder_lacks_are_left_blank():
    def score(**dice):
        structures = {name: {"dice": {"mean": value}} for name, value in dice.items()}
        return {"summary": {"structures": structures, "mean": {"dice": 0.5}}}

    table = run_report.dice_table({"a": score(liver=0.25), "b": score(spleen=None, liver=1)})
    assert [line.split() for line in table] == [
        ["Dice", "a", "b"],
        ["liver", "0.2500", "1.0000"],
        ["spleen", "-", "-"],
        ["mean", "0.5000", "0.5000"],
    ]


def test_means_of_other_structures_are_not_compared():
    def score(**dice):
        structures = {name: {"dice": {"mean": value}} for name, value in dice.items()}
        mean = np.mean([d for d in dice.values() if d is not None])
        means = {"dice": mean, "hd95_mm": None, "nsd": None}
        return {"summary": {"structures": structures, "mean": means}, "cases": {}}

    def bold(**scores):
        rows = (
            run_report.page(scores, {}, []).split("<tbody>")[1].split("</table>")[0].split("</tr>")
        )
        return [re.findall(r'dice( best)?"', row) for row in rows[:-1]]

    same = {"a": score(liver=0.5, spleen=0.9), "b": score(liver=0.6, spleen=0.7)}
    assert bold(**same) == [["", " best"], [" best", ""], [" best", ""]]
    fewer = {"a": score(liver=0.5, spleen=None), "b": score(liver=0.6, spleen=0.1)}
    assert bold(**fewer) == [["", " best"], ["", ""], ["", ""]]


def test_a_failing_write_leaves_the_former_page(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("former")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(InputError, match="report.html: cannot write: No space left"):
        write_file(path, b"new")
    assert path.read_text() == "former" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "expected something to report"),
        # Nothing is read before, and no scan of that name overwritten.
        ({"output": "{root}/labels.nii.gz"}, "labels.nii.gz: expected a file name that ends in"),
        ({"output": "{root}/data/dataset.json/r.html"}, "r.html: cannot write: Not a directory"),
        ({"scores": "nameless"}, "--scores: expected NAME=DIR .*, found 'nameless'"),
        ({"runs": "a=x,a=y"}, "--runs: expected NAME=DIR with different names, found 'a=y'"),
        ({"scores": "a={root}"}, "metrics.json: cannot read: No .*; .* experiments.evaluate"),
        ({"scores": "a={root}/broken"}, "metrics.json: not scores .*: summary: Field required"),
        ({"scores": "a={root}/text"}, "metrics.json: not scores .*: summary: .* dictionary"),
        ({"scores": "a={root}/means"}, "metrics.json: not scores .*: no mean of dice"),
        ({"runs": "a={root}/bytes"}, "metrics.csv: not a CSV file in UTF-8"),
        ({"runs": "a={root}/broken"}, "run.json: not valid JSON"),
        ({"runs": "a={root}/text"}, "metrics.csv: expected the numbers of a training run"),
        ({"dataset_dir": "{root}/data"}, r"one folder for each of --dataset_dir \(1\), found 0"),
        (
            {"dataset_dir": "{root}/data", "predictions": "{root}/run"},
            r"run: expected predictions of .* such as case_0.nii.gz, found none",
        ),
        (
            {"dataset_dir": "{root}/data", "predictions": "{root}/values"},
            r"case_0.nii.gz: expected the declared label values \[0, 1\] .*, found 7",
        ),
        (
            # As eight bits it would be the liver.
            {"dataset_dir": "{root}/data", "predictions": "{root}/large"},
            r"case_0.nii.gz: expected the declared label values \[0, 1\] .*, found 257",
        ),
        (
            {"dataset_dir": "{root}/data", "predictions": "{root}/shape"},
            r"case_0.nii.gz: expected the shape \(9, 6, 8\)",
        ),
    ],
)
def test_wrong_input(made, command, tmp_path, flags, message):
    for folder, name, text in (
        ("broken", "metrics.json", '{"other": 1}'),
        ("broken", "run.json", "{"),
        ("text", "run.json", '{"settings": {}}'),
        ("text", "metrics.csv", "step,loss\nten,1\n"),
        ("text", "metrics.json", '{"summary": "good", "cases": {}}'),
        ("means", "metrics.json", '{"summary": {"structures": {}, "mean": {}}, "cases": {}}'),
        ("bytes", "run.json", '{"settings": {}}'),
        ("bytes", "metrics.csv", f"step,loss\n1,{'1' * 200_000}\n"),
    ):
        (made / folder).mkdir(exist_ok=True)
        (made / folder / name).write_text(text)
    for folder, value in (("values", 7), ("large", 257)):
        array = np.full((9, 6, 8, 1), value, np.int16)
        volume_io.write(made / folder / "case_0.nii.gz", Volume(array, (3, 1, 1), direction=RAS))
    volume_io.write(
        made / "shape/case_0.nii.gz",
        Volume(np.zeros((8, 6, 8, 1), np.uint8), (3, 1, 1), direction=RAS),
    )
    given = {"output": tmp_path / "report.html"}
    with pytest.raises(InputError, match=message):
        command(report, **given | {k: v.format(root=made) for k, v in flags.items()})
    assert not list(tmp_path.glob("report.*"))
