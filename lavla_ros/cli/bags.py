"""``lavla bags info`` and ``lavla contract draft``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from lavla_ros.cli.arguments import Json
from lavla_ros.cli.terminal import to_json

if TYPE_CHECKING:
    from training.ingest.inspection import BagFacts, Topic


def info(bag: tyro.conf.Positional[Path], /, as_json: Json = False) -> None:
    """Every message is read once. Rates and gaps are those of the stamps in the headers; topics without headers are
    measured by their log times.

    Example: lavla bags info runs/bags/episode_000007

    Args:
        bag: Folder of the bag, or its .mcap or .db3 file.
        as_json: Print JSON, with every range and every episode.
    """
    from training.ingest.inspection import inspect_bag

    facts = inspect_bag(bag)
    if as_json:
        print(to_json(facts))
    else:
        _show(facts)


def _show(facts: BagFacts) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    table = Table("topic", "type", "messages", "Hz", "largest gap, s", "log - stamp, ms", "holds")
    for topic in facts.topics:
        rate = "" if topic.rate_hz is None else f"{topic.rate_hz:.4g}{'' if topic.clock == 'header' else ' (log)'}"
        gap = "" if topic.largest_gap_s is None else f"{topic.largest_gap_s:.3f}"
        delay = "" if topic.delay_ms is None else f"{topic.delay_ms:.1f}"
        kinds = "\n".join(kind.replace("/msg/", "/") for kind in topic.types)
        table.add_row(topic.name, kinds, str(topic.count), rate, gap, delay, _held(topic))
    console.print(f"{facts.bag}: {facts.messages} messages in {facts.duration_s:.1f} s")
    console.print(table)
    for number, episode in enumerate(facts.episodes, 1):
        text = f": {episode.instruction}" if episode.instruction else ""
        console.print(f"episode {number} of {len(facts.episodes)}, {episode.outcome}{text}")
    for finding in facts.findings:
        console.print(f"look at {finding}")


def _held(topic: Topic) -> str:
    if topic.pictures:
        size = f"{topic.pictures.width}x{topic.pictures.height} " if topic.pictures.width else ""
        return f"{size}{topic.pictures.encoding}{', cannot be converted' if topic.pictures.problem else ''}"
    if topic.joints:
        extra = " with velocity" * topic.joints.velocity + " with effort" * topic.joints.effort
        parts = " (not all in every message)" if topic.joints.partial else ""
        points = f", up to {topic.joints.points} points" if topic.joints.points > 1 else ""
        return f"{', '.join(topic.joints.names)}{extra}{parts}{points}"
    return ""
