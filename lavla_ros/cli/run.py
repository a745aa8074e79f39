"""``lavla up``, ``lavla demo``, ``lavla demo-bimanual`` and ``lavla emulator``: live, over ROS 2."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import tyro

from lavla_ros.bringup.stack import read_arguments, stack_arguments


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
    out: Path | None = None,
    policy: str = "bundled",
    task: Literal["pick_place", "stack_bowls"] = "pick_place",
    episodes: int = 5,
    seed: int = 0,
) -> None:
    """The demo writes bags, videos and a report.

    Args:
        out: New folder for everything that the demo writes. The default is runs/demo-TIME.
        policy: Checkpoint directory, or "bundled".
        task: The task that the arm is to perform.
        episodes: Number of episodes.
        seed: Seed of the first episode's layout; each episode uses the next seed.
    """
    from sim_bridges.demos.tabletop import DemoConfig, run_demo

    config = DemoConfig(out=out or _new_folder("demo"), policy=policy, task=task, episodes=episodes, seed=seed)
    _demonstrate(run_demo, config)


def demo_bimanual(
    out: Path | None = None, tasks: tuple[str, ...] = (), episodes: int = 1, seed: int = 0, disturb: bool = False
) -> None:
    """The demo runs the stand-in for RoboTwin, and writes bags, videos and a report. The scripted expert acts; to see a
    policy of yours, run "lavla up robotwin_policy policy:=…".

    Args:
        out: New folder for everything that the demo writes. The default is runs/demo-bimanual-TIME.
        tasks: Tasks to show: stack_two_blocks, handover_block, move_blocks_to_pads. The default is all of them.
        episodes: Number of episodes per task.
        seed: Seed of the evaluation whose first scenes are shown.
        disturb: Push the arms now and then, to show how the expert recovers.
    """
    from sim_bridges.demos.bimanual import BimanualDemoConfig, run_bimanual_demo

    folder = out or _new_folder("demo-bimanual")
    config = BimanualDemoConfig(out=folder, tasks=tasks, episodes=episodes, seed=seed, disturb=disturb)
    _demonstrate(run_bimanual_demo, config)


def emulator(arguments: Sequence[str]) -> Callable[[], None]:
    """The call that the arguments of ``lavla emulator`` describe."""
    from sim_bridges.worlds.tabletop.live import main

    return lambda: sys.exit(main(arguments, prog="lavla emulator"))


def _new_folder(name: str) -> Path:
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def _demonstrate(run: Callable[..., Any], config: Any) -> None:
    results, out = run(config, lambda text: print(f"demo: {text}", flush=True)), config.out
    print(f"demo: {results.summary()}")
    print(f"demo: open {out}/report.html; videos {out}/episode_*.mp4, bags {out}/bags, {out}/results.json")
