"""``lavla up``, ``console``, ``teleop``, ``demo``, ``demo-bimanual`` and ``emulator``: live, over ROS 2."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from lavla_ros.cli.arguments import fields_of
from lavla_ros.defaults import DEFAULT_CONTRACT
from lavla_ros.teleop.config import TeleopOptions
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


def console(
    stack: tyro.conf.Positional[str] = "record_demos",
    arguments: tyro.conf.Positional[tuple[str, ...]] = (),
    /,
    mapping: str = "browser",
    device: str = "",
    host: str = "127.0.0.1",
    port: int = 8420,
    token: str = "",
    models: Path | None = None,
) -> None:
    """The stack starts, and a page in the browser shows cameras, joints, faults and recorded episodes. It moves, holds
    and resumes the arm, clears faults, records, labels, discards, runs models. Ctrl-C stops both; a page that is closed
    stops no more than what it moves by hand.

    Example: lavla console record_demos bags:=runs/bags

    Example: lavla console jaka_policy policy:=runs/policy/best bags:=runs/rollouts --models runs

    Args:
        stack: Name of a stack in config/stacks, or a file.
        arguments: Arguments of the stack, each written name:=value.
        mapping: What moves the arm by hand: browser, a pad on the page; gamepad or spacemouse, plugged in here; a YAML
            file like config/teleop/browser.yaml; or nothing, so that "lavla teleop" can in another terminal.
        device: Which one of several gamepads: a file like /dev/input/event3. The default is what the mapping says.
        host: Address to listen on. Any other than this computer's own needs a token.
        port: Port of the page; 0 takes a free one.
        token: What a browser has to give, once, in the address that is printed; 16 letters and digits or more.
        models: Folder whose checkpoints the page offers to run, beside the bundled one and that of the stack.
    """
    from lavla_ros.bringup.person import open_console
    from lavla_ros.bringup.stack import stack_arguments

    open_console(
        stack,
        stack_arguments(arguments),
        mapping=mapping,
        device=device,
        host=host,
        port=port,
        token=token,
        models=models,
    )


def show_stack_arguments(stack: str) -> None:
    from lavla_ros.bringup.stack import read_arguments

    for argument in read_arguments(stack):
        choices = f" One of {', '.join(argument.choices)}." if argument.choices else ""
        default = str(argument.default).lower() if isinstance(argument.default, bool) else argument.default
        print(f"{argument.name}:={default}\n    {argument.description}{choices}")


def teleop(
    options: Annotated[TeleopOptions, fields_of(TeleopOptions)],
    mapping: str = "keyboard",
    device: str = "",
    leader: str = "",
    contract: str = DEFAULT_CONTRACT,
    namespace: str = "",
) -> None:
    """The arm of the stack that runs in this ROS domain moves while the dead-man is held, before any policy; a button
    or key gives it back. A simulated stack says its domain when it starts: export ROS_DOMAIN_ID in both terminals.

    Example: lavla teleop --mapping gamepad --level 3

    Args:
        mapping: What the inputs do: keyboard, gamepad, spacemouse, browser, or a YAML file like
            config/teleop/gamepad.yaml.
        device: keyboard, topic (a program sends the events on teleop/events), a file like /dev/input/event3, or a
            recorded stream of events (*.jsonl). The default is what the mapping says.
        leader: JointState topic of another arm, whose joints are inputs of the mapping by their names.
        contract: A shipped name or a YAML file; its robot is the arm that is moved.
        namespace: Namespace of the stack.
    """
    from lavla_ros.teleop.config import load_mapping

    load_mapping(mapping)  # a wrong one is told before ROS starts
    parameters = {"mapping": mapping, "device": device, "leader": leader, "contract": contract, **asdict(options)}
    sys.exit(run_node("teleop", parameters, namespace))


def run_node(name: str, parameters: Mapping[str, Any], namespace: str) -> int:
    """Run one node beside a stack until it ends, or Ctrl-C; its exit status."""
    import subprocess

    from lavla_ros.bringup.environment import ros_environment
    from lavla_ros.bringup.stack import Process
    from lavla_ros.lifeline import lifeline
    from lavla_ros.places import run_dir

    place = f"/{namespace.strip('/')}" if namespace else ""
    module = f"lavla_ros.nodes.{name}_node"
    process = Process(name=name, module=module, is_node=True, parameters=parameters, namespace=place)
    with run_dir() as folder, subprocess.Popen(process.command(folder), env=ros_environment() | lifeline()) as node:
        while node.poll() is None:
            try:
                node.wait()
            except KeyboardInterrupt:  # a terminal's Ctrl-C reaches the node, too; that of another program does not
                node.send_signal(signal.SIGINT)
    return node.returncode


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
