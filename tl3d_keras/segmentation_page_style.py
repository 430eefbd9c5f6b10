"""Words, style and script of the page of `experiments.segment --report`."""

LEAD = """What a model found in {scans}: look through the slices before you rely on it. This file is
complete: it opens without a network. For research; not for clinical use."""
OVERVIEW_TEXT = """A volume is marked where it is outside those of the scans that the model was
trained on: <b class="mark">&#9650;</b> above, <b class="mark">&#9660;</b> below,
<b class="mark">&#8709;</b> nothing found. A mark is a reason to look, not an error by itself. Leaf
through the slices of a scan with the sliders, or with the mouse wheel on a picture; a click on a
structure hides or shows it. The patient's left (L) is on the right of axial and coronal slices."""
PROVENANCE_TEXT = "What made these segmentations, to make them again."

STYLE = """
header div, main { max-width: 1320px; }
section > p { max-width: 68rem; }
.mark { color: #b3261e; font-weight: 700; }
.wide { max-height: 40rem; overflow-y: auto; }
.scans thead tr:first-child th { font-size: .85rem; color: var(--soft); text-align: right; }
.scans thead tr th:first-child, .with_problems thead tr th:last-child { text-align: left; }
.with_problems td:last-child { text-align: left; color: #b3261e; }
.viewer { background: #15181e; color: #e8ebf0; border-radius: 10px; padding: .9rem; }
.planes { display: flex; gap: .7rem; align-items: flex-end; }
.plane { margin: 0; min-width: 0; }
.frame { position: relative; }
.frame canvas { display: block; width: 100%; background: #000; border-radius: 4px; }
.frame b { position: absolute; font-size: .8rem; line-height: 1; text-shadow: 0 0 3px #000,
           0 0 3px #000; pointer-events: none; }
.frame b:nth-of-type(1) { left: .3rem; top: calc(50% - .4rem); }
.frame b:nth-of-type(2) { right: .3rem; top: calc(50% - .4rem); }
.frame b:nth-of-type(3) { top: .3rem; left: calc(50% - .3rem); }
.frame b:nth-of-type(4) { bottom: .3rem; left: calc(50% - .3rem); }
.viewer input[type=range] { width: 100%; margin: .5rem 0 .1rem; accent-color: #5fc3d6; }
.viewer figcaption { margin: 0; color: #aab4c0; font-size: .82rem; white-space: nowrap;
                     font-variant-numeric: tabular-nums; }
.overlay { display: flex; gap: .8rem; align-items: center; margin-top: .7rem; color: #aab4c0;
           font-size: .88rem; }
.viewer .overlay input[type=range] { width: 11rem; margin: 0; }
.plane img { display: none; }
.tables { display: flex; flex-wrap: wrap; gap: .6rem 3rem; align-items: flex-start;
          margin-top: 1.1rem; }
.structures { font-size: .88rem; flex: 1; }
.structures td, .structures th { padding: .22rem .45rem; }
.structures td, .structures thead th { white-space: nowrap; }
.structures thead tr th { font-size: .8rem; color: var(--soft); text-align: right; }
.structures thead tr th:first-child { text-align: left; }
.structures label { cursor: pointer; display: flex; gap: .5em; align-items: center; }
.structures input { accent-color: var(--c); width: 1.05em; height: 1.05em; margin: 0; flex: none; }
.chip { flex: none; width: .85em; height: .85em; border-radius: 3px; background: var(--c); }
.soft { color: var(--soft); }
.files { margin-top: 1rem; }
.files th { width: 12rem; }
@media (max-width: 40rem) { .planes { flex-direction: column; align-items: stretch; } }
"""
# COLOURS is replaced by a list of [red, green, blue], label 1 first.
SCRIPT = """
const colours = COLOURS;
const context = (canvas) => canvas.getContext("2d", { willReadFrequently: true });
const scratch = context(document.createElement("canvas"));

function draw(plane, opacity, hidden) {
  const canvas = plane.querySelector("canvas"), { width, height } = canvas;
  const slider = plane.querySelector("input"), tile = +slider.value;
  const columns = +plane.dataset.columns;
  const [grey, labels] = plane.querySelectorAll("img");
  const from = [(tile % columns) * width, Math.floor(tile / columns) * height, width, height];
  scratch.canvas.width = width;
  scratch.canvas.height = height;
  scratch.drawImage(labels, ...from, 0, 0, width, height);
  const label = scratch.getImageData(0, 0, width, height).data;
  const target = context(canvas);
  target.drawImage(grey, ...from, 0, 0, width, height);
  const picture = target.getImageData(0, 0, width, height), pixel = picture.data;
  const step = [-4, 4, -4 * width, 4 * width];
  for (let i = 0; opacity && i < pixel.length; i += 4) {
    const value = label[i];
    if (!value || hidden.has(value)) continue;
    const edge = step.some((s) => label[i + s] !== value);
    const share = edge ? Math.min(1, opacity + 0.4) : opacity;
    const colour = colours[(value - 1) % colours.length];
    for (let c = 0; c < 3; c++) pixel[i + c] += share * (colour[c] - pixel[i + c]);
  }
  target.putImageData(picture, 0, 0);
  const slice = JSON.parse(plane.dataset.slices)[tile] + 1;
  plane.querySelector("output").value = `${slice} of ${plane.dataset.count}`;
}

function start(scan) {
  const opacity = scan.querySelector(".opacity"), hidden = new Set();
  const planes = [...scan.querySelectorAll(".plane")];
  const redraw = (plane) => draw(plane, opacity.value / 100, hidden);
  for (const plane of planes) {
    const slider = plane.querySelector("input");
    slider.addEventListener("input", () => redraw(plane));
    plane.querySelector("canvas").addEventListener("wheel", (event) => {
      const former = slider.value;
      slider.value = +former - Math.sign(event.deltaY);
      if (slider.value === former) return;  // At its end the page moves on.
      event.preventDefault();
      redraw(plane);
    }, { passive: false });
  }
  planes.forEach(redraw);
  opacity.addEventListener("input", () => planes.forEach(redraw));
  for (const box of scan.querySelectorAll(".structures input")) {
    box.addEventListener("change", () => {
      if (box.checked) hidden.delete(+box.value); else hidden.add(+box.value);
      planes.forEach(redraw);
    });
  }
}

// A scan is drawn when it comes near the window, for a page may hold hundreds.
const near = new IntersectionObserver((entries) => {
  for (const { target } of entries.filter((entry) => entry.isIntersecting)) {
    near.unobserve(target);
    start(target);
  }
}, { rootMargin: "400px" });
addEventListener("load", () => {
  for (const scan of document.querySelectorAll(".scan")) {
    if (scan.getBoundingClientRect().top < innerHeight) start(scan); else near.observe(scan);
  }
});
"""
