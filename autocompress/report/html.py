"""One page that shows a whole study, needs no network and runs nothing the study wrote."""

from __future__ import annotations

import html
from pathlib import Path
from typing import NamedTuple

from plotly.offline import get_plotlyjs

from autocompress.core.evaluation import LATENCY
from autocompress.core.front import minimised, non_dominated
from autocompress.report import attribution_tables, rung_correlation
from autocompress.report.files import GENERATOR, write_files
from autocompress.report.page import LIVE_POLICY, LIVE_SCRIPT, POLICY, SCRIPT, STYLE
from autocompress.report.plots import axes, pareto_figure, plan_figure, progress_figure, timings_figure
from autocompress.report.sections import (
    cards,
    facts,
    front_table,
    key,
    plan_table,
    untouched_table,
    verdict,
    warnings,
)
from autocompress.report.tables import as_csv, as_json, trials_frame
from autocompress.report.text import finer_of, in_order, title_of
from autocompress.report.view import StudyView


def write_report(view: StudyView, folder: Path) -> Path:
    """Write `pareto.html`, `trials.csv` and `trials.json` into `folder`, each whole or not at all.

    Returns the path of the page. InputError where files of these names are there that are no report of ours,
    EnvironmentFault when the folder cannot be written.
    """
    frame = trials_frame(view)
    return write_files(folder, page(view), as_csv(frame), as_json(frame))


class Live(NamedTuple):
    """What makes a page a live one: which version of the study it shows, and the markup of who searches."""

    version: str
    markup: str


def page(view: StudyView, live: Live | None = None, *, scripts: bool = True) -> str:
    """The page as text. Without `scripts` it is what a live page takes over when the study has changed."""
    figures = {f"pareto-{x}": pareto_figure(view, x) for x in axes(view)}
    figures |= {"plan": plan_figure(view), "progress": progress_figure(view), "timings": timings_figure(view)}
    heights = {name: int(figure.layout.height) for name, figure in figures.items()}
    data = "{" + ",".join(f'"{name}":{figure.to_json()}' for name, figure in figures.items()) + "}"

    def plot(name: str, label: str, attributes: str = "") -> str:
        return (f'<div id="{name}" role="img" aria-label="{label}" style="height:{heights[name]}px"'
                f"{attributes}></div>")

    def pareto(x: str, label: str) -> str:
        return plot(f"pareto-{x}", label, ' data-key="page"')

    heading = view.metric.heading
    texts = {name: html.escape(f"{heading} against {title_of(name, view.targets).lower()}")
             for name in in_order(axes(view), view.metric) if name.startswith(LATENCY)}
    latencies = "\n".join(_section(text, "", pareto(name, text)) for name, text in texts.items())
    best = f"trial {view.best}" if view.best is not None else "no trial inside the budget"
    title, title_in = html.escape(view.name), html.escape(heading)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{LIVE_POLICY if live else POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
{GENERATOR}
<link rel="icon" href="data:,">
<title>{title} · autocompress</title>
<style>{STYLE}</style>
</head>
<body data-trials="{len(view.drawn)}">
<header><div>
<h1>{title}</h1>
{f'<div id="live" data-version="{html.escape(live.version)}">{live.markup}</div>' if live else ""}
<p class="lead">{html.escape(view.budget.describe(view.metric))}</p>
{facts(view)}
{cards(view)}
{verdict(view)}
{warnings(view)}
</div></header>
<main>
{_section(f"{title_in} against size", f"{_drawn(view)}; hover a point for its metrics and plan. Click a "
          "status to hide or show it in all such figures.",
          key(view) + pareto("size_bytes", f"{title_in} against size"), True)}
{latencies}
{_section(f"{title_in} against MACs", "", pareto("macs", f"{title_in} against multiply-accumulates"))}
{_section("The front", _front_hint(view), front_table(view), True)}
{_section("The best plan", f"From input to output, {best}.", plot("plan", "The best plan, layer by layer"), True)}
{_section("The best plan, layer by layer", "Bytes are packed weights and biases; scales and the graph come on top.",
          plan_table(view), True)}
{_section("What each technique bought", attribution_tables.HINT,
          attribution_tables.attribution_tables(view), True)}
{_section("Do the rungs agree?", rung_correlation.HINT, rung_correlation.agreement_table(view), True)}
{_section("Progress", "", plot("progress", f"Best {html.escape(view.metric.name)} so far"))}
{_section("Where the time went", "", plot("timings", "Seconds by phase"))}
{_section("Layers no technique touches", "", untouched_table(view), True)}
</main>
<footer>Every trial as data: <a href="trials.csv">trials.csv</a>, <a href="trials.json">trials.json</a>.
Made by autocompress; this page {"follows a search" if live else "works offline"}.</footer>
<script type="application/json" id="figures">{_inert(data)}</script>
{f"<script>{get_plotlyjs()}</script><script>{SCRIPT}{LIVE_SCRIPT if live else ''}</script>" if scripts else ""}
</body>
</html>
"""


def _drawn(view: StudyView) -> str:
    """How many trials the figures draw, and which."""
    drawn, every = len(view.drawn), len(view.candidates)
    if drawn == every:
        return "Every trial is drawn"
    return (f"{drawn:,} of {every:,} trials are drawn: the whole front, those that were trained, the best in the "
            "metric, and of the others evenly many by number; trials.csv holds all")


def _front_hint(view: StudyView) -> str:
    """What is true of the trials in the table: the best stands there even where another dominates it."""
    fast = " on every device" if view.targets else ""
    points = {c.trial: minimised(c.metrics, view.metric) for c in view.candidates if c.trial in view.front}
    others = [trial for trial in points if trial != view.best]
    beaten = view.best in points and view.best not in [
        [*others, view.best][i] for i in non_dominated([*(points[trial] for trial in others), points[view.best]])]
    if not beaten:
        return f"No other trial inside the budget is at once as good, as small and as fast{fast}."
    return (f"No other trial inside the budget is at once as good, as small and as fast{fast} as one of these, but for "
            f"the best, trial {view.best}: another is, within what the validation samples can tell, and the best is "
            f"that of the least {html.escape(finer_of(view.metric))}.")


def _section(title: str, hint: str, body: str, wide: bool = False) -> str:
    note = f'<p class="hint">{hint}</p>' if hint else ""
    return f'<section{_class("wide" if wide else "")}><h2>{title}</h2>{note}{body}</section>'


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _inert(json_text: str) -> str:
    """JSON that cannot end its script element: the same value, no character that HTML reads."""
    return json_text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
