"""Episodes on the live stack: ``lavla up jaka_policy`` against the emulated controller, and a conductor beside it.

Real sockets, real topics, wall-clock time; what the demo shows and the benchmarks measure.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lavla_ros.bringup.session import Session, SessionError
from lavla_ros.bringup.stack import Stack, load_stack

HOST = "127.0.0.1"
"""Of the emulated controller."""


class LiveEpisodes(Session):
    """``with LiveEpisodes(folder, episodes=5) as live: …``: recorded episodes one after another, until all are run."""

    def __init__(
        self,
        folder: Path,
        *,
        episodes: int,
        arguments: Mapping[str, str] | None = None,
        modules: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """``folder`` (existing) receives stack.log, progress.jsonl and bags/.

        ``arguments``: of the stack. ``modules``: process → Python module that runs in its place, with
        ``environment`` besides.
        """
        self._progress = folder / "progress.jsonl"
        self._episodes = episodes
        self._arguments = {
            "bags": str(folder / "bags"),
            "wait_for_reset": "true",  # the conductor has to be there to record it
            **(arguments or {}),
        }
        self._modules = dict(modules or {})
        self._environment = dict(environment or {})
        conductor = ["sim_bridges.worlds.tabletop.conductor_node", "--episodes", str(episodes)]
        super().__init__(self._load_stack, [*conductor, "--progress", str(self._progress)], folder / "stack.log")

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


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file that may not exist yet."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
