"""``lavla bench``: figures of this machine, printed as JSON."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks.config import ConsoleBench, PipelineBench, SafetyBench, SceneBench, ServoBench, SuiteBench, TrainBench
from lavla_ros.cli.arguments import fields_of
from lavla_ros.cli.terminal import to_json
from lavla_ros.outputs import new_file

Servo = Annotated[ServoBench, fields_of(ServoBench, duration_s="duration")]
Pipeline = Annotated[PipelineBench, fields_of(PipelineBench, duration_s="duration")]
Console = Annotated[ConsoleBench, fields_of(ConsoleBench, duration_s="duration")]
Out = Annotated[Path | None, tyro.conf.arg(help="Name of a JSON file that the figures are written to as well.")]


def servo(config: Servo, out: Out = None) -> None:
    """The live stack runs with the emulated controller, which notes when each command arrives."""
    from benchmarks.servo import run

    _show(run, config, out)


def safety(config: Annotated[SafetyBench, fields_of(SafetyBench)], out: Out = None) -> None:
    """Each scenario breaks something while the emulated arm moves, and reports how the arm moved after it."""
    from benchmarks.safety.campaign import run

    _show(run, config, out)


def scene(config: Annotated[SceneBench, fields_of(SceneBench)], out: Out = None) -> None:
    """Random plans lead into a table, posts and the arm itself. The figures are how near the arm came, how many plans
    were stopped, with and without need, and what a tick costs."""
    from benchmarks.scene import run

    _show(run, config, out)


def pipeline(config: Pipeline, out: Out = None) -> None:
    """The live stack runs with probes in its nodes; the time that rendering takes is shown apart."""
    from benchmarks.pipeline import run

    _show(run, config, out)


def console(config: Console, out: Out = None) -> None:
    """The console runs beside the topics of a robot, with its page in a headless Chromium."""
    from benchmarks.console import run

    _show(run, config, out)


def train(config: Annotated[TrainBench, fields_of(TrainBench)], out: Out = None) -> None:
    """The trainer runs on random weights and random data, with every strategy in turn."""
    from benchmarks.gpu_train import run

    _show(run, config, out)


def suite(config: Annotated[SuiteBench, fields_of(SuiteBench, positional=["suite"])], out: Out = None) -> None:
    """The figures are steps per second in lock-step, in process and over topics, the time that a picture takes, memory,
    and the speed of an evaluation relative to real time."""
    from benchmarks.suite import run

    _show(run, config, out)


def _show(run: Callable[[Any], dict[str, Any]], config: Any, out: Path | None) -> None:
    with new_file(out) if out else nullcontext() as file:
        text = to_json(run(config))
        if file is not None:
            file.write_text(text + "\n", encoding="utf-8")
    print(text)
