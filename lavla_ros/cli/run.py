"""``lavla up``, ``lavla demo``, ``lavla demo-bimanual`` and ``lavla emulator``: live, over ROS 2."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import tyro

from lavla_ros.bringup.stack import read_arguments, stack_arguments
from lavla_ros.cli.arguments import SuiteOptions
from sim_bridges.worlds import DEFAULT_SUITE


def up(stack: tyro.conf.Positional[str], arguments: tyro.conf.Positional[tuple[str, ...]] = (), /) -> None:
    """The stack starts as with "ros2 launch lavla_ros STACK.launch.py", but launch_ros is not needed. Ctrl-C stops it.

    Example: lavla up jaka_policy policy:=runs/policy/best record:=true

    Args:
        stack: Name of a stack in config/stacks, or a file. "lavla up STACK --help" lists the stack's arguments.
        arguments: Arguments of the stack, each written name:=value, as for ros2 launch.
    """
    from lavla_ros.bringup.launcher import up as run

    if arguments == ("help",):
        show_stack_arguments(stack)
    else:
        sys.exit(run(stack, stack_arguments(arguments)))


def show_stack_arguments(stack: str) -> None:
    for argument in read_arguments(stack):
        choices = f" One of {', '.join(argument.choices)}." if argument.choices else ""
        default = str(argument.default).lower() if isinstance(argument.default, bool) else argument.default
        print(f"{argument.name}:={default}\n    {argument.description}{choices}")


def demo(
    suite: tyro.conf.Positional[str] = DEFAULT_SUITE,
    /,
    option: SuiteOptions = (),
    out: Path | None = None,
    policy: str = "",
    task: tuple[str, ...] = (),
    episodes: int = 5,
    seed: int = 0,
    disturb: bool = False,
) -> None:
    """The demo writes bags, videos and a report.

    Example: lavla demo tabletop --task stack_bowls

    Args:
        suite: Name of a suite, or module:factory of yours. One that has no live stack of its own is shown in lock-step.
        option: Option of the suite, written name=value; it may be given several times. --name value does the same.
        out: New folder for everything that the demo writes. The default is runs/demo-TIME.
        policy: Checkpoint directory, "bundled" or "expert". The default is the policy that the package has for the
            suite, and the scripted expert if it has none.
        task: Tasks to show, by name or number. The default is the suite's usual ones.
        episodes: Number of episodes of each task.
        seed: Seed of the evaluation whose first scenes are shown.
        disturb: Push the expert's arm now and then, to show how it recovers.
    """
    from sim_bridges.suites import parse_options

    what = {"policy": policy, "tasks": task, "episodes": episodes, "seed": seed, "disturb": disturb}
    _demonstrate("demo", out, suite=suite, options=parse_options(option), **what)


def demo_bimanual(
    out: Path | None = None, tasks: tuple[str, ...] = (), episodes: int = 1, seed: int = 0, disturb: bool = False
) -> None:
    """The demo runs the stand-in for RoboTwin, and writes bags, videos and a report. The scripted expert acts; to see a
    policy of yours, run "lavla demo robotwin_standin --policy …".

    Args:
        out: New folder for everything that the demo writes. The default is runs/demo-bimanual-TIME.
        tasks: Tasks to show: stack_two_blocks, handover_block, move_blocks_to_pads. The default is all of them.
        episodes: Number of episodes per task.
        seed: Seed of the evaluation whose first scenes are shown.
        disturb: Push the arms now and then, to show how the expert recovers.
    """
    what = {"tasks": tasks, "episodes": episodes, "seed": seed, "disturb": disturb}
    _demonstrate("demo-bimanual", out, suite="robotwin_standin", policy="expert", **what)


def emulator(arguments: Sequence[str]) -> Callable[[], None]:
    """The call that the arguments of ``lavla emulator`` describe."""
    from sim_bridges.worlds.tabletop.live import main

    return lambda: sys.exit(main(arguments, prog="lavla emulator"))


def _new_folder(name: str) -> Path:
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def _demonstrate(name: str, out: Path | None, **what: Any) -> None:
    from sim_bridges.demos.demo import DemoConfig, run_demo

    config = DemoConfig(out=out or _new_folder(name), **what)
    results, out = run_demo(config, lambda text: print(f"demo: {text}", flush=True)), config.out
    print(f"demo: {results.summary()}")
    print(f"demo: open {out}/report.html; videos {out}/episode_*.mp4, bags {out}/bags, {out}/results.json")
