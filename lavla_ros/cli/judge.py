"""``lavla judge``, and ``lavla paper``: rollouts of a real arm, scored by a person."""

from __future__ import annotations

import sys
from pathlib import Path

import tyro

from lavla_ros.cli.arguments import Json
from lavla_ros.cli.terminal import to_json


def judge(
    protocol: tyro.conf.Positional[Path],
    /,
    out: Path,
    again: tuple[int, ...] = (),
    page: bool = False,
    host: str = "127.0.0.1",
    port: int = 8421,
    token: str = "",
) -> None:
    """The protocol says which models do which tasks how often. Each rollout runs through the stack, on the real arm or
    in simulation, and is scored with one key per score; docs/judging.md explains it. Every key is on the disk before it
    is shown, and the same command goes on where it was left. With the last score it writes the results of each model,
    which "lavla compare" pairs.

    Example: lavla judge protocol.yaml --out runs/judged

    Example: lavla judge protocol.yaml --out runs/judged --page

    Args:
        protocol: File that describes the comparison.
        out: Folder for scores, bags, videos, pictures and results.
        again: Rollouts that are to be repeated although they have a score, by their numbers in the folder "rollouts".
        page: Keys, pictures and scores on a page in the browser, instead of this terminal.
        host: Of the page: address to listen on. Any other than this computer's own needs a token.
        port: Of the page; 0 takes a free one.
        token: Of the page: what a browser has to give, once, in the address that is printed.
    """
    if page:
        from sim_bridges.judging.page import judging_page

        sys.exit(judging_page(protocol, out, again, host=host, port=port, token=token))
    from sim_bridges.judging.folder import JudgingFolder
    from sim_bridges.judging.live import finish
    from sim_bridges.judging.live import judge as run
    from sim_bridges.paper.tables import PAPER

    with JudgingFolder.open(protocol, out) as folder:
        for index in again:
            print(f"{folder.again(index, 'to be repeated').name} will be repeated")
        if run(folder, lambda text: print(text, flush=True)):
            print("\n".join(finish(folder, PAPER)))
        else:
            print(f"everything is kept in {out}; the same command goes on")


def paper(as_json: Json = False) -> None:
    """Fig. 4 and Table 3 come from the rollouts of the paper's Tables 13 to 22. Every figure that the paper calculates
    from them is checked; those that do not match are listed, and so are scores that its own rubric does not have.

    Example: lavla paper --json

    Args:
        as_json: Print the figures as JSON.
    """
    from sim_bridges.paper.rollouts import recompute

    found = recompute()
    print(to_json(found.to_dict()) if as_json else found)
