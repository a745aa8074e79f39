"""Pieces of HTML that the reports are made of: one style, no scripts, nothing loaded from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

from sim_bridges.evaluation.results import Tally

STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #1a7f37; --bad: #c62828; --soft: #8882; --ours: #2f6fb3; }
@media (prefers-color-scheme: dark) { :root { --good: #4ac26b; --bad: #ff7b72; --ours: #79b8ff; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 1rem;
  overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; } h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p, li { max-width: 48rem; } .rate { font-size: 2.2rem; font-weight: 650; } .muted { opacity: .7; }
.note { border-left: .25rem solid #b26a00; padding: .2rem 0 .2rem .8rem; margin: .8rem 0; }
.note.fine { border-color: var(--good); }
.bar { position: relative; height: .8rem; background: var(--soft); border-radius: .4rem; margin: .3rem 0;
  min-width: 7rem; }
.bar i { position: absolute; top: 0; bottom: 0; background: #4a90d9aa; border-radius: .4rem; }
.bar b { position: absolute; top: -.2rem; bottom: -.2rem; width: 3px; margin-left: -1px; background: currentColor; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { white-space: normal; overflow-wrap: normal; vertical-align: bottom; }
td.words { white-space: normal; min-width: 9rem; } td.number { text-align: right; }
th.number { text-align: right; } .facts th, .facts td { vertical-align: top; }
.ours { display: block; color: var(--ours); font-weight: 650; } .ours small { font-weight: 400; display: block; }
.good { color: var(--good); } .bad { color: var(--bad); } .error { color: #b26a00; white-space: normal; }
.videos { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); gap: 1rem; }
video { width: 100%; border-radius: .4rem; background: #000; } figure { margin: 0; }
svg { width: 100%; max-width: 40rem; height: auto; display: block; }
code, pre { font-family: ui-monospace, monospace; font-size: .85rem; }
pre { overflow-x: auto; background: var(--soft); padding: .6rem; border-radius: .4rem; }
summary { cursor: pointer; padding: .3rem 0; }
"""


def document(title: str, body: str) -> str:
    """A whole page."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title><style>{STYLE}</style></head><body>
<h1>{text(title)}</h1>
{body}
</body></html>
"""


def text(value: object) -> str:
    return html.escape(str(value))


def in_words(task: str) -> str:
    """Some benchmarks' tasks are whole sentences in one word; as words they can be wrapped."""
    return task.replace("_", " ") if len(task) > 20 else task


def task_name(name: str) -> str:
    return text(in_words(name))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Iterable[int] = ()) -> str:
    """Cells are HTML; those that begin with ``<td`` bring their own element. ``numbers``: columns set right."""
    right = set(numbers)

    def cell(column: int, content: str) -> str:
        if content.startswith("<td"):
            return content
        return f'<td class="number">{content}</td>' if column in right else f"<td>{content}</td>"

    heads = "".join(f"<th{' class=number' if i in right else ''}>{text(name)}</th>" for i, name in enumerate(head))
    lines = "".join(f"<tr>{''.join(cell(i, c) for i, c in enumerate(row))}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{heads}</tr>{lines}</table></div>'


def facts(values: Mapping[str, str]) -> str:
    """A table of two columns, in plain text."""
    rows = "".join(f'<tr><th>{text(k)}</th><td class="words">{text(v)}</td></tr>' for k, v in values.items())
    return f'<div class="scroll"><table class="facts">{rows}</table></div>'


def interval_bar(tally: Tally) -> str:
    """The rate as a mark on its Wilson interval, from 0 to 100%."""
    rate, interval = tally.rate, tally.wilson95
    return "" if rate is None or interval is None else bar(rate, *interval)


def bar(value: float, low: float, high: float) -> str:
    """A mark on its interval, from 0 to 1."""
    return (
        f'<div class="bar"><i style="left:{low:.2%};width:{high - low:.2%}"></i><b style="left:{value:.2%}"></b></div>'
    )


def interval(tally: Tally) -> str:
    bounds = tally.wilson95
    return f"{bounds[0]:.1%} to {bounds[1]:.1%}" if bounds is not None else "–"


def length_histogram(successes: Sequence[int], failures: Sequence[int], most: int) -> str:
    """Episode lengths in contract steps, successes and failures on one another, as a picture of its own."""
    width, height, base, left, bins = 480, 205, 160, 42, 28  # four digits fit to the left
    counts = [[0, 0] for _ in range(bins)]
    for which, lengths in enumerate((successes, failures)):
        for length in lengths:
            counts[min(bins - 1, length * bins // max(1, most))][which] += 1
    highest = max((a + b for a, b in counts), default=0) or 1
    step = (width - left - 20) / bins
    bars = []
    for i, (good, bad) in enumerate(counts):
        x, y = left + i * step, float(base)
        for count, colour in ((good, "var(--good)"), (bad, "var(--bad)")):
            tall = (base - 15) * count / highest
            y -= tall
            if count:
                bars.append(
                    f'<rect x="{x:.1f}" y="{y:.1f}" width="{step - 2:.1f}" height="{tall:.1f}" fill="{colour}"/>'
                )
    ticks = "".join(
        f'<text x="{left + bins * step * k / 4:.0f}" y="{base + 18}" text-anchor="middle">{most * k // 4}</text>'
        for k in range(5)
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Histogram of episode lengths" '
        f'font-size="15" fill="currentColor">{"".join(bars)}'
        f'<line x1="{left}" x2="{width - 20}" y1="{base}" y2="{base}" stroke="currentColor" stroke-opacity=".4"/>'
        f'{ticks}<text x="{left - 6}" y="20" text-anchor="end">{highest}</text>'
        f'<text x="{width - 20}" y="{base + 38}" text-anchor="end">contract steps</text></svg>'
    )
