"""The fixed text of the page: its style and its script. Nothing here comes from a study.

The policy forbids every request: what the page needs is inside it. A live page may ask the server that it came from.
"""

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)

LIVE_POLICY = f"{POLICY}; connect-src 'self'"

STYLE = """
:root { color-scheme: light dark; --paper: #f5f6f8; --card: #ffffff; --ink: #1b2430; --soft: #5b6472;
  --line: #e2e6ec; --accent: #c85a00; --good: #0c7a63; --bad: #b8293f; --tint: #fff4ea; --bar: #2f78d0; }
@media (prefers-color-scheme: dark) { :root { --paper: #11151b; --card: #1a2029; --ink: #e8ecf2; --soft: #9ba6b5;
  --line: #2b3440; --accent: #ff9d52; --good: #45c8a9; --bad: #ff7f8f; --tint: #2c2319; --bar: #5b9bea; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); overflow-wrap: anywhere;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main, header > div, footer { max-width: 1320px; margin: 0 auto; padding: 0 24px; }
header { padding: 28px 0 4px; }
h1 { margin: 0; font-size: 28px; line-height: 1.2; letter-spacing: -0.01em; }
h2 { margin: 0 0 2px; font-size: 18px; letter-spacing: -0.005em; }
.lead, .hint { color: var(--soft); margin: 4px 0 0; }
.hint { font-size: 13px; margin-bottom: 10px; }
.facts { display: flex; flex-wrap: wrap; gap: 6px 22px; margin: 14px 0 0; padding: 0; list-style: none;
  font-size: 14px; }
.facts b { font-weight: 500; color: var(--soft); margin-right: 6px; }
.cards { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 14px; margin: 20px 0 0; }
.card, section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
.card { padding: 14px 18px 16px; }
.card .what { display: flex; justify-content: space-between; gap: 8px; color: var(--soft); font-size: 13px; }
.card .now { font-size: 30px; font-weight: 650; line-height: 1.25; letter-spacing: -0.02em;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
.card .was { color: var(--soft); font-size: 14px; }
.card .was strong { color: var(--good); font-weight: 600; }
.card .was strong.worse { color: var(--bad); }
.mark { border: 1px solid var(--line); border-radius: 99px; padding: 0 8px; font-size: 12px; white-space: nowrap; }
.mark.measured { color: var(--good); } .mark.estimated { border-style: dashed; }
.verdict { margin: 14px 0 0; padding: 10px 16px; border-radius: 10px; border: 1px solid var(--line);
  border-left: 4px solid var(--good); background: var(--card); }
.verdict.bad { border-left-color: var(--bad); }
#live { margin: 14px 0 0; padding: 2px 16px 12px; border-radius: 10px; border: 1px solid var(--line);
  border-left: 4px solid var(--accent); background: var(--card); }
#live .verdict { border: 0; padding: 8px 0 0; margin: 0; }
#live.lost { border-left-color: var(--bad); }
.running { margin: 6px 0 0; padding: 0 0 0 18px; font-size: 13px; color: var(--soft); columns: 260px auto; }
main { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 18px; padding-top: 18px; }
section { padding: 18px 20px; min-width: 0; }
section.wide { grid-column: 1 / -1; }
.key { display: flex; flex-wrap: wrap; gap: 6px 8px; margin: 8px 0 0; font-size: 13px; align-items: center; }
.key button, .key span { display: inline-flex; align-items: center; gap: 6px; color: inherit; font: inherit; }
.key button { border: 1px solid var(--line); border-radius: 99px; padding: 2px 11px; background: none;
  cursor: pointer; }
.key button[aria-pressed=false] { opacity: 0.4; text-decoration: line-through; }
.key span { color: var(--soft); padding: 2px 6px; }
.key i { width: 11px; height: 11px; border-radius: 3px; display: inline-block; }
.scroll { overflow-x: auto; max-height: 620px; overflow-y: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 550; color: var(--soft); position: sticky; top: 0; background: var(--card);
  white-space: nowrap; box-shadow: inset 0 -1px var(--line); }
th, td { padding: 6px 14px 6px 0; vertical-align: top; overflow-wrap: normal; }
td { border-bottom: 1px solid var(--line); }
tr:last-child td { border-bottom: 0; }
.n { text-align: right; } .n, .one { white-space: nowrap; }
td.name { min-width: 150px; max-width: 280px; overflow-wrap: anywhere;
  font-family: ui-monospace, "SF Mono", Menlo, "Liberation Mono", monospace;
  font-size: 12.5px; }
td.say { min-width: 260px; overflow-wrap: anywhere; }
tr.best td { background: var(--tint); } tr.same td { color: var(--soft); }
.bar { display: inline-block; vertical-align: middle; width: 64px; height: 7px; margin-left: 9px; border-radius: 4px;
  background: var(--line); overflow: hidden; } .bar i { display: block; height: 100%; background: var(--bar); }
details > summary { cursor: pointer; color: var(--soft); margin: 4px 0; }
pre { white-space: pre-wrap; font-size: 12.5px; margin: 6px 0; }
footer { color: var(--soft); font-size: 13px; padding-top: 18px; padding-bottom: 36px; }
a { color: var(--accent); }
@media (max-width: 1000px) { .cards { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  main { grid-template-columns: minmax(0, 1fr); } }
@media (max-width: 620px) { main, header > div, footer { padding-left: 12px; padding-right: 12px; }
  section { padding: 14px 12px; } h1 { font-size: 23px; } .cards { gap: 10px; } .card { padding: 10px 12px 12px; }
  td.say { min-width: 430px; }
  .card .now { font-size: 22px; } .card .was { font-size: 13px; } }
@media print { .scroll { max-height: none; } section { break-inside: avoid; } }
"""

SCRIPT = """
"use strict";
let figures = JSON.parse(document.getElementById("figures").textContent);
const hidden = new Set();
const config = {responsive: true, displaylogo: false, showSendToCloud: false, scrollZoom: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"]};
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const theme = () => ({"font.color": colour("--soft"), "hoverlabel.bgcolor": colour("--card"),
  "hoverlabel.bordercolor": colour("--line"), "hoverlabel.font.color": colour("--ink"),
  "modebar.bgcolor": "rgba(0,0,0,0)", "modebar.color": colour("--line"), "modebar.activecolor": colour("--soft")});
const drawnTrials = plot => plot._fullData.filter(trace => trace.meta === "trials")
  .reduce((sum, trace) => sum + plot.querySelectorAll(".trace" + trace.uid + " path.point").length, 0);

async function draw() {
  for (const [id, figure] of Object.entries(figures)) {
    const plot = document.getElementById(id);
    if (plot.dataset.key === "page") { figure.layout.showlegend = false; figure.layout.margin.b = 10; }
    figure.data.forEach(trace => { if (plot.dataset.key && hidden.has(trace.name)) trace.visible = false; });
    await Plotly.react(plot, figure.data, figure.layout, config);
    await Plotly.relayout(plot, theme());
  }
  document.body.dataset.points = drawnTrials(document.getElementById("pareto-size_bytes"));
}

document.addEventListener("click", event => {
  const button = event.target.closest(".key button");
  if (!button) return;
  const shown = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", shown);
  shown ? hidden.delete(button.dataset.trace) : hidden.add(button.dataset.trace);
  document.querySelectorAll("[data-key=page]").forEach(plot => {
    const traces = plot.data.flatMap((trace, i) => trace.name === button.dataset.trace ? [i] : []);
    if (traces.length) Plotly.restyle(plot, {visible: shown}, traces);
  });
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
  Object.keys(figures).forEach(id => Plotly.relayout(id, theme())));
draw();
"""

# Asks the server how far the search is; where trials have come, it takes over what the page says of them, in place, and
# draws the figures anew.
LIVE_SCRIPT = """
const seconds = 3;

async function renew() {
  const text = await (await fetch("content", {cache: "no-store"})).text();
  const fresh = new DOMParser().parseFromString(text, "text/html");
  figures = JSON.parse(fresh.getElementById("figures").textContent);
  fresh.querySelectorAll("[role=img]").forEach(place => {
    const plot = document.getElementById(place.id);
    if (plot) { plot.style.height = place.style.height; place.replaceWith(document.adoptNode(plot)); }
  });
  fresh.querySelectorAll(".key button").forEach(button =>
    button.setAttribute("aria-pressed", !hidden.has(button.dataset.trace)));
  fresh.getElementById("live").replaceWith(document.adoptNode(document.getElementById("live")));
  const scrolled = window.scrollY;
  document.querySelector("header").replaceWith(document.adoptNode(fresh.querySelector("header")));
  document.querySelector("main").replaceWith(document.adoptNode(fresh.querySelector("main")));
  document.body.dataset.trials = fresh.body.dataset.trials;
  await draw();
  window.scrollTo(0, scrolled);
}

async function look() {
  const live = document.getElementById("live");
  try {
    const state = await (await fetch("live", {cache: "no-store"})).json();
    if (state.version !== live.dataset.version) { await renew(); live.dataset.version = state.version; }
    live.innerHTML = state.markup;
    live.classList.remove("lost");
  } catch (error) {
    if (!live.classList.contains("lost"))
      live.insertAdjacentHTML("beforeend", "<p class='verdict bad'>The server of this page does not answer.</p>");
    live.classList.add("lost");
  }
  setTimeout(look, 1000 * seconds);
}
setTimeout(look, 1000 * seconds);
"""
