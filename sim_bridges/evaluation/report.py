"""``report.html``: one self-contained page about one evaluation or demo, or about several compared."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from sim_bridges.evaluation.compare import Comparison
from sim_bridges.evaluation.html_parts import (
    document,
    facts,
    interval,
    interval_bar,
    length_histogram,
    table,
    task_name,
    text,
)
from sim_bridges.evaluation.results import EpisodeResult, Results, Tally
from sim_bridges.perturbation import perturbations_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A publication beside which results are shown. The harness knows none: it is handed in."""

    methods: Mapping[str, str] = field(default_factory=dict)
    """Method → its name there. A method that is not among them is shown as it is called."""
    method_of: Callable[[Mapping[str, Any], Mapping[str, Any]], str] = lambda policy, training: ""
    """A checkpoint's ``policy`` configuration → its method, "" if it has none."""
    section: Callable[[Sequence[Results]], str] = lambda results: ""
    """A part of the page, as HTML: the publication's figures beside those of the results."""


NOTHING_PUBLISHED = Published()
HISTOGRAM_FROM = 20
"""Episodes; of fewer a histogram shows single episodes, which the table tells better."""


def write_report(
    path: Path,
    results: Results,
    *,
    title: str,
    reproduce: str,
    videos: Mapping[int, Path] | None = None,
    notes: Mapping[str, str] | None = None,
    published: Published = NOTHING_PUBLISHED,
) -> None:
    """Write the page; videos (episode index → mp4) are embedded, so the file can be sent around alone."""
    body = [
        _headline(results),
        _comparability([results]),
        facts(_facts(results, published) | dict(notes or {})),
        _perturbations([results], [results.policy]) if perturbations_of(results.settings) else "",
        _by_task(results) if len(results.tasks) > 1 else "",
        published.section([results]),
        _lengths(results),
        _latency(results),
        _videos(results, videos or {}),
        _episodes(results),
        _reproduce([reproduce], [results]),
    ]
    _write(path, title, body)


def write_comparison(
    path: Path,
    results: Sequence[Results],
    names: Sequence[str],
    comparisons: Sequence[Comparison],
    *,
    reproduce: str,
    published: Published = NOTHING_PUBLISHED,
) -> None:
    """Write a page about several evaluations: their rates, published figures beside all of them, pair by pair."""
    rows = []
    for name, each in zip(names, results, strict=True):
        tally = each.tally
        method = published.methods.get(each.method, each.method) or "–"
        rows.append((text(name), _counts(tally), interval_bar(tally), interval(tally), text(method), text(each.suite)))
    body = [
        _comparability(results),
        table(("evaluation", "success", "0 to 100%", "Wilson 95%", "method", "suite"), rows),
        _perturbations(results, names) if any(perturbations_of(each.settings) for each in results) else "",
        *(_comparison(each) for each in comparisons),
        published.section(results),
        _reproduce([reproduce], results),
    ]
    _write(path, "Evaluations compared", body)


def _headline(results: Results) -> str:
    tally = results.tally
    if tally.rate is None:
        return '<p class="rate">no episode was scored</p>'
    errors = f"; {tally.errors} in error, which count neither way" if tally.errors else ""
    return (
        f'<p><span class="rate">{tally.rate:.0%}</span> success <span class="muted">({tally.successes} of '
        f"{tally.scored}; Wilson 95% interval {interval(tally)}{errors})</span></p>{interval_bar(tally)}"
    )


def _comparability(results: Sequence[Results]) -> str:
    told = dict.fromkeys((each.is_comparable, each.comparable) for each in results)
    return "".join(f'<p class="note{" fine" if fine else ""}">{text(words)}</p>' for fine, words in told)


def _facts(results: Results, published: Published) -> dict[str, str]:
    values = {"Suite": results.suite, "Policy": results.policy}
    if results.method:
        values["Method"] = published.methods.get(results.method, results.method)
    if policy_hash := results.settings.get("policy_hash"):
        values["Checkpoint hash"] = str(policy_hash)
    values["Contract hash"] = results.contract_hash
    assets = results.assets
    values["Assets"] = str(assets.get("source", "")) + (f", hash {assets['hash']}" if assets.get("hash") else "")
    if assets.get("stand_ins"):
        values["Assets"] += f", {assets['stand_ins']} files of them stand-ins"
    if results.real_time_factor:
        values["Speed"] = f"{results.real_time_factor:.1f} × real time"
    return values


def _by_task(results: Results) -> str:
    rows = []
    for task, tally in results.tasks.items():
        shown = f"{_counts(tally)}{interval_bar(tally)}<small>{interval(tally)}</small>"
        rows.append((f'<td class="words">{task_name(task)}</td>', f'<td class="words">{shown}</td>'))
    return "<h2>Success by task</h2>" + table(("task", "success, with its Wilson 95% interval"), rows)


def _perturbations(results: Sequence[Results], names: Sequence[str]) -> str:
    """What was changed in the scenes of each evaluation, beside its rate."""
    rows = []
    for name, each in zip(names, results, strict=True):
        changed = ", ".join(f"{what} {value}" for what, value in perturbations_of(each.settings).items()) or "nothing"
        rows.append((text(name), text(changed), _counts(each.tally), interval(each.tally)))
    return "<h2>Perturbations</h2>" + table(("evaluation", "what was changed", "success", "Wilson 95%"), rows)


def _counts(tally: Tally) -> str:
    errors = f' <span class="error">+ {tally.errors} in error</span>' if tally.errors else ""
    rate = f" ({tally.rate:.0%})" if tally.rate is not None else ""
    return f"{tally.successes}/{tally.scored}{rate}{errors}"


def _lengths(results: Results) -> str:
    scored = results.scored
    if not scored:
        return ""
    successes = [e.length_steps for e in scored if e.success]
    failures = [e.length_steps for e in scored if not e.success]
    limit = results.settings.get("max_steps")
    picture = ""
    if len(scored) >= HISTOGRAM_FROM:
        picture = length_histogram(successes, failures, int(limit or max(e.length_steps for e in scored)))
    words = f"Contract steps of {len(scored)} episodes" + (f"; an episode fails at {limit}." if limit else ".")
    if successes:
        middle = median(successes)
        words += f" A success took {min(successes)} to {max(successes)}, half of them {middle:.0f} or fewer."
    legend = '<span class="good">■</span> success <span class="bad">■</span> failure' if picture else ""
    return f"<h2>Episode lengths</h2><p>{text(words)} {legend}</p>{picture}"


def _latency(results: Results) -> str:
    timed = [e for e in results.episodes if e.latency_ms]
    if not timed:
        return ""
    inferences = sum(e.inferences for e in timed)
    mean = sum(e.latency_ms.get("mean", 0.0) * e.inferences for e in timed) / max(1, inferences)
    rows = [
        ("mean over all inferences", mean),
        ("median of the episodes' medians", median(e.latency_ms["p50"] for e in timed)),
        ("largest of the episodes' 99th percentiles", max(e.latency_ms["p99"] for e in timed)),
        ("slowest", max(e.latency_ms["max"] for e in timed)),
    ]
    delay = results.settings.get("latency_steps")
    lines = [(f'<td class="words">{text(name)}</td>', f"{latency_ms:.1f} ms") for name, latency_ms in rows]
    words = f"Wall time of {inferences} inferences, in {len(timed)} episodes. "
    words += f"Every chunk arrived {delay} steps late." if delay else "Simulated time stood still meanwhile."
    return f"<h2>Latency</h2><p>{text(words)}</p>" + table(("", "inference"), lines, numbers=(1,))


def _videos(results: Results, videos: Mapping[int, Path]) -> str:
    if not videos:
        return ""
    by_index = {e.index: e for e in results.episodes}
    figures = []
    for index, file in sorted(videos.items()):
        data = base64.b64encode(file.read_bytes()).decode()
        figures.append(
            f'<figure><video controls muted loop playsinline preload="metadata" '
            f'src="data:video/mp4;base64,{data}"></video><figcaption>{_caption(index, by_index.get(index))}'
            "</figcaption></figure>"
        )
    return f'<h2>Videos</h2><div class="videos">{"".join(figures)}</div>'


def _caption(index: int, episode: EpisodeResult | None) -> str:
    if episode is None:
        return f"Episode {index}"
    task = f"{task_name(episode.task)}, trial {episode.trial}: " if episode.task else ""
    return f"Episode {index}: {task}{_outcome(episode)} after {episode.length_steps} steps"


def _outcome(episode: EpisodeResult) -> str:
    if episode.error is not None:
        return f'<span class="error">error: {text(episode.error)}</span>'
    return '<span class="good">success</span>' if episode.success else '<span class="bad">failure</span>'


def _episodes(results: Results) -> str:
    rows = []
    episodes = sorted(results.episodes, key=lambda e: (e.error is None, e.success, e.index))
    timed = any(e.latency_ms for e in episodes)
    for e in episodes:
        timing = f"{e.latency_ms['p50']:.0f} / {e.latency_ms['p99']:.0f}" if e.latency_ms else "–"
        start = f"state {e.state_index}" if e.state_index is not None else f"seed {e.seed}"
        cells = [str(e.index), f'<td class="words">{task_name(e.task or results.task)}</td>', start]
        rows.append([*cells, _outcome(e), f"{e.score:.2f}", str(e.length_steps), *([timing] if timed else [])])
    head = ("#", "task", "start", "outcome", "score", "steps", *(["inference p50 / p99 (ms)"] if timed else []))
    content = table(head, rows)
    if len(rows) > 60:
        content = f"<details><summary>All {len(rows)} episodes</summary>{content}</details>"
        if results.errors:
            broken = rows[: len(results.errors)]
            content = f"<p>In error:</p>{table(head, broken)}{content}"
    order = "<p>Those in error first, then failures, then successes.</p>" if results.tally.successes < len(rows) else ""
    return f"<h2>Episodes</h2>{order}{content}"


def _comparison(comparison: Comparison) -> str:
    pairs = comparison.pairs
    left, right = text(comparison.left), text(comparison.right)
    rows = [
        (
            f'<td class="words">{task_name(task)}</td>',
            str(each.count),
            f"{each.left / each.count:.0%}",
            f"{each.right / each.count:.0%}",
            str(each.only_left),
            str(each.only_right),
            f"{each.p_value:.2g}",
        )
        for task, each in ({"all": pairs} | comparison.tasks if len(comparison.tasks) > 1 else {"all": pairs}).items()
    ]
    head = ("task", "pairs", "first", "second", "only the first", "only the second", "p")
    scores = "".join(f"<p>{text(line.strip().capitalize())}.</p>" for line in comparison.words_of_scores())
    left_out = f" {comparison.unpaired} episodes have no scored partner." if comparison.unpaired else ""
    return (
        f"<h2>{left} against {right}</h2><p><strong>{text(comparison.verdict())}</strong> First: {left}; second: "
        f"{right}. Episodes are paired by task, trial and initial state; p is two-sided, from McNemar's test in its "
        f"exact form.{left_out}</p>{scores}{table(head, rows, numbers=range(1, 7))}{_differing(comparison)}"
    )


def _differing(comparison: Comparison) -> str:
    """The pairs that the verdict rests on: where one succeeded and the other did not."""
    rows = []
    for first, second in comparison.differing:
        start = f"state {first.state_index}" if first.state_index is not None else f"seed {first.seed}"
        name = f'<td class="words">{task_name(first.task)}</td>'
        rows.append((name, start, str(first.index), _outcome(first), str(second.index), _outcome(second)))
    head = ("task", "start", "episode", "first", "episode", "second")
    summary = f"<summary>The {len(rows)} pairs that differ</summary>"
    return f"<details>{summary}{table(head, rows)}</details>" if rows else ""


def _reproduce(commands: Iterable[str], results: Sequence[Results]) -> str:
    lines = "\n".join(commands)
    versions = dict.fromkeys(", ".join(f"{k} {v}" for k, v in each.versions.items()) for each in results)
    settings = "\n".join(json.dumps(each.settings, indent=1, ensure_ascii=False) for each in results)
    return (
        f"<h2>How to reproduce</h2><pre>{text(lines)}</pre>"
        f"<p>Versions: {text('; '.join(versions))}.</p>"
        f"<p>{_repeatable(results)}</p>"
        f"<details><summary>Settings</summary><pre>{text(settings)}</pre></details>"
    )


def _repeatable(results: Sequence[Results]) -> str:
    if any(each.live for each in results):
        return "Live episodes run on the wall clock: the same command gives the same scenes, not the same motions."
    prints = ", ".join(each.fingerprint for each in results)
    return (
        "The same settings with the same versions give the same episodes bit for bit, on any number of workers; "
        f"results.json then has the fingerprint <code>{text(prints)}</code>."
    )


def _write(path: Path, title: str, body: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document(title, "\n".join(body)), encoding="utf-8")
