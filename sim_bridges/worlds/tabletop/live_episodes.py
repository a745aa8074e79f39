"""Episodes on the live stack: ``lavla up jaka_policy`` against the emulated controller, and a conductor beside it.

Real sockets, real topics, wall-clock time; what the demo shows and the benchmarks measure.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lavla_ros.bringup.session import Session, SessionError
from lavla_ros.bringup.stack import Stack, load_stack
from sim_bridges.files import read_rows

HOST = "127.0.0.1"
"""Of the emulated controller."""


class LiveEpisodes(Session):
    """``with LiveEpisodes(folder, episodes=5) as live: …``: recorded episodes one after another, until all are run."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "stack",
        episodes: int,
        arguments: Mapping[str, str] | None = None,
        modules: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """``folder`` (existing) receives NAME.log, NAME.jsonl and bags/.

        ``arguments``: of the stack. ``modules``: process → Python module that runs in its place, with
        ``environment`` besides.
        """
        self._progress = folder / f"{name}.jsonl"
        self._episodes = episodes
        self._arguments = {
            "bags": str(folder / "bags"),
            "wait_for_reset": "true",  # the conductor has to be there to record it
            **(arguments or {}),
        }
        self._modules = dict(modules or {})
        self._environment = dict(environment or {})
        conductor = ["sim_bridges.worlds.tabletop.conductor_node", "--episodes", str(episodes)]
        super().__init__(self._load_stack, [*conductor, "--progress", str(self._progress)], folder / f"{name}.log")

    def _load_stack(self, run_dir: Path) -> Stack:
        stack = load_stack("jaka_policy", self._arguments, run_dir=run_dir)
        processes = tuple(
            replace(p, module=self._modules[p.name], environment={**p.environment, **self._environment})
            if p.name in self._modules
            else p
            for p in stack.processes
        )
        return replace(stack, processes=processes)

    @property
    def port(self) -> int:
        """Command port of the emulated controller."""
        return int(self.stack.arguments["port"])

    def run_for(self, duration_s: float) -> None:
        """Let it run. Raises SessionError when something died, or the episodes were over before."""
        deadline = time.monotonic() + duration_s
        while (left_s := deadline - time.monotonic()) > 0:
            if not self.running(left_s):
                raise SessionError(f"all {self._episodes} episodes were over {left_s:.0f} s early")

    @property
    def finished(self) -> list[dict[str, Any]]:
        """One row per finished episode: index, seed, state (succeeded or failed), score, elapsed_s, bag."""
        return read_rows(self._progress)


class LiveTable:
    """See :class:`sim_bridges.world.Live`."""

    episode_s = 30.0
    ran = (
        "camera nodes, policy node, executor with its 125 Hz servo process and recorder, over ROS 2; the arm is the "
        "JAKA controller emulator, reached through its TCP protocol only"
    )

    def show(
        self, folder: Path, *, task: str, policy: str, episodes: int, seed: int, say: Callable[[str], None]
    ) -> list[Mapping[str, Any]]:
        """Raises SessionError naming what went wrong and where its log is."""
        arguments = {"policy": policy, "task": task, "seed": str(seed), "episode_s": str(self.episode_s)}
        with LiveEpisodes(folder, name=task, episodes=episodes, arguments=arguments) as live:
            told, going = 0, True
            while going:
                going = live.running(0.2)
                for row in live.finished[told:]:
                    told += 1
                    say(f"episode {told}/{episodes}: {row['state']} after {row['elapsed_s']:.1f} s")
            return [*live.finished]
