"""A person's demonstrations from the keyboard: begins, marks and ends the recorder node's episodes.

``lavla record --by person`` starts it beside the stack ``record_demos``. New problems of /diagnostics are told as they
come, an episode does not begin unasked while a stream is silent, and after each one ``lavla convert`` judges it.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import rclpy
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.node import Node
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from lavla_ros import topics
from lavla_ros.bringup.environment import enter_ros
from lavla_ros.errors import one_line_errors
from lavla_ros.ros.client import ServiceError, call, own_arguments, spinning, watch_problems
from lavla_ros.ros.messages import LATCHED_QOS
from lavla_ros.ros.process import secured

IDLE_HELP = "Enter: begin an episode    q: quit"
RECORDING_HELP = "RECORDING    Enter: succeeded    f: failed    d: discard"
JUDGE_TIMEOUT_S = 300.0

Say = Callable[[str], None]


class RecordConsole(Node):  # type: ignore[misc]  # rclpy is untyped
    """The recorder's services as keys."""

    def __init__(
        self,
        instruction: str,
        instruction_topic: str,
        convert: Sequence[str],
        say: Say,
        *,
        episodes: int = 0,
        context: Context | None = None,
    ) -> None:
        """``convert``: command that converts a bag, without the bag.

        ``episodes``: how many successful ones are wanted; 0: until the person quits.
        """
        super().__init__("record_console", context=context)
        self._start, self._stop, self._discard, self._check = (
            self.create_client(Trigger, service)
            for service in (topics.EPISODE_START, topics.EPISODE_STOP, topics.EPISODE_DISCARD, topics.EPISODE_CHECK)
        )
        self._mark = self.create_client(SetBool, topics.EPISODE_MARK)
        self._convert, self._say, self._wanted, self._succeeded = convert, say, episodes, 0
        self._judges: list[threading.Thread] = []
        self._begin_s: float | None = None
        """Of the episode that is being recorded."""
        watch_problems(self, say)
        if sys.stdout.isatty():
            self.create_timer(1.0, self._show_elapsed)
        if instruction:
            self._instruction = self.create_publisher(String, instruction_topic, LATCHED_QOS)
            self._instruction.publish(String(data=instruction))
            # Every subscriber has the instruction before an episode can begin.
            self._instruction.wait_for_all_acked(Duration(seconds=2))

    def converse(self, lines: Iterable[str]) -> None:
        """Obey one line after another until ``q``, their end, or the last wanted episode; an episode that is open
        then is kept, unmarked.
        """
        recording, asked, say = False, False, self._say
        say(self._idle_help())
        for line in lines:
            key = line.strip().lower()
            try:
                if not recording and key == "":
                    if not asked and (silent := self._silent()):
                        asked = True
                        say(f"NOT RECORDING: {silent}")
                        say("Enter: record without, all the same    any other key: wait")
                        continue
                    say(call(self._start, Trigger.Request()))
                    recording, asked, self._begin_s = True, False, time.monotonic()
                elif not recording and asked:
                    asked = False
                elif not recording and key == "q":
                    break
                elif recording and key in ("", "s", "f"):
                    call(self._mark, SetBool.Request(data=key != "f"))
                    answer = call(self._stop, Trigger.Request())
                    recording, self._begin_s = False, None
                    say(answer)
                    if key != "f":
                        self._succeeded += 1
                        self._judge(Path(answer.partition(": ")[0]))
                        if self._succeeded == self._wanted:
                            break
                elif recording and key == "d":
                    say(call(self._discard, Trigger.Request()))
                    recording, self._begin_s = False, None
                else:
                    say(f"{line.strip()!r} means nothing here")
            except ServiceError as error:
                say(f"error: {error}")
            say(RECORDING_HELP if recording else self._idle_help())
        if recording:
            say(call(self._stop, Trigger.Request()))
        for judge in self._judges:
            judge.join(JUDGE_TIMEOUT_S)

    def _show_elapsed(self) -> None:
        if (begin_s := self._begin_s) is not None:
            print(f"\rrecording for {time.monotonic() - begin_s:.0f} s ", end="", flush=True)

    def _idle_help(self) -> str:
        counted = f"{self._succeeded} of {self._wanted}" if self._wanted else f"{self._succeeded}"
        return f"{counted} succeeded    {IDLE_HELP}"

    def _silent(self) -> str:
        """What does not come, in words; empty where everything does."""
        try:
            call(self._check, Trigger.Request())
        except ServiceError as error:
            return str(error)
        return ""

    def _judge(self, bag: Path) -> None:
        """Say what ``lavla convert`` makes of the bag, while the person sets up the next one."""
        judge = threading.Thread(target=lambda: self._say(judgement(bag, self._convert)), daemon=True)
        self._judges.append(judge)
        judge.start()


def judgement(bag: Path, convert: Sequence[str]) -> str:
    """Convert the one bag for trial, at low priority: the arm may be moving."""
    with tempfile.TemporaryDirectory(prefix="lavla-judge-") as folder:
        command = [*convert, str(bag), "--out", f"{folder}/dataset", "--jobs", "1", "--json"]
        # A session of its own: Ctrl-C is for the recording.
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, encoding="utf-8"
        ) as trial:
            os.setpriority(os.PRIO_PROCESS, trial.pid, 19)
            try:
                output, errors = trial.communicate(timeout=JUDGE_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                trial.kill()
                return f"{bag.name}: no judgement of lavla convert within {JUDGE_TIMEOUT_S:.0f} s"
    if trial.returncode:
        said = errors.strip() or f"it ended with status {trial.returncode}"
        return f"{bag.name}: LAVLA CONVERT WOULD NOT TAKE IT: {said}"
    return f"{bag.name}: lavla convert takes it, {json.loads(output)['steps']} steps"


def _say(text: str) -> None:
    print(text, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--instruction", default="", help="published for the episodes; if empty, another node publishes it"
    )
    parser.add_argument("--instruction-topic", default="instruction")
    parser.add_argument("--convert", required=True, help="command that converts a bag, to judge a recorded episode")
    parser.add_argument(
        "--episodes", type=int, default=0, help="number of successful episodes to end after; 0: only q ends it"
    )
    enter_ros()
    options = parser.parse_args(own_arguments(argv))
    with one_line_errors("record_console"), secured():
        rclpy.init(args=argv)
        convert = shlex.split(options.convert)
        console = RecordConsole(
            options.instruction, options.instruction_topic, convert, _say, episodes=options.episodes
        )
    try:
        with one_line_errors("record_console"), spinning(console):
            console.converse(sys.stdin)
    except KeyboardInterrupt:
        return 130
    finally:
        console.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
