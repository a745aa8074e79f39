"""Runs one training through many deaths: `python dying_runs.py CONFIG.yaml POINT…`, in a process per life.

A POINT is ``step:7`` (SIGKILL before that optimizer step), ``rename:3`` (before the third rename of that life, which
are what saving consists of) or ``end`` (live). Every life resumes where the last one got to.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from lavla_ros.config import read_config
from training.config import TrainConfig
from training.loop import Trainer
from training.train import train


def live(config_file: Path, point: str) -> None:
    kind, _, number = point.partition(":")
    if kind == "step":
        whole_step = Trainer._train_step

        def dying_step(self: Trainer, *, stop: bool) -> dict[str, float]:
            if self.step == int(number):
                os.kill(os.getpid(), signal.SIGKILL)
            return whole_step(self, stop=stop)

        Trainer._train_step = dying_step
    elif kind == "rename":
        rename, seen = Path.rename, []

        def dying_rename(self: Path, target: Path) -> Path:
            seen.append(self)
            if len(seen) == int(number):
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(self, target)

        Path.rename = dying_rename
    train(read_config(TrainConfig, config_file))


def main() -> None:
    config_file = Path(sys.argv[1])
    for point in sys.argv[2:]:
        child = os.fork()
        if child == 0:
            live(config_file, point)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        died = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if died == (point == "end") or (not died and status != 0):
            sys.exit(f"{point}: unexpected status {status}")


if __name__ == "__main__":
    main()
