"""The ``lavla`` command: every step from demonstrations to a working arm.

A command is a function of one of the modules here, imported when it is asked for; what it runs is imported when it
runs. So help is quick, and a robot without the training packages still has its commands.
"""

from __future__ import annotations

import importlib
import io
import os
import select
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import NamedTuple, TextIO

from lavla_ros.errors import one_line_errors
from lavla_ros.lifeline import die_with_parent
from lavla_ros.places import use_writable_places

_DESCRIPTION = """Take a vision-language-action policy from demonstrations to a working arm.

Record demonstrations, convert the bags to a dataset, train a policy, evaluate it in simulation, run it over ROS 2."""


class Command(NamedTuple):
    """Where a command is, and what it does, in a line."""

    module: str
    function: str
    summary: str
    parses: bool = False
    """Whether the function gets the arguments as they are, and returns the call that they describe."""


COMMANDS = {
    "record": Command("record", "record", "Record demonstrations over ROS, one bag per episode.", parses=True),
    "convert": Command("data", "convert", "Convert recorded episodes to a LeRobotDataset v3.0."),
    "recover": Command(
        "data", "recover", "Make a readable bag from one that was cut off when its recorder was killed."
    ),
    "bags info": Command("bags", "info", "Show what a bag holds: topics, rates, pictures, joints, clocks, episodes."),
    "bags list": Command("bags", "list_episodes", "List the recorded episodes in a folder."),
    "bags show": Command("bags", "show", "Show what is said of a recorded episode, and what was said before."),
    "bags drop": Command("bags", "drop", "Discard recorded episodes, or bring them back."),
    "bags relabel": Command("bags", "relabel", "Say how recorded episodes ended and what they show."),
    "contract draft": Command("bags", "draft", "Propose the contract of a robot from a bag or a dataset."),
    "import": Command(
        "data",
        "import_demonstrations",
        "Import demonstrations: a benchmark's HDF5 files, LeRobot (v2.0, v2.1, v3.0), or a format of your own.",
    ),
    "dataset stats": Command("data", "summary", "Show what a dataset holds: dimensions, instructions, outcomes."),
    "dataset check": Command("data", "check", "Check a dataset."),
    "dataset repair": Command("data", "repair", "Mend what a crash or a damaged disk left of a dataset."),
    "dataset merge": Command("data", "merge", "Make one dataset of several."),
    "dataset split": Command("data", "split", "Make two datasets of one."),
    "dataset drop": Command("data", "drop", "Make a dataset without some episodes of another."),
    "dataset relabel": Command(
        "data", "relabel", "Make a dataset in which episodes have another instruction or outcome."
    ),
    "latent train": Command("latent", "train", "Train an action or an image latent action model.", parses=True),
    "latent label": Command("latent", "label", "Write the latent actions of every step beside a dataset."),
    "latent encode": Command("latent", "encode", "Turn action chunks into codes with an action model."),
    "latent decode": Command("latent", "decode", "Turn codes back into action chunks."),
    "latent inspect": Command("latent", "inspect", "Show what the codes of a latent action model mean."),
    "view": Command("view", "view", "Look at a recorded episode: a picture, Rerun, a layout for Foxglove."),
    "view live": Command("view", "live", "Look at a running stack with Foxglove."),
    "train": Command("train", "train", "Train a policy on a dataset.", parses=True),
    "export": Command("train", "export", "Write a policy with its adapters merged into its backbone, or them alone."),
    "eval": Command("evaluate", "evaluate", "Evaluate a policy in lock-step with a simulator."),
    "compare": Command("evaluate", "compare", "Compare evaluations of the same initial states, episode by episode."),
    "study": Command("evaluate", "study", "Compare the training strategies, from recorded bags to a table."),
    "judge": Command("judge", "judge", "Score rollouts of several models on the arm, by a protocol."),
    "paper": Command("judge", "paper", "Recompute the paper's real-world figures from its own rollouts."),
    "up": Command("run", "up", "Start a stack of ROS nodes."),
    "console": Command(
        "run", "console", "Start a stack with a page in the browser, to record, judge and clear faults."
    ),
    "doctor": Command(
        "doctor", "doctor", "Find what is wrong with this machine, the arm, the cameras or a live stack."
    ),
    "scene show": Command("scene", "show", "Draw an arm in its cell, and see how near recorded motion came to it."),
    "teleop": Command("run", "teleop", "Move the arm of a running stack by hand, and take over from its policy."),
    "demo": Command("run", "demo", "Watch a learned policy move the emulated JAKA arm, live over ROS 2."),
    "demo-bimanual": Command("run", "demo_bimanual", "Watch two arms solve tasks, live over ROS 2."),
    "emulator": Command(
        "run", "emulator", "Run the emulator of JAKA's controller over a live, simulated table.", parses=True
    ),
    "bench servo": Command("bench", "servo", "Measure the punctuality of the 125 Hz loop, at the controller."),
    "bench safety": Command("bench", "safety", "Measure what the arm does when something breaks."),
    "bench scene": Command("bench", "scene", "Measure how arms keep their distance on random plans."),
    "bench pipeline": Command("bench", "pipeline", "Measure the time from a camera's capture to the first command."),
    "bench console": Command("bench", "console", "Measure what the console's page costs while it is open."),
    "bench train": Command("bench", "train", "Measure time and memory of an optimizer step, for every strategy."),
    "bench": Command("bench", "suite", 'Measure the speed of a suite: "lavla bench SUITE".'),
}
_GROUPS = {
    "bags": "Bags: look at recorded episodes, label and discard them.",
    "contract": "Contracts: what a robot observes, and how it is commanded.",
    "dataset": "Datasets: look at one, find what is wrong with it, mend it, and make others of it.",
    "latent": "Latent action models: train them, label datasets, look at what their codes mean.",
    "scene": "Scenes: what an arm must not touch.",
    "bench": "Benchmarks: the figures of this machine, printed as JSON.",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the ``lavla`` console script."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # ignored: nohup
        signal.signal(signal.SIGHUP, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a letter shows a question mark
    with _reader_may_leave(), one_line_errors("lavla"):
        try:
            use_writable_places()
            die_with_parent()
            parse(arguments)()
        except KeyboardInterrupt:
            print("lavla: interrupted", file=sys.stderr)
            sys.exit(130)


def parse(arguments: Sequence[str]) -> Callable[[], None]:
    """The call that the arguments describe. Ends the process, with status 2, if they describe none."""
    group = arguments[0] if arguments and arguments[0] in _GROUPS else ""
    if list(arguments[bool(group) :][:1]) in (["-h"], ["--help"]):
        return lambda: print(_help(group))
    if arguments == ["--version"]:
        return lambda: print(f"lavla_ros {metadata.version('lavla_ros')}")
    words = [word.replace("_", "-") for word in arguments[:2]]
    name = " ".join(words) if " ".join(words) in COMMANDS else "".join(words[:1])
    if name not in COMMANDS or list(arguments) == [group]:
        wrong = " ".join(words) if group else name
        said = f"there is no command {wrong!r}" if words[bool(group) :] else "name a command"
        print(f"{_help(group)}\n\nlavla: {said}", file=sys.stderr)
        sys.exit(2)
    command, rest = COMMANDS[name], list(arguments[len(name.split()) :])
    function = getattr(importlib.import_module(f"{__name__}.{command.module}"), command.function)
    if command.parses:
        described: Callable[[], None] = function(rest)
        return described
    if name == "up" and len(rest) > 1 and {"-h", "--help"} & set(rest[1:]):
        rest = [rest[0], "help"]
    from lavla_ros.cli.arguments import parse_function

    return parse_function(function, rest, prog=f"lavla {name}", summary=command.summary)


def _help(group: str) -> str:
    """The commands, of ``group`` or at the top, a line each."""
    shown = {name: each.summary for name, each in COMMANDS.items() if f"{name} ".startswith(f"{group} ") or not group}
    width = max(map(len, shown)) + 4
    lines = [
        textwrap.fill(summary, 100, initial_indent=f"  {name}".ljust(width), subsequent_indent=" " * width)
        for name, summary in shown.items()
    ]
    usage = " ".join(["usage: lavla", *filter(None, [group]), "COMMAND …"])
    ending = f'"lavla {f"{group} " if group else ""}COMMAND --help" lists the options of a command.'
    return "\n".join([usage, "", _GROUPS.get(group, _DESCRIPTION), "", *lines, "", ending])


@contextmanager
def _reader_may_leave() -> Iterator[None]:
    """When the reader of our output (`head`, for example) has ended, end quietly, as other programs do."""
    try:
        try:
            yield
        except SystemExit:
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except BrokenPipeError:
        closed = [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]
        if not closed:
            raise  # the pipe of something else
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in closed:
            os.dup2(nowhere, stream.fileno())  # takes what the interpreter flushes at its end
        sys.exit(128 + signal.SIGPIPE)


def _has_no_reader(stream: TextIO) -> bool:
    poll = select.poll()
    poll.register(stream, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _interrupt(*_: object) -> None:
    """SIGTERM, and the end of the terminal, end a command as Ctrl-C does: whatever it started is stopped first."""
    raise KeyboardInterrupt
