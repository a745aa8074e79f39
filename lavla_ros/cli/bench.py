"""``lavla bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import tyro

from lavla_ros.cli.arguments import SuiteOptions


def bench(
    name: tyro.conf.Positional[str],
    /,
    out: Path | None = None,
    scenarios: tuple[str, ...] = (),
    duration: float = 60.0,
    burn: bool = False,
    policy: str = "",
    option: SuiteOptions = (),
    task: str = "",
    strategies: tuple[str, ...] = (),
    size: Literal["2b", "small"] = "2b",
    batch_size: int = 32,
) -> None:
    """The figures are printed as JSON, and written to a file if --out names one.

    servo: punctuality of the 125 Hz loop, measured at the controller. safety: what the arm does when something breaks;
    it takes about seven minutes. pipeline: time from a camera capture to the first command. train: time and memory of
    an optimizer step, for every strategy. The name of a suite, or module:factory of yours: steps per second in
    lock-step, in process and over topics, pictures, memory, and speed of an evaluation relative to real time.

    Args:
        name: What to measure.
        out: Name of the JSON file.
        scenarios: For safety, run only the scenarios whose names contain one of these texts.
        duration: For servo and pipeline, number of seconds to measure.
        burn: For servo, load every core with matrix products meanwhile.
        policy: The policy that runs. The default is the bundled one; for a suite, the one that the package has for it.
        option: Option of the suite, written name=value; it may be given several times. --name value does the same.
        task: Task of the suite. The default is the first of those that it usually runs.
        strategies: For train, strategies to measure, by name or as module:attribute. The default is all that come with
            the package.
        size: For train, whether to measure the full-size model, which needs a GPU, or a small one that runs anywhere.
        batch_size: For train, number of samples per step.
    """
    from sim_bridges.files import write_json

    if name == "servo":
        from benchmarks import servo

        figures = servo.run(duration_s=duration, burn=burn, policy=policy or "bundled")
    elif name == "safety":
        from benchmarks.safety import campaign

        figures = campaign.run(scenarios)
    elif name == "pipeline":
        from benchmarks import pipeline

        figures = pipeline.run(policy=policy or "bundled", duration_s=duration)
    elif name == "train":
        from benchmarks import gpu_train

        figures = gpu_train.run(size=size, batch_size=batch_size, strategies=strategies)
    else:
        from benchmarks import suite
        from sim_bridges.suites import parse_options

        figures = suite.run(name, options=parse_options(option), task=task, policy=policy)
    if out is not None:
        write_json(out, figures)
    print(json.dumps(figures, indent=2))
