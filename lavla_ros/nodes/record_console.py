"""A person's demonstrations from the keyboard: begins, marks and ends the recorder node's episodes.

``lavla record --by person`` starts it beside the stack ``record_demos``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence

import rclpy
from rclpy.duration import Duration
from rclpy.node import Node
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from lavla_ros.bringup.environment import enter_ros
from lavla_ros.nodes.client import ServiceError, call, spinning
from lavla_ros.nodes.messages import LATCHED_QOS

IDLE_HELP = "Enter: begin an episode    q: quit"
RECORDING_HELP = "RECORDING    Enter: succeeded    f: failed    d: discard"


class RecordConsole(Node):  # type: ignore[misc]  # rclpy is untyped
    """The recorder's services as keys."""

    def __init__(self, instruction: str, instruction_topic: str) -> None:
        super().__init__("record_console")
        self._start, self._stop, self._discard = (
            self.create_client(Trigger, f"/episode/{verb}") for verb in ("start", "stop", "discard")
        )
        self._mark = self.create_client(SetBool, "/episode/mark")
        if instruction:
            self._instruction = self.create_publisher(String, instruction_topic, LATCHED_QOS)
            self._instruction.publish(String(data=instruction))
            # Before an episode can begin, whoever is there has it.
            self._instruction.wait_for_all_acked(Duration(seconds=2))

    def converse(self, lines: Iterable[str], say: Callable[[str], None]) -> None:
        """Obey one line after another until ``q`` or their end; an episode that is open then is kept, unmarked."""
        recording = False
        say(IDLE_HELP)
        for line in lines:
            key = line.strip().lower()
            try:
                if not recording and key == "":
                    say(call(self._start, Trigger.Request()))
                    recording = True
                elif not recording and key == "q":
                    return
                elif recording and key in ("", "s", "f"):
                    call(self._mark, SetBool.Request(data=key != "f"))
                    say(call(self._stop, Trigger.Request()))
                    recording = False
                elif recording and key == "d":
                    say(call(self._discard, Trigger.Request()))
                    recording = False
                else:
                    say(f"{line.strip()!r} means nothing here")
            except ServiceError as error:
                say(f"error: {error}")
            say(RECORDING_HELP if recording else IDLE_HELP)
        if recording:
            say(call(self._stop, Trigger.Request()))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--instruction", default="", help="published for the episodes; empty: somebody else says it")
    parser.add_argument("--instruction-topic", default="/instruction")
    options = parser.parse_args(argv)
    enter_ros()
    rclpy.init()
    console = RecordConsole(options.instruction, options.instruction_topic)
    try:
        with spinning(console):
            console.converse(sys.stdin, lambda text: print(text, flush=True))
    except ServiceError as error:
        print(f"record_console: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        console.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
