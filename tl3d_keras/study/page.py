"""A study's findings on one web page that needs no network."""

import html
from collections.abc import Iterable, Sequence
from statistics import fmean

from tl3d_keras import html_page
from tl3d_keras.html_page import Picture
from tl3d_keras.study import tables
from tl3d_keras.study.findings import SIGNIFICANT, Findings


def page(findings: Findings, pictures: Sequence[Picture], description: str = "") -> str:
    """The page as HTML.

    Args:
        findings: of the study.
        pictures: the learning curves.
        description: what the study is about, in the words of its file.
    """
    cards = [
        (
            f"{fmean(gain.gain for gain in gains):+.3f}",
            mode,
            f"mean gain in Dice over {findings.baseline}, {len(gains)} experiments",
        )
        for mode in dict.fromkeys(gain.group.mode for gain in findings.gains)
        if (gains := [gain for gain in findings.gains if gain.group.mode == mode])
    ]
    words = "".join(f"<p>{html.escape(line)}</p>" for line in tables.sentences(findings))
    shown = html_page.cards(cards) + words + "".join(map(html_page.figure, pictures))
    text = html.escape(description) or "What was measured."
    text += f" {findings.done} of {findings.total} cells are done."
    sections = [html_page.section("Findings", text, shown)]
    sections.append(html_page.section("Mean Dice", _DICE_TEXT, _table(*tables.dice_rows(findings))))
    if findings.gains:
        title = f"Gains over {findings.baseline}"
        table = _table(*tables.gain_rows(findings))
        sections.append(html_page.section(title, _GAINS_TEXT, table))
    return html_page.document(_TITLE, _LEAD, "".join(sections))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in heads)
    body = "".join(
        "<tr>"
        + f"<th>{html.escape(row[0])}</th>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>'


_TITLE = "A study of training sizes"
_LEAD = """How well networks segment that were trained on a few cases, from random weights and from
a base model. This file is complete: it opens without a network."""
_DICE_TEXT = """The Dice of a test case is the mean of its structures, averaged over the seeds; here
is its mean over the test cases, and the 95&nbsp;% bootstrap interval of that mean over cases. A
size of 4&nbsp;x&nbsp;3 is four cases of which three slices each are annotated."""
_GAINS_TEXT = f"""Every row is one experiment: a task, a size and a base, averaged over the seeds
that both sides have. The interval is the 95&nbsp;% bootstrap interval of the mean difference over
test cases; p is that of Wilcoxon's signed-rank test on the pairs of a case, then with Holm's
correction for all rows, of which those below {SIGNIFICANT} count. Steps is the share of the
baseline's steps after which its final validation Dice was reached."""
