"""Words, style and script of the page of `data_tools.inspect --html`."""

LEAD = """What these records hold and how much of it somebody annotated. This file is complete: it
opens without a network."""
STRUCTURES_TEXT = """In how many cases each structure was annotated and found, in how many axial
slices, and the volume of what was annotated of it, in the cases where it was found. With sparse
annotation that is less than the whole structure."""
CASES_TEXT = """The worst case comes first: the one with the smallest share of voxels annotated,
averaged over the structures, where a structure that was not annotated in the case counts as none;
of equal ones, the one that lacks the most structures that were annotated. Left: the axial and the
coronal slice with most of the structures, the patient's left on the right; <b>striped</b> is what
nobody annotated. Right: the volume of each structure in ml, its bar against the largest of the set;
<span class="bar unknown"><i></i></span> was not annotated in the case,
<span class="bar missing"><b>none</b></span> was annotated and has no voxel.
<br><code>python -m data_tools.inspect --records_dir=RECORDS --case=NAME --png=NAME.png</code> draws
a case in full."""
CASES_HEAD = """<thead><tr><th colspan="3">sort by
<button value="0" data-sign="1">worst</button><button value="1">name</button>
<button value="2">voxels</button><button value="3">slices</button>
<button value="4">structures</button>
<label>or volume of <select><option value=""></option>{options}</select></label>
<button value="">reverse</button></th></tr></thead>"""
STYLE = """
header div, main { max-width: 1320px; }
section > p { max-width: 68rem; }
.notes { margin: 0; padding-left: 1.2rem; }
.share { min-width: 8rem; background: linear-gradient(#cde6ea, #cde6ea) left 50% / var(--share) 60%
         no-repeat; }
.chip { display: inline-block; width: .8em; height: .8em; margin-right: .6em; border-radius: 3px; }
.structures td, .structures th { padding: .22rem .8rem; }
.structures thead tr th { font-size: .85rem; color: var(--soft); text-align: right; }
.structures thead tr th:first-child { text-align: left; }
.cases { width: 100%; font-size: .82rem; }
.cases td { text-align: left; vertical-align: top; padding: .55rem .5rem; }
.cases td:nth-child(1) { width: 1px; }
.cases td:nth-child(2) { width: 12.5rem; padding-right: 1rem; }
.cases td:nth-child(2) .bar { grid-template-columns: 5.6em 1fr 4.8em; }
.cases img { border-radius: 6px; border: 0; margin: 0; max-width: none; }
.cases thead tr th { position: sticky; top: 0; z-index: 1; background: #fff; text-align: left;
                     box-shadow: 0 1px var(--line); padding: .5rem 0; font-size: .88rem; }
.cases h3 { margin: 0; font-size: .95rem; overflow-wrap: anywhere; }
.cases p { margin: 0 0 .5rem; color: var(--soft); }
.cases button, .cases select { font: inherit; color: var(--accent); background: var(--paper);
    border: 1px solid var(--line); border-radius: 6px; padding: .12rem .6rem; margin: 0 .15rem; }
.cases button { cursor: pointer; }
.cases button[data-sign="1"], .cases button[data-sign="-1"] { background: var(--accent);
                                                             color: #fff; }
.cases button[data-sign="1"]::after { content: " \\2191"; }
.cases button[data-sign="-1"]::after { content: " \\2193"; }
.cases select { max-width: 13rem; }
.cases label { margin: 0 .4rem 0 .6rem; }
.scroll { max-height: 156px; overflow-y: auto; }
.scroll > div { column-gap: 1.2rem; }
.wide { max-height: 60rem; overflow-y: auto; }
.bar { display: grid; grid-template-columns: minmax(0, 9.5rem) minmax(1.8rem, 1fr) 3em; gap: .5em;
       align-items: center; line-height: 1.45; break-inside: avoid; }
.bar span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bar i { height: .62em; border-radius: 3px; background:
         linear-gradient(var(--c), var(--c)) left / var(--s) 100% no-repeat #e6eaef; }
.bar b { font-weight: 500; text-align: right; white-space: nowrap; }
.unknown i { background: repeating-linear-gradient(-45deg, #cf9a1f 0 2px, #fbf1d8 2px 6px); }
.unknown span, .unknown b { color: var(--soft); }
.missing b, td.missing { color: #b3261e; font-weight: 700; }
section > p .bar { display: inline; }
section > p .bar i { display: inline-block; width: 3rem; }
"""
# A row's keys are numbers, null where a structure was not annotated: those rows stay at the end.
SCRIPT = """
const body = document.querySelector(".cases tbody");
const select = document.querySelector(".cases select");
const buttons = [...document.querySelectorAll(".cases button")];
const rows = [...body.rows].map(row => ({ row, keys: JSON.parse(row.dataset.keys) }));
let key = 0, sign = 1;
function sort(chosen) {
  sign = chosen === key ? -sign : 1;
  key = chosen;
  rows.sort((a, b) => {
    const x = a.keys[key], y = b.keys[key];
    return x === null || y === null ? (x === null) - (y === null) : sign * (x - y);
  });
  body.append(...rows.map(r => r.row));
  if (key < 5) select.value = "";
  for (const button of buttons)
    button.dataset.sign = button.value === String(key) ? sign : "";
}
for (const button of buttons)
  button.addEventListener("click", () => sort(button.value ? Number(button.value) : key));
select.addEventListener("change", () => { if (select.value) sort(Number(select.value)); });
"""
