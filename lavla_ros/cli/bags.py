"""``lavla bags info`` and ``lavla contract draft``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from lavla_ros.cli.arguments import Json
from lavla_ros.cli.terminal import CommandError, to_json

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
    from rich.table import Column, Table

    console = Console(highlight=False, markup=False)
    table = Table(Column("topic", overflow="fold"), Column("type", overflow="fold"))
    for heading in ("messages", "Hz", "largest gap, s", "log - stamp", "holds"):
        table.add_column(heading, overflow="fold")
    for topic in facts.topics:
        rate = "" if topic.rate_hz is None else f"{topic.rate_hz:.4g}{'' if topic.clock == 'header' else ' (log)'}"
        gap = "" if topic.largest_gap_s is None else f"{topic.largest_gap_s:.3f}"
        delay = "" if topic.delay_ms is None else _lateness(topic.delay_ms)
        kinds = "\n".join(kind.replace("/msg/", "/") for kind in topic.types)
        table.add_row(topic.name, kinds, str(topic.count), rate, gap, delay, _held(topic))
    console.print(f"{facts.bag}: {facts.messages} messages in {facts.duration_s:.1f} s")
    console.print(table)
    for number, episode in enumerate(facts.episodes, 1):
        text = f": {episode.instruction}" if episode.instruction else ""
        console.print(f"episode {number} of {len(facts.episodes)}, {episode.outcome}{text}")
    for finding in facts.findings:
        console.print(f"look at {finding}")


def _lateness(delay_ms: float) -> str:
    return f"{delay_ms:.1f} ms" if abs(delay_ms) < 1e4 else f"{delay_ms / 1e3:.4g} s"


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


def draft(source: tyro.conf.Positional[Path], /, out: Path | None = None, name: str | None = None) -> None:
    """What was seen is written down; GUESS marks what to look at, FILL IN what only a person knows, CANNOT BE SAID what
    the robot does and no contract can express. The file loads once every FILL IN has a value.

    Example: lavla contract draft runs/others/episode_0 --out my_robot.yaml

    Args:
        source: A bag, or a LeRobot dataset.
        out: The new file. Without it, the contract is printed.
        name: Name of the contract. The default is that of the file, or of the bag.
    """
    from lavla_ros.outputs import new_file
    from training.dataset import layout
    from training.ingest.draft import draft_from_bag, draft_from_dataset
    from training.ingest.inspection import inspect_bag

    if out is not None and out.exists():
        raise CommandError(f"{out} exists already; choose another file")
    called = name or (out or source.resolve()).stem
    if (source / layout.INFO).exists():
        text = draft_from_dataset(source, called)
    else:
        text = draft_from_bag(inspect_bag(source), called)
    if out is None:
        print(text, end="")
        return
    with new_file(out) as file:
        file.write_text(text, encoding="utf-8")
    print(
        f"{out}: {text.count('# FILL IN')} blanks, {text.count('# GUESS')} guesses, {text.count('# CANNOT BE SAID')} "
        "things that a contract cannot say"
    )
