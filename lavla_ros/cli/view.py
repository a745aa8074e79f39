"""``lavla view`` and ``lavla view live``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro

from lavla_ros.cli.terminal import CommandError
from lavla_ros.defaults import DEFAULT_CONTRACT


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
        _require_new(out, kinds)
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
        write_layout(shown.contract, foxglove, shown.topics)
        print(f"{foxglove}: in Foxglove, import it as a layout, and open {source}")


def live(
    contract: str = DEFAULT_CONTRACT,
    images: Literal["observation", "raw", "compressed"] = "observation",
    port: int = 8765,
    foxglove: Path | None = None,
    namespace: str = "",
) -> None:
    """Foxglove, on this computer, is shown what the stack in this ROS domain would record: cameras, joints, chunks,
    executor and episode. A simulated stack says its domain when it starts: export ROS_DOMAIN_ID in both terminals.
    Nothing is commanded through it. Ctrl-C ends it.

    Example: lavla view live --foxglove layout.json

    Args:
        contract: Name of a contract in config/contracts, or a file: which topics are shown.
        images: Camera images to show: observation is what the policy sees, the others are what the driver sends.
        port: Port that Foxglove connects to; 0 takes a free one.
        foxglove: A new layout for Foxglove, .json; it shows bags as well.
        namespace: Namespace of the stack.
    """
    from lavla_ros.cli.run import run_node
    from lavla_ros.contract import IMAGE_KINDS, load_contract

    loaded = load_contract(contract)
    _require_new(foxglove, (".json",))
    if foxglove is not None:
        from training.view.foxglove import write_layout

        shown = IMAGE_KINDS.index(images)
        write_layout(loaded, foxglove, [spec.topic_choices[shown] for spec in loaded.cameras])
        print(f"{foxglove}: in Foxglove, import it as a layout")
    sys.exit(run_node("viewer", {"contract": contract, "images": images, "port": port}, namespace))


def _require_new(out: Path | None, kinds: Sequence[str]) -> None:
    if out is not None and out.exists():
        raise CommandError(f"{out} exists already; choose another file")
    if out is not None and out.suffix not in kinds:
        raise CommandError(f"{out} ends in {out.suffix!r}; expected one of {list(kinds)}")
