"""``lavla up``, ``lavla demo``, ``lavla demo-bimanual`` and ``lavla emulator``: live, over ROS 2."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from lavla_ros.cli.arguments import fields_of
from sim_bridges.demos.config import DemoConfig


def up(stack: tyro.conf.Positional[str], arguments: tyro.conf.Positional[tuple[str, ...]] = (), /) -> None:
    """The stack starts as with "ros2 launch lavla_ros STACK.launch.py", but launch_ros is not needed. Ctrl-C stops it.

    Example: lavla up jaka_policy policy:=runs/policy/best record:=true

    Args:
        stack: Name of a stack in config/stacks, or a file. "lavla up STACK --help" lists the stack's arguments.
        arguments: Arguments of the stack, each written name:=value, as for ros2 launch.
    """
    from lavla_ros.bringup.launcher import up as run
    from lavla_ros.bringup.stack import stack_arguments

    if arguments == ("help",):
        show_stack_arguments(stack)
    else:
        sys.exit(run(stack, stack_arguments(arguments)))


def show_stack_arguments(stack: str) -> None:
    from lavla_ros.bringup.stack import read_arguments

    for argument in read_arguments(stack):
        choices = f" One of {', '.join(argument.choices)}." if argument.choices else ""
        default = str(argument.default).lower() if isinstance(argument.default, bool) else argument.default
        print(f"{argument.name}:={default}\n    {argument.description}{choices}")


def demo(config: Annotated[DemoConfig, fields_of(DemoConfig, positional=["suite"], tasks="task")]) -> None:
    """The demo writes bags, videos and a report.

    Example: lavla demo tabletop --task stack_bowls
    """
    from sim_bridges.demos.demo import run_demo

    run_demo(config, _tell)


@dataclass(frozen=True, kw_only=True)
class BimanualDemo(DemoConfig):
    """Two arms."""

    suite: str = "robotwin_standin"
    out: Path | None = None
    """New folder for everything that the demo writes. The default is runs/demo-bimanual-TIME."""
    policy: str = "expert"
    tasks: tuple[str, ...] = ()
    """Tasks to show: stack_two_blocks, handover_block, move_blocks_to_pads. The default is all of them."""
    episodes: int = 1


Bimanual = Annotated[BimanualDemo, fields_of(BimanualDemo, without=["suite", "options", "policy"])]


def demo_bimanual(config: Bimanual) -> None:
    """The demo runs the stand-in for RoboTwin, and writes bags, videos and a report. The scripted expert acts; to see a
    policy of yours, run "lavla demo robotwin_standin --policy …"."""
    from sim_bridges.demos.demo import run_demo

    run_demo(config, _tell, name="demo-bimanual")


def emulator(arguments: Sequence[str]) -> Callable[[], None]:
    """The call that the arguments of ``lavla emulator`` describe."""
    from sim_bridges.worlds.tabletop.live import main

    return lambda: sys.exit(main(arguments, prog="lavla emulator"))


def _tell(text: str) -> None:
    print(f"demo: {text}", flush=True)
