"""Puts scores, pictures and training curves on one web page that needs no network.

    python -m experiments.report --output=demo/report.html \\
        --scores="scratch=SCORES_1,fine-tuned=SCORES_2" --runs="base=RUN_1,fine-tuned=RUN_2" \\
        --dataset_dir=TESTSET --predictions=SEGMENTED

reads what evaluate, train_base, transfer and segment have written. Every flag takes a list;
`--dataset_dir` and `--predictions` pair up in order. Ends with the table of Dice and takes about
three seconds for three small cases.
"""

import base64
import csv
import html
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from data_tools import case_reader, layouts
from data_tools.command import run
from data_tools.reading import ReadOptions
from tl3d_keras import evaluation, pictures, resampling, volume_io
from tl3d_keras.errors import InputError
from tl3d_keras.whole_folder import write_file

FLAGS = flags.FlagValues()
_OUTPUT = flags.DEFINE_string("output", None, "The .html file.", required=True, flag_values=FLAGS)
_SCORES = flags.DEFINE_list(
    "scores",
    [],
    "NAME=DIR,...: folders with the metrics.json of experiments.evaluate.",
    flag_values=FLAGS,
)
_RUNS = flags.DEFINE_list(
    "runs",
    [],
    "NAME=DIR,...: training runs; the last one's model goes into the next commands.",
    flag_values=FLAGS,
)
_DATASET_DIR = flags.DEFINE_list(
    "dataset_dir",
    [],
    "Data sets with images and references, one for each of --predictions.",
    flag_values=FLAGS,
)
_PREDICTIONS = flags.DEFINE_list(
    "predictions",
    [],
    "Folders with <case>.nii.gz as experiments.segment writes them.",
    flag_values=FLAGS,
)

_CASES_SHOWN = 3
_SETTINGS_SHOWN = (
    "mode",
    "base",
    "filters",
    "levels",
    "padding",
    "patch_size",
    "batch_size",
    "steps",
    "learning_rate",
    "loss",
    "optimizer",
    "seed",
)


@dataclass(frozen=True)
class Picture:
    """A figure on the page.

    Attributes:
        title: of the case or run.
        caption: one sentence in words.
        png: the file's bytes.
    """

    title: str
    caption: str
    png: bytes


def main() -> None:
    """Reads the flags, writes the page and prints the Dice table."""
    output = Path(_OUTPUT.value)
    scores = {
        name: _json(folder / "metrics.json", ("summary", "cases"), "experiments.evaluate")
        for name, folder in _named("scores", _SCORES.value).items()
    }
    runs = _named("runs", _RUNS.value)
    if len(_DATASET_DIR.value) != len(_PREDICTIONS.value):
        raise InputError(
            "--predictions: expected one folder for each of --dataset_dir "
            f"({len(_DATASET_DIR.value)}), found {len(_PREDICTIONS.value)}"
        )
    if not (scores or runs or _PREDICTIONS.value):
        raise InputError(
            "expected something to report by --scores, --runs or --predictions, found none"
        )
    pairs = zip(_DATASET_DIR.value, _PREDICTIONS.value, strict=True)
    page = _page(scores, runs, [(Path(d), Path(p)) for d, p in pairs])
    write_file(output, page.encode())
    print("\n".join(dice_table(scores)))
    print(f"report: {output}")


def compare_cases(dataset_dir: Path, predictions: Path) -> list[Picture]:
    """Reference and prediction of the data set's first cases that have both.

    Raises:
        InputError: there is no such case, or the grids of the two differ.
    """
    dataset = layouts.read_layout(dataset_dir)
    found = [
        (case, predictions / f"{case.case_id}.nii.gz")
        for case in dataset.cases
        if (case.label or case.masks) and (predictions / f"{case.case_id}.nii.gz").is_file()
    ]
    if not found:
        raise InputError(
            f"{predictions}: expected predictions of {dataset_dir} such as "
            f"{dataset.cases[0].case_id}.nii.gz, found none"
        )
    shown = []
    for source, path in found[:_CASES_SHOWN]:
        spacing = case_reader.canonical_spacing(source)
        case = case_reader.read_case(source, dataset, spacing, ReadOptions(partial_labels=True))
        predicted = resampling.canonical(volume_io.read_labels(path))
        volume_io.check_same_grid(case.image, predicted, source.images[0], path)
        assert case.labels is not None
        arrays = {"reference": case.labels, "prediction": predicted.array[..., 0]}
        try:
            figure = pictures.comparison(
                case.image.array[..., 0],
                arrays,
                spacing,
                dataset.structures,
                window=pictures.window_of(dataset.channels[0]),
            )
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        dice = evaluation.evaluate_case(
            arrays["prediction"],
            case.labels,
            spacing,
            dict(enumerate(dataset.structures, 1)),
            case.annotated,
        )
        known = [s.dice for s in dice.values() if s.dice is not None]
        caption = (
            f"{dataset.channels[0]}. Mean Dice of this case: {np.mean(known):.3f}."
            if known
            else f"{dataset.channels[0]}. Nothing to score in this case."
        )
        shown.append(Picture(case.case_id, caption, pictures.png(figure)))
    return shown


def dice_table(scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Mean Dice as lines of text: structures down, score folders across."""
    if not scores:
        return []
    rows = [["Dice", *scores]]
    for structure in [*_structures(scores), None]:
        rows.append(
            [
                structure or "mean",
                *(_number(_mean(s, structure, "dice"), 4) for s in scores.values()),
            ]
        )
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    ]


def _named(flag: str, values: Sequence[str]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for value in values:
        name, separator, folder = value.partition("=")
        if not (name and separator and folder) or name in named:
            raise InputError(f"--{flag}: expected NAME=DIR with different names, found {value!r}")
        named[name] = Path(folder)
    return named


def _json(path: Path, keys: Sequence[str], writer: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise InputError(
            f"{path}: cannot read; expected a folder that {writer} has written"
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(content, dict) or any(key not in content for key in keys):
        raise InputError(
            f"{path}: expected {' and '.join(keys)} as {writer} writes them, found "
            f"{', '.join(content) or 'nothing'}"
        )
    return content


def _structures(scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(n for s in scores.values() for n in s["summary"]["structures"]))


def _mean(score: Mapping[str, Any], structure: str | None, metric: str) -> float | None:
    if structure is None:
        return score["summary"]["mean"][metric]
    return score["summary"]["structures"].get(structure, {}).get(metric, {}).get("mean")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _page(
    scores: Mapping[str, Mapping[str, Any]],
    runs: Mapping[str, Path],
    pairs: Sequence[tuple[Path, Path]],
) -> str:
    sections = []
    if scores:
        sections.append(_section("Scores", _SCORES_TEXT, _cards(scores) + _score_table(scores)))
    for dataset_dir, predictions in pairs:
        figures = "".join(map(_figure, compare_cases(dataset_dir, predictions)))
        text = _PICTURES_TEXT.format(data=html.escape(dataset_dir.resolve().name))
        sections.append(_section("Reference and prediction", text, figures))
    if runs:
        sections.append(
            _section(
                "Training",
                _TRAINING_TEXT,
                "".join(_run(name, folder) for name, folder in runs.items()),
            )
        )
    model = shlex.quote(str(list(runs.values())[-1] / "model")) if runs else "RUN/model"
    sections.append(_section("Your own scans", _NEXT_TEXT, _NEXT.format(model=html.escape(model))))
    return _PAGE.format(style=_STYLE, body="".join(sections))


def _section(title: str, text: str, content: str) -> str:
    return f"<section><h2>{title}</h2><p>{text}</p>{content}</section>"


def _figure(picture: Picture) -> str:
    title, caption = html.escape(picture.title), html.escape(picture.caption)
    data = base64.b64encode(picture.png).decode()
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{title}">'
        f"<figcaption><b>{title}</b> {caption}</figcaption></figure>"
    )


def _cards(scores: Mapping[str, Mapping[str, Any]]) -> str:
    cards = "".join(
        f"<div><strong>{_number(_mean(s, None, 'dice'), 3)}</strong>{html.escape(name)}"
        f"<small>mean Dice, {len(s['cases'])} cases</small></div>"
        for name, s in scores.items()
    )
    return f'<div class="cards">{cards}</div>'


def _score_table(scores: Mapping[str, Mapping[str, Any]]) -> str:
    groups = "".join(f'<th colspan="3" class="group">{html.escape(name)}</th>' for name in scores)
    heads = '<th class="group">Dice</th><th>HD95 mm</th><th>NSD</th>' * len(scores)
    rows = [_score_row(name, name, scores) for name in _structures(scores)]
    mean = _score_row("mean of structures", None, scores)
    return (
        f'<div class="wide"><table><thead><tr><th></th>{groups}</tr>'
        f"<tr><th>structure</th>{heads}</tr></thead><tbody>{''.join(rows)}</tbody>"
        f"<tfoot>{mean}</tfoot></table></div>"
    )


def _score_row(title: str, structure: str | None, scores: Mapping[str, Mapping[str, Any]]) -> str:
    dice = [_mean(score, structure, "dice") for score in scores.values()]
    known = [d for d in dice if d is not None]
    cells = []
    for score, value in zip(scores.values(), dice, strict=True):
        best = " best" if len(known) > 1 and value == max(known) else ""
        cells.append(
            f'<td class="group dice{best}" style="--share:{100 * (value or 0):.1f}%">'
            f"{_number(value, 3)}</td><td>{_number(_mean(score, structure, 'hd95_mm'), 1)}</td>"
            f"<td>{_number(_mean(score, structure, 'nsd'), 3)}</td>"
        )
    return f"<tr><th>{html.escape(title)}</th>{''.join(cells)}</tr>"


def _run(name: str, folder: Path) -> str:
    provenance = _json(folder / "run.json", ("settings",), "a training run")
    path = folder / "metrics.csv"
    try:
        with path.open(newline="") as file:
            figure = pictures.curves(list(csv.DictReader(file)))
    except OSError as error:
        raise InputError(
            f"{path}: cannot read; expected a folder that a training run has written"
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: expected the numbers of a training run: {error}") from error
    picture = Picture(name, "Loss and Dice against the training step.", pictures.png(figure))
    rows = "".join(
        f"<tr><th>{html.escape(key)}</th><td>{html.escape(value)}</td></tr>"
        for key, value in _provenance(provenance)
    )
    return (
        f"{_figure(picture)}<details open><summary>How {html.escape(name)} was trained"
        f'</summary><table class="facts">{rows}</table></details>'
    )


def _provenance(content: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    settings = content["settings"]
    yield "command", _command_line(content.get("command", []))
    seconds = content.get("seconds")
    if seconds is not None:
        yield "time", f"{seconds:.0f} s ({seconds / 60:.1f} min)"
    for key, title, unit in (
        ("precision", "precision", ""),
        ("replicas", "devices", ""),
        ("peak_memory_gib", "peak memory", " GiB"),
    ):
        if content.get(key) is not None:
            yield title, f"{content[key]}{unit}"
    yield (
        "cases",
        (
            f"{len(content.get('training_cases', []))} for training, "
            f"{len(content.get('validation_cases', []))} for validation"
        ),
    )
    yield (
        "settings",
        ", ".join(
            f"{key} {settings[key]}" for key in _SETTINGS_SHOWN if settings.get(key) is not None
        ),
    )
    yield "data", f"CRC32C fingerprint {settings.get('data')}"
    yield "versions", ", ".join(f"{k} {v}" for k, v in content.get("versions", {}).items())
    if not content.get("done"):
        yield "state", "not finished: the same command again goes on with it"


def _command_line(command: Sequence[str]) -> str:
    """The command as a person types it: a module's file becomes `python -m package.module`."""
    if command and command[0].endswith(".py"):
        script = Path(command[0])
        return shlex.join(["python", "-m", f"{script.parent.name}.{script.stem}", *command[1:]])
    return shlex.join(command)


_SCORES_TEXT = """Each structure is scored case by case on the voxels that were annotated, then
averaged. <b>Dice</b> is the overlap with the reference: 0 is none, 1 is perfect. <b>HD95</b> is the
distance in mm within which 95&nbsp;% of the two surfaces lie from one another: lower is better.
<b>NSD</b> is the share of the surfaces that lie at most one voxel apart: 1 is perfect. The best
Dice of a row is in bold."""
_PICTURES_TEXT = """The first cases of <b>{data}</b>, in the order of the data set and not picked by
result: above what a person drew, below what the network found, at the same slices. The slices are
those with most of the structures. The patient's left (L) is on the right, as if seen from the feet.
Hatched voxels were not annotated and count in nothing."""
_TRAINING_TEXT = """The loss is what training lowers. The dashed line is Dice on the patches being
trained on, the black line is the mean Dice on whole validation cases, which no step trains on; the
weights of its highest point are kept. A dotted vertical line is where the next stage begins."""
_NEXT_TEXT = """A handful of annotated scans is enough to start. Lay them out as a Medical
Segmentation Decathlon or nnU-Net folder, with label 255 (or one named <code>ignore</code>) wherever
nobody annotated, then:"""
_NEXT = """<ol>
<li>Turn the scans into training records:
<pre>python -m data_tools.shard --dataset_dir=MY_DATASET --output_dir=MY_RECORDS</pre></li>
<li>Look at one case to see that labels lie where they belong:
<pre>python -m data_tools.inspect --records_dir=MY_RECORDS --case=MY_CASE --png=case.png</pre></li>
<li>Start from a trained model and adapt it to your structures:
<pre>python -m experiments.transfer --base={model} --mode=finetune \\
    --records_dir=MY_RECORDS --output_dir=MY_RUN</pre></li>
<li>Segment new scans:
<pre>python -m experiments.segment --model=MY_RUN/model --input=MY_SCANS --output=MY_LABELS</pre>
</li></ol>"""
_STYLE = """
:root { --ink: #1c2330; --soft: #5d6878; --line: #dfe4ea; --paper: #f5f7f9; --accent: #12677a; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
       font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
header { background: linear-gradient(120deg, #10242f, #12677a); color: #fff; padding: 2.6rem 0; }
header div, main { max-width: 1080px; margin: 0 auto; padding: 0 1.5rem; }
h1 { margin: 0 0 .4rem; font-size: 2rem; line-height: 1.2; }
header p { margin: 0; max-width: 44rem; color: #d3e6ea; }
section { background: #fff; border: 1px solid var(--line); border-radius: 12px;
          padding: 1.4rem 1.8rem; margin: 1.5rem 0; }
h2 { margin: 0 0 .4rem; color: var(--accent); font-size: 1.35rem; }
section > p { margin: 0 0 1.1rem; max-width: 50rem; color: var(--soft); }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; margin: 0 0 1.3rem; }
.cards div { background: var(--paper); border-left: 4px solid var(--accent); border-radius: 6px;
             padding: .6rem 1.4rem .6rem 1rem; font-weight: 600; }
.cards strong { display: block; font-size: 1.9rem; line-height: 1.2; color: var(--accent); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .8rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child { text-align: left; font-weight: 600; }
thead th { color: var(--soft); font-size: .85rem; font-weight: 600; }
thead tr:first-child th { color: var(--ink); font-size: 1rem; text-align: center; }
small { display: block; font-weight: 400; color: var(--soft); }
.group { border-left: 1px solid var(--line); }
.dice { min-width: 7rem; background: linear-gradient(#cde6ea, #cde6ea) left 50% / var(--share) 60%
        no-repeat; }
tfoot th, tfoot td { border-top: 2px solid var(--accent); border-bottom: 0; }
td.best { font-weight: 700; }
figure { margin: 0 0 1.3rem; }
img { display: block; max-width: 100%; height: auto; margin: 0 auto; border-radius: 8px;
      border: 1px solid var(--line); }
figcaption { margin-top: .4rem; color: var(--soft); }
figcaption b { color: var(--ink); }
details { margin: -.4rem 0 1.8rem; }
summary { cursor: pointer; font-weight: 600; }
.facts { width: 100%; margin-top: .4rem; font-size: .9rem; }
.facts td, .facts th { text-align: left; vertical-align: top; overflow-wrap: anywhere; }
.facts th { white-space: nowrap; color: var(--soft); }
pre { background: #15181e; color: #e8ebf0; padding: .8rem 1rem; border-radius: 8px;
      overflow-x: auto; font-size: .88rem; }
@media (max-width: 40rem) { section { padding: 1rem; } th, td { padding: .35rem .5rem; } }
@media print { header { color: #000; background: none; } section { break-inside: avoid; } }
"""
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>tl3d-keras report</title><style>{style}</style></head>
<body><header><div><h1>Transfer learning for 3D segmentation</h1>
<p>What was trained, how well it finds each structure, what that looks like, and the commands for
your own scans. This file is complete: it opens without a network.</p></div></header>
<main>{body}</main></body></html>
"""


def cli() -> None:
    """The console script."""
    run(main, FLAGS)


if __name__ == "__main__":
    cli()
