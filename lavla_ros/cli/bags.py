"""``lavla bags …`` and ``lavla contract draft``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from lavla_ros.cli.arguments import Json
from lavla_ros.cli.terminal import CommandError, to_json
from lavla_ros.errors import UserError

if TYPE_CHECKING:
    from lavla_ros.recording.library import RecordedEpisode
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


def list_episodes(
    folder: tyro.conf.Positional[Path],
    /,
    with_discarded: Annotated[bool, tyro.conf.arg(name="all")] = False,
    as_json: Json = False,
) -> None:
    """The newest of a folder is first. What a person has said of an episode since it was recorded counts, and who said
    it is told. An episode that is being recorded is not listed.

    Example: lavla bags list runs/bags

    Args:
        folder: Folder that the bags lie in, or folders with bags.
        with_discarded: List discarded episodes too, after the others of their folder.
        as_json: Print JSON.
    """
    from lavla_ros.recording.library import Library

    episodes = [
        dataclasses.replace(each, name=str((library.root / each.name).relative_to(folder)))
        for library in Library.below(folder)
        for each in library.episodes()
        if with_discarded or not each.discarded
    ]
    if as_json:
        print(to_json([dataclasses.asdict(each) for each in episodes]))
        return
    if not episodes:
        raise CommandError(f"{folder} holds no bag of an episode but what may be discarded, which --all lists")
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(
        Column("episode", no_wrap=True), "outcome", Column("s", justify="right"), Column("MB", justify="right")
    )
    for heading in ("instruction", "note", "said by"):
        table.add_column(heading, overflow="fold")
    for each in episodes:
        size = f"{each.size_bytes * 1e-6:.1f}"
        what = each.problem or each.instruction
        table.add_row(each.name, _outcome(each), f"{each.duration_s:.1f}", size, what, each.note, each.said_by)
    Console(highlight=False, markup=False).print(table)


def _outcome(episode: RecordedEpisode) -> str:
    several = f" (the first of {episode.episodes})" if episode.episodes > 1 else ""
    return f"{episode.outcome or 'unreadable'}{several}{', discarded' if episode.discarded else ''}"


def show(bag: tyro.conf.Positional[Path], /, as_json: Json = False) -> None:
    """What the bag says of its episode, what was said of it since and when that changed, and its files.

    Example: lavla bags show runs/bags/episode_000007

    Args:
        bag: Folder of the bag. A discarded one is found under its old name too.
        as_json: Print JSON.
    """
    from lavla_ros.recording.library import Library

    library, name = Library.of(bag)
    path = library.path(name)
    files = {file.name: file.stat().st_size for file in sorted(path.iterdir()) if file.is_file()}
    episode, history = library.episode(name), library.said(name).get("history", [])
    if as_json:
        print(to_json({"path": str(path), **dataclasses.asdict(episode), "history": history, "files": files}))
        return
    print(f"{path}: {_outcome(episode)}, {episode.duration_s:.1f} s, {episode.size_bytes * 1e-6:.1f} MB")
    told = {"problem": episode.problem, "instruction": episode.instruction, "note": episode.note}
    told |= {"said by": episode.said_by, "pictures": ", ".join(episode.cameras)}
    for key, text in told.items():
        if text:
            print(f"  {key}: {text}")
    for before in history:
        words = [f"{key} {before[key]!r}" for key in ("outcome", "instruction", "note", "by") if before.get(key)]
        print(f"  until {before.get('until')}: {', '.join(words) or 'what the bag says'}")
    for file, size in files.items():
        print(f"  {file}: {size} bytes")


def drop(bags: tyro.conf.Positional[tuple[Path, ...]], /, restore: bool = False) -> None:
    """The bags are moved to the folder .discarded beside them, where no conversion looks; nothing is deleted. If one of
    them cannot be moved, none is.

    Example: lavla bags drop runs/bags/episode_000007

    Args:
        bags: Folders of the bags.
        restore: Bring discarded bags back.
    """
    from lavla_ros.recording.library import Library

    moved: list[tuple[Library, str]] = []
    try:
        for library, name in map(Library.of, bags):
            (library.restore if restore else library.discard)(name)
            moved.append((library, name))
    except UserError:
        for library, name in moved:
            (library.discard if restore else library.restore)(name)
        raise
    for library, name in moved:
        back = "" if restore else f"; `lavla bags drop --restore {library.root / name}` brings it back"
        print(f"{library.path(name)}{back}")


def relabel(
    bags: tyro.conf.Positional[tuple[Path, ...]],
    /,
    outcome: Literal["succeeded", "failed"] | None = None,
    instruction: str | None = None,
    note: str | None = None,
) -> None:
    """What is said lies beside the bag as label.json, with what was said before; the bag stays as it was recorded.
    Conversions take the label. If one of the bags cannot be labelled, none is.

    Example: lavla bags relabel runs/bags/episode_000007 --outcome failed --note "it slipped"

    Args:
        bags: Folders of the bags.
        outcome: How the episode ended.
        instruction: What the episode shows, in place of every instruction in it.
        note: What is to be known of it; an empty one removes the note.
    """
    from lavla_ros.recording.library import Library

    if outcome is None and instruction is None and note is None:
        raise CommandError("say what is to be said: --outcome, --instruction or --note")
    found = [Library.of(bag) for bag in bags]
    for library, name in found:
        library.require_one_that_is_whole(name)
    for library, name in found:
        library.label(name, outcome=outcome, instruction=instruction, note=note)
        said = library.episode(name)
        print(f"{library.path(name)}: {_outcome(said)}: {said.instruction}{f' ({said.note})' if said.note else ''}")


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
