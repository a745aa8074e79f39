"""``lavla view``."""

from __future__ import annotations

from pathlib import Path

import tyro

from lavla_ros.cli.terminal import CommandError


def view(
    source: tyro.conf.Positional[Path],
    /,
    episode: int = 0,
    contract: str | None = None,
    picture: Path | None = None,
    rerun: Path | None = None,
    foxglove: Path | None = None,
) -> None:
    """The picture has what the cameras saw, what was measured and commanded, the chunks that were planned, and where a
    person commanded. Bags are opened by Foxglove as they are: the layout shows a contract's cameras and joints there.

    Example: lavla view runs/bags/episode_000007 --picture episode.png

    Args:
        source: A bag or a dataset.
        episode: Which of its episodes, from 0.
        contract: Name of a contract in config/contracts, or a file. The default is the one that the source has.
        picture: The new picture; .png, .pdf or .svg. It is made as NAME.png here if nothing is asked for.
        rerun: A new recording for Rerun, .rrd (pip install lavla_ros[view]).
        foxglove: A new layout for Foxglove, .json.
    """
    from training.view.episode import open_episode

    if picture is None and rerun is None and foxglove is None:
        picture = Path(f"{source.resolve().name}_{episode}.png")
    for out, kinds in ((picture, (".png", ".pdf", ".svg")), (rerun, (".rrd",)), (foxglove, (".json",))):
        if out is not None and out.exists():
            raise CommandError(f"{out} exists already; choose another file")
        if out is not None and out.suffix not in kinds:
            raise CommandError(f"{out} ends in {out.suffix!r}; expected one of {list(kinds)}")
    if picture is not None:
        from training.view.timeline import write_timeline

        print(f"{picture}: {write_timeline(open_episode(source, episode, contract), picture)} steps")
    if rerun is not None:
        from training.view.rerun_recording import write_rerun

        print(f"{rerun}: {write_rerun(open_episode(source, episode, contract), rerun)} steps")
    if foxglove is not None:
        from training.view.foxglove import write_layout

        shown = open_episode(source, episode, contract)
        if not shown.topics:
            raise CommandError(f"{source} is a dataset; Foxglove opens bags: name the bag that it was made of")
        write_layout(shown, foxglove)
        print(f"{foxglove}: in Foxglove, import it as a layout, and open {source}")
