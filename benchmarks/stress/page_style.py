"""How the page looks and what its script does: light and dark, wide and narrow, screen and paper.

Colours keep a contrast of 4.5 to 1 for text and 3 to 1 for lines against both grounds, and the
lines of contenders also differ in their dashes.
"""

from __future__ import annotations

__all__ = ["SCRIPT", "STYLE"]

_LIGHT = """
color-scheme:light;
--ground:#fdfdfc;--raised:#fff;--ink:#1a1d21;--quiet:#5a626c;--rule:#dcdfe3;--grid:#e8eaed;
--tint:#eef4fd;--good:#0a6b3d;--bad:#b3261e;--window:#8a6d1f24;--key:#6b5312;--focus:#0b5fcc;
--c0:#0b5fcc;--c1:#c24a0c;--c2:#007d68;--c3:#a13a8d;--c4:#866400;--c5:#5b6570;--c6:#1f7fa3;
--c7:#8b1e3f;--c8:#557018;
"""
_DARK = """
color-scheme:dark;
--ground:#14171b;--raised:#1b1f25;--ink:#e9ebee;--quiet:#a3acb7;--rule:#343b44;--grid:#2a3038;
--tint:#1a2738;--good:#5fd39a;--bad:#ff8f85;--window:#e3c35a26;--key:#e3c35a;--focus:#7db8ff;
--c0:#6cb0ff;--c1:#ff9458;--c2:#3ecdac;--c3:#e88ad4;--c4:#dcb740;--c5:#a7b0ba;--c6:#66c6e6;
--c7:#f4849f;--c8:#b3cc66;
"""
_DASHES = ("none", "7 3", "2 2.5", "9 3 2 3", "5 2", "3 4", "1 3", "10 2 2 2 2 2", "6 5")

_LOOKS = "".join(
    f".k{index}{{--c:var(--c{index});--d:{dashes}}}" for index, dashes in enumerate(_DASHES)
)

STYLE = (
    f"""
:root{{{_LIGHT}}}
@media screen and (prefers-color-scheme:dark){{:root{{{_DARK}}}}}
{_LOOKS}
"""
    """
*{box-sizing:border-box}
html{font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
background:var(--ground);color:var(--ink);-webkit-text-size-adjust:100%;
print-color-adjust:exact;-webkit-print-color-adjust:exact}
body{margin:0 auto;padding:0 24px 64px;max-width:1216px;overflow-wrap:break-word}
a{color:inherit;text-decoration-color:var(--quiet);text-underline-offset:.2em}
a:hover{text-decoration-thickness:2px}
:focus-visible{outline:2px solid var(--focus);outline-offset:2px;border-radius:3px}
h1,h2,h3,h4,p,ul,dl,dd,figure{margin:0;padding:0}
ul{list-style:none}
.note+.scrolling{margin-top:12px}
h2{font-size:1.5rem;line-height:1.25;letter-spacing:-.01em;margin:0 0 8px}
h3{font-size:1rem;margin:32px 0 12px}
h4{font-size:.875rem;margin:0 0 6px}
code{font:.875em/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;
overflow-wrap:anywhere}
.quiet,.note,.none{color:var(--quiet)}
.note{font-size:.8125rem;margin-top:10px;max-width:100ch}
.good{color:var(--good)}.bad{color:var(--bad)}
.sign{font-size:inherit;width:.8em;height:.8em;margin-right:.35em;fill:none;stroke:currentColor;stroke-width:2.4;
stroke-linecap:round;stroke-linejoin:round}
data,.none,.figure,output{font-variant-numeric:tabular-nums}

header{padding:40px 0 28px;border-bottom:1px solid var(--rule)}
header .what{font-size:.875rem;color:var(--quiet)}
.verdict{font-size:clamp(2.25rem,6vw,3.25rem);line-height:1.15;letter-spacing:-.025em}
.lead{font-size:1.1875rem;margin-top:4px}
.shortfalls{margin-top:16px;padding:12px 16px;border-left:4px solid var(--bad);
background:var(--raised)}
.shortfalls li+li{margin-top:4px}
.shortfalls .good,.shortfalls .bad{font-weight:600}
.about{display:flex;flex-wrap:wrap;gap:2px 20px;margin-top:16px;font-size:.875rem;
color:var(--quiet)}

section{margin-top:44px}
.profile{border-top:1px solid var(--rule);padding-top:36px}
.profile>p{max-width:100ch}
.held{font-size:.875rem;font-weight:400;letter-spacing:0;margin-left:8px;white-space:nowrap}
.answers li{display:grid;grid-template-columns:9em minmax(0,80ch);margin-top:10px}
.answers{margin-top:20px}

.name{white-space:nowrap}
.sample{width:28px;height:10px;margin-right:7px;vertical-align:middle}
.ours .name,.ours.look .name{font-weight:650}
.line{fill:none;stroke:var(--c);stroke-width:1.8;stroke-dasharray:var(--d);stroke-linejoin:round;
vector-effect:non-scaling-stroke}
.ours .line,.line.ours{stroke-width:2.8}

.scrolling{width:fit-content;min-width:min(100%,46em);max-width:100%;overflow-x:auto;
border:1px solid var(--rule);border-radius:8px;background:var(--raised)}
table{border-collapse:collapse;width:100%;font-size:.875rem}
th,td{padding:7px 14px;text-align:right;vertical-align:top;white-space:nowrap;font-weight:400}
th:first-child,td:first-child{text-align:left}
thead th{color:var(--quiet);vertical-align:bottom;border-bottom:1px solid var(--rule)}
thead th.look{color:var(--ink)}
tbody tr+tr>*{border-top:1px solid var(--grid)}
th:first-child{position:sticky;left:0;background:var(--raised);z-index:1}
tr.ours>*,td.ours,th.ours{background:var(--tint)}

.scrolling.wide{width:auto}
.summary td{text-align:left;min-width:132px;padding-top:9px;padding-bottom:10px}
.summary thead th{text-align:left;font-weight:600}
.summary thead a{color:var(--ink)}
.summary tbody th{vertical-align:top;padding-top:9px}
.pace data{font-weight:600;font-size:1.0625rem}
.bar{display:block;width:100%;height:6px;margin:3px 0 4px;background:var(--grid)}
.filled{fill:var(--c)}
.defined{position:absolute;width:0;height:0}
.summary .quiet,.numbers{font-size:.8125rem}
.numbers b{display:block;font-weight:600}

.contenders,.glossary{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr));
gap:12px 28px;font-size:.875rem}
.contenders dd,.glossary dd{color:var(--quiet)}
.contenders code{color:var(--quiet)}
.glossary dt{font-weight:600;scroll-margin-top:16px}
.glossary dt:target{text-decoration:underline}

.faults{display:flex;flex-wrap:wrap;gap:6px 24px;font-size:.875rem;margin-bottom:12px}
.letter{display:inline-block;min-width:1.6em;padding:0 .3em;text-align:center;border-radius:3px;
background:var(--window);color:var(--key)}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr));gap:14px}
.panel{border:1px solid var(--rule);border-radius:8px;background:var(--raised);padding:10px 8px 6px}
.panel.ours{border-color:var(--c);box-shadow:inset 0 3px 0 var(--c)}
.panel figcaption{padding:0 6px;font-size:.875rem}
.readout{display:block;font-size:.8125rem;line-height:1.4;min-height:1.4em;color:var(--quiet)}
.panel>svg,.latency>svg{display:block;width:100%;height:auto;touch-action:pan-y}
svg{font-size:11px;font-variant-numeric:tabular-nums}
text{fill:var(--quiet)}
.middle{text-anchor:middle}.end{text-anchor:end}
text.what{fill:var(--ink)}
text.key{fill:var(--key);font-weight:700}
.window{fill:var(--window);stroke:var(--key);stroke-opacity:.4;stroke-width:.6}
.moment{stroke:var(--key);stroke-width:1.5;stroke-dasharray:3 2}
.grid{stroke:var(--grid)}.base{stroke:var(--quiet);stroke-width:.8}
.panel .line{stroke-dasharray:none;stroke-width:1.6}
.panel .area{fill:var(--c);fill-opacity:.22;stroke-width:1.2}
.cursor{stroke:var(--ink);stroke-width:1}

.latency{display:grid;grid-template-columns:minmax(0,660px) minmax(280px,1fr);gap:8px 40px;
align-items:center}
.latency>svg{font-size:11.5px}
.latency ul{font-size:.8125rem;margin-top:8px}
.latency .reading{font-variant-numeric:tabular-nums}
.latency li{display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 12px;padding:3px 0;
border-top:1px solid var(--grid)}
.bars{display:grid;gap:26px 36px;
grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr))}
.bars section{margin:0}
.bars h4 .quiet{font-weight:400}
.bars li{display:grid;grid-template-columns:minmax(0,10em) minmax(40px,1fr) 5.2em;gap:8px;
align-items:center;font-size:.8125rem;padding:2px 0}
.bars .name{overflow:hidden;text-overflow:ellipsis}
.bars .bar{height:11px;margin:0}
.bars li>:last-child{text-align:right;white-space:nowrap}
.limit{font-size:.75rem}
.checks td,.checks th{text-align:left}
.checks th:nth-child(2){position:static}
.checks .figure{text-align:right}
.figures th:first-child{min-width:11em}
.figures .group th{font-size:.75rem;letter-spacing:.04em;text-transform:uppercase;
color:var(--quiet);padding-top:16px}
.problems{border-left:4px solid var(--bad);padding:2px 16px 10px;margin-top:20px;
background:var(--raised)}
.problems h3{margin:8px 0}
footer{border-top:1px solid var(--rule);margin-top:48px;padding-top:32px}
.origin{display:grid;gap:4px;font-size:.875rem}
.origin div{display:grid;grid-template-columns:7em minmax(0,1fr)}
.origin dt{color:var(--quiet)}

@media (max-width:640px){
.answers li{display:block}
.summary td{min-width:116px}
body{padding:0 16px 48px}
header{padding-top:28px}
.latency{grid-template-columns:minmax(0,1fr)}
.latency>svg{font-size:15.5px}
.odd{display:none}
th,td{padding-left:10px;padding-right:10px}
.summary .sample,.checks .sample{display:none}
.summary tbody th{white-space:normal;min-width:88px}
.summary tbody th .name{white-space:normal}
.figures th:first-child{min-width:9em;white-space:normal}
}
@media print{
:root{--ground:#fff}
section{margin-top:20px}
.profile{border:0;padding:0}
html{font-size:11px}
body{max-width:none;padding:0}
.scrolling{overflow:visible;border:0}
th:first-child{position:static}
.panels{grid-template-columns:repeat(3,1fr)}
.panel,.bars section,.latency,tr{break-inside:avoid}
.profile{break-before:page}
h2,h3{break-after:avoid}
th,td{padding:3px 5px;white-space:normal}
script{display:none}
}
@media (prefers-reduced-motion:no-preference){html{scroll-behavior:smooth}}
"""
)

SCRIPT = """
(() => {
"use strict";
const words = value => value == null ? "\\u2013"
  : (value >= 100 ? Math.round(value) : +value.toPrecision(3)).toLocaleString("en");
const time = us => us < 1e3 ? `${+us.toPrecision(2)} \\u00b5s`
  : us < 1e6 ? `${+(us / 1e3).toPrecision(2)} ms` : `${+(us / 1e6).toPrecision(2)} s`;

/* A line under the pointer, at a share of the plot's width; null takes it away. */
function cursor(svg, share, frame) {
  let line = svg.querySelector(".cursor");
  if (share === null) { if (line) line.remove(); return; }
  if (!line) {
    line = svg.appendChild(document.createElementNS(svg.namespaceURI, "line"));
    line.setAttribute("class", "cursor");
  }
  const box = svg.viewBox.baseVal;
  const x = box.width * (frame.left + share * frame.width);
  for (const [name, value] of [["x1", x], ["x2", x], ["y1", frame.top], ["y2", frame.base]])
    line.setAttribute(name, value);
}

/* Call show(share) with the place under the pointer or, by arrow keys, under the focus. */
function follow(target, svg, frame, show) {
  let at = 0.5;
  const clamp = share => Math.min(1, Math.max(0, share));
  target.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect();
    show(at = clamp(((event.clientX - box.left) / box.width - frame.left) / frame.width));
  });
  target.addEventListener("pointerleave", () => show(null));
  target.addEventListener("blur", () => show(null));
  target.addEventListener("keydown", event => {
    const step = {ArrowLeft: -0.01, ArrowRight: 0.01}[event.key];
    if (step) { event.preventDefault(); show(at = clamp(at + step)); }
    if (event.key === "Escape") show(null);
  });
}

for (const group of document.querySelectorAll(".over-time")) {
  const frame = {left: +group.dataset.left, width: +group.dataset.width, top: 18, base: 230};
  const panels = [...group.querySelectorAll(".panel")].map(panel => {
    const output = panel.querySelector(".readout");
    return {panel, output, svg: panel.querySelector(":scope > svg"), resting: output.textContent,
      series: JSON.parse(panel.dataset.series)};
  });
  const show = share => panels.forEach(({svg, output, resting, series}) => {
    cursor(svg, share, frame);
    if (share === null) { output.textContent = resting; return; }
    const seconds = share * group.dataset.seconds;
    const index = Math.floor(seconds / series.step);
    const [calls, arrived, backlog] = ["calls", "arrived", "backlog"].map(
      name => words(series[name][index]));
    output.textContent =
      `${seconds.toFixed(1)} s: ${calls} calls/s, ${arrived} stored/s, backlog ${backlog}`;
  });
  for (const {panel, svg} of panels) follow(panel, svg, frame, show);
}

for (const chart of document.querySelectorAll(".latency")) {
  const {left, width, low, high} = chart.dataset;
  const frame = {left: +left, width: +width, top: 14, base: 262};
  const svg = chart.querySelector(":scope > svg"), output = chart.querySelector(".readout");
  const resting = output.textContent;
  const rows = [...chart.querySelectorAll("li")].map(row => {
    const reading = row.querySelector(".reading");
    return {reading, resting: reading.textContent, curve: JSON.parse(row.dataset.curve)};
  });
  const within = (curve, us) => {
    let before = [curve[0][0], 0];
    for (const point of curve) {
      if (point[0] >= us) {
        const part = Math.log(us / before[0]) / Math.log(point[0] / before[0]) || 0;
        return us < curve[0][0] ? 0 : before[1] + (point[1] - before[1]) * part;
      }
      before = point;
    }
    return 1;
  };
  const show = share => {
    cursor(svg, share, frame);
    const us = share === null ? null : 10 ** (+low + share * (high - low));
    output.textContent = us === null ? resting : `Share of the calls that took at most ${time(us)}`;
    for (const {reading, resting, curve} of rows)
      reading.textContent = us === null ? resting
        : `${(Math.floor(within(curve, us) * 1e4) / 100).toFixed(2)} %`;
  };
  follow(chart, svg, frame, show);
}
})();
"""
