"""The page of `experiments.report`: scores, pictures and training curves."""

import html
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tl3d_keras import curves, figure_file, html_page, json_file, metrics_csv
from tl3d_keras.errors import InputError
from tl3d_keras.html_page import Picture
from tl3d_keras.text_table import aligned, number
from tl3d_keras.whole_folder import write_file

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


def page(
    scores: Mapping[str, Mapping[str, Any]],
    runs: Mapping[str, Path],
    comparisons: Sequence[tuple[str, Sequence[Picture]]],
) -> str:
    """The report as HTML.

    Args:
        scores: title -> what `score_files.read` gave.
        runs: title -> folder of a training run; the last one's model goes into the next commands.
        comparisons: a data set's name and the pictures of its cases.

    Raises:
        InputError: a run's files are missing or damaged.
    """
    sections = []
    if scores:
        values = [
            (number(_mean(s, None, "dice"), 3), name, f"mean Dice, {len(s['cases'])} cases")
            for name, s in scores.items()
        ]
        content = html_page.cards(values) + _score_table(scores)
        sections.append(html_page.section("Scores", _SCORES_TEXT, content))
    for name, pictures in comparisons:
        text = _PICTURES_TEXT.format(data=html.escape(name))
        figures = "".join(map(html_page.figure, pictures))
        sections.append(html_page.section("Reference and prediction", text, figures))
    if runs:
        content = "".join(_run(name, folder) for name, folder in runs.items())
        sections.append(html_page.section("Training", _TRAINING_TEXT, content))
    model = shlex.quote(str(list(runs.values())[-1] / "model")) if runs else "RUN/model"
    steps = _NEXT.format(model=html.escape(model))
    sections.append(html_page.section("Your own scans", _NEXT_TEXT, steps))
    return html_page.document(_TITLE, _LEAD, "".join(sections))


def write(folder: Path) -> None:
    """Writes `report.html` into a training run's folder, once there is something to show."""
    if not (folder / metrics_csv.FILE_NAME).is_file():
        return
    cases = _read(folder / "run.json", ("settings",), "a training run").get("validation_cases", [])
    pictures = [
        Picture(case, "At the last validation.", path.read_bytes())
        for number, case in enumerate(cases)
        if (path := folder / "pictures" / f"{number}.png").is_file()
    ]
    comparisons = [("the validation cases", pictures)] if pictures else []
    write_file(
        folder / "report.html", page({}, {folder.resolve().name: folder}, comparisons).encode()
    )


def dice_table(scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Mean Dice as lines of text: structures down, score folders across."""
    if not scores:
        return []
    rows = [["Dice", *scores]]
    for structure in [*_structures(scores), None]:
        rows.append(
            [
                structure or "mean",
                *(number(_mean(s, structure, "dice"), 4) for s in scores.values()),
            ]
        )
    return aligned(rows)


def _structures(scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(n for s in scores.values() for n in s["summary"]["structures"]))


def _scored(score: Mapping[str, Any]) -> frozenset[str]:
    """The structures that the mean of structures is over."""
    names = score["summary"]["structures"]
    return frozenset(name for name in names if _mean(score, name, "dice") is not None)


def _mean(score: Mapping[str, Any], structure: str | None, metric: str) -> float | None:
    if structure is None:
        return score["summary"]["mean"][metric]
    return score["summary"]["structures"].get(structure, {}).get(metric, {}).get("mean")


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
    # Means over different structures say nothing of each other.
    comparable = structure is not None or len(set(map(_scored, scores.values()))) == 1
    cells = []
    for score, value in zip(scores.values(), dice, strict=True):
        best = " best" if comparable and len(known) > 1 and value == max(known) else ""
        cells.append(
            f'<td class="group dice{best}" style="--share:{100 * (value or 0):.1f}%">'
            f"{number(value, 3)}</td><td>{number(_mean(score, structure, 'hd95_mm'), 1)}</td>"
            f"<td>{number(_mean(score, structure, 'nsd'), 3)}</td>"
        )
    return f"<tr><th>{html.escape(title)}</th>{''.join(cells)}</tr>"


def _run(name: str, folder: Path) -> str:
    provenance = _read(folder / "run.json", ("settings",), "a training run")
    rows = metrics_csv.read(folder)
    try:
        drawn = curves.curves(rows)
    except ValueError as error:
        raise InputError(
            f"{folder / metrics_csv.FILE_NAME}: expected the numbers of a training run: {error}"
        ) from error
    picture = Picture(name, "Loss and Dice against the training step.", figure_file.png(drawn))
    facts = "".join(
        f"<tr><th>{html.escape(key)}</th><td>{html.escape(value)}</td></tr>"
        for key, value in _provenance(provenance)
    )
    return (
        f"{html_page.figure(picture)}<details open><summary>How {html.escape(name)} was trained"
        f'</summary><table class="facts">{facts}</table></details>'
    )


def _read(path: Path, keys: Sequence[str], writer: str) -> dict[str, Any]:
    content = json_file.read_object(path, f"a folder that {writer} has written")
    if any(key not in content for key in keys):
        raise InputError(
            f"{path}: expected {' and '.join(keys)} as {writer} writes them, found "
            f"{', '.join(content) or 'nothing'}"
        )
    return content


def _provenance(content: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    settings = content["settings"]
    yield "command", command_line(content.get("command", []))
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


def command_line(command: Sequence[str]) -> str:
    """The command as a person types it: a module's file becomes `python -m package.module`."""
    if command and command[0].endswith(".py"):
        script = Path(command[0])
        return shlex.join(["python", "-m", f"{script.parent.name}.{script.stem}", *command[1:]])
    return shlex.join(command)


_TITLE = "Transfer learning for 3D segmentation"
_LEAD = """What was trained, how well it finds each structure, what that looks like, and the
commands for your own scans. This file is complete: it opens without a network."""
_SCORES_TEXT = """Each structure is scored case by case on the voxels that were annotated, then
averaged. <b>Dice</b> is the overlap with the reference: 0 is none, 1 is perfect. <b>HD95</b> is the
distance in mm within which 95&nbsp;% of the two surfaces lie from one another: lower is better.
<b>NSD</b> is the share of the surfaces that lie at most one voxel apart: 1 is perfect. The best
Dice of a row is in bold, in the last row only if all means are of the same structures."""
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
<li>Look at all cases to see that labels lie where they belong:
<pre>python -m data_tools.inspect --records_dir=MY_RECORDS --html=MY_RECORDS.html</pre></li>
<li>Start from a trained model and adapt it to your structures:
<pre>python -m experiments.transfer --base={model} --mode=finetune \\
    --records_dir=MY_RECORDS --output_dir=MY_RUN</pre></li>
<li>Segment new scans:
<pre>python -m experiments.segment --model=MY_RUN/model --input=MY_SCANS --output=MY_LABELS</pre>
</li></ol>"""
