"""Runs one training undisturbed and again through many deaths: `python dying_runs.py KIND WHOLE KILLED POINT…`.

KIND is policy, action or image; WHOLE and KILLED are configuration files. Every life is a process. A POINT is
``step:7`` (SIGKILL before that optimizer step), ``stage1:2`` (the same, of the run whose output has that name),
``rename:3`` (before the third rename of that life, which are what saving consists of) or ``end`` (live). Every life
resumes where the last one got to.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lavla_ros.config import read_config
from training.config import TrainConfig
from training.latent_actions.action_config import ActionLamTrainConfig
from training.latent_actions.action_train import train_action_lam
from training.latent_actions.image_config import ImageLamTrainConfig
from training.latent_actions.image_train import train_image_lam
from training.loop import Trainer
from training.train import train

KINDS: dict[str, tuple[type[Any], Callable[[Any], Path]]] = {
    "policy": (TrainConfig, train),
    "action": (ActionLamTrainConfig, train_action_lam),
    "image": (ImageLamTrainConfig, train_image_lam),
}


def live(kind: str, config_file: Path, point: str) -> None:
    where, _, number = point.partition(":")
    if where == "rename":
        rename, seen = Path.rename, []

        def dying_rename(self: Path, target: Path) -> Path:
            seen.append(self)
            if len(seen) == int(number):
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(self, target)

        Path.rename = dying_rename
    elif number:
        whole_step = Trainer._train_step

        def dying_step(self: Trainer, *, stop: bool) -> dict[str, float]:
            if self.step == int(number) and where in ("step", self.config.output.name):
                os.kill(os.getpid(), signal.SIGKILL)
            return whole_step(self, stop=stop)

        Trainer._train_step = dying_step
    config_class, run = KINDS[kind]
    run(read_config(config_class, config_file))


def main() -> None:
    kind, whole, killed, *points = sys.argv[1:]
    for file, point in [(whole, "end"), *((killed, point) for point in points)]:
        child = os.fork()
        if child == 0:
            live(kind, Path(file), point)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        died = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if died == (point == "end") or (not died and status != 0):
            sys.exit(f"{point}: unexpected status {status}")


if __name__ == "__main__":
    main()
