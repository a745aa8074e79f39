"""One rollout at the keyboard: lay out the scene, let the policy act, score. ``lavla judge`` starts it with the stack.

The arm is held until the person begins, and from the end of the rollout on. The policy learns its instruction at the
beginning, and begins to act with it. A fault of the executor makes the rollout an error.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from lavla_ros import topics
from lavla_ros.bringup.environment import enter_ros
from lavla_ros.contract import load_contract
from lavla_ros.episode import SIMULATOR, EpisodeState, ExecutorReport
from lavla_ros.errors import one_line_errors
from lavla_ros.observation import decode_image
from lavla_ros.ros.client import ServiceError, call, own_arguments, spinning, watch_problems
from lavla_ros.ros.messages import IMAGE_QOS, LATCHED_INPUT_QOS, LATCHED_QOS
from lavla_ros.ros.process import secured
from sim_bridges.judging.folder import LEFT, JudgingError, JudgingFolder
from sim_bridges.judging.keys import END, ENTER, ask, next_key, single_keys
from sim_bridges.judging.overlay import Picture, PictureError, overlay, read_picture, write_picture
from sim_bridges.judging.protocol import Rollout
from sim_bridges.judging.rubrics import ScoreError
from sim_bridges.judging.sheet import SheetError

PICTURE_PERIOD_S = 0.5
KEY_PERIOD_S = 0.1
PICTURE_S = 10.0
"""How long the first picture of the reference camera may take."""
COUNT = "Enter: these scores count"
Keys = Callable[[float], str | None]
Say = Callable[[str], None]


class JudgeConsole(Node):  # type: ignore[misc]  # rclpy is untyped
    """A rollout of the folder, on the stack that runs beside it."""

    def __init__(
        self,
        folder: JudgingFolder,
        rollout: Rollout,
        say: Say,
        *,
        ask: Callable[[str], str] = ask,
        context: Context | None = None,
    ) -> None:
        super().__init__("judge_console", context=context)
        self._folder, self._rollout, self._say, self._ask = folder, rollout, say, ask
        self._task = folder.protocol.tasks[rollout.task]
        self._contract = contract = load_contract(folder.protocol.contract)
        self._scoring = folder.scoring(rollout)
        self._fault = ""
        self._scene: EpisodeState | None = None
        self._live: Any = None
        self._shown_s = 0.0
        reset = folder.reset_picture(rollout)
        self._reset: Picture | None = read_picture(reset) if reset is not None else None
        self._hold, self._resume, self._start, self._stop, self._begin_scene = (
            self.create_client(Trigger, name)
            for name in (
                topics.EXECUTOR_HOLD,
                topics.EXECUTOR_RESUME,
                topics.EPISODE_START,
                topics.EPISODE_STOP,
                topics.EPISODE_RESET,
            )
        )
        self._mark = self.create_client(SetBool, topics.EPISODE_MARK)
        self._instruction = self.create_publisher(String, contract.wire(contract.instruction_topic), LATCHED_QOS)
        self.create_subscription(String, topics.EXECUTOR_STATE, self._on_executor, LATCHED_INPUT_QOS)
        self.create_subscription(String, topics.EPISODE_STATE, self._on_episode, LATCHED_INPUT_QOS)
        spec = next(each for each in contract.cameras if each.name == contract.alignment.reference)
        self.create_subscription(Image, contract.wire(spec.observation_topic), self._on_image, IMAGE_QOS)
        watch_problems(self, say)

    # What the stack says.

    def _on_executor(self, message: String) -> None:
        report = ExecutorReport.from_json(message.data)
        self._fault = report.fault or ""

    def _on_episode(self, message: String) -> None:
        state = EpisodeState.from_json(message.data)
        if state.source == SIMULATOR:
            self._scene = state

    def _on_image(self, message: Image) -> None:
        self._live = message

    # The rollout.

    def judge(self, keys: Keys) -> None:
        """Until the rollout has a score or an error. ``keys``: waits so long for the next one."""
        try:
            call(self._hold, Trigger.Request())
            self._lay_out(keys)
            if self._scoring.sheet.phase == "running":
                self._run(keys)
            if self._scoring.sheet.phase == "judging":
                self._score(keys)
        except (ServiceError, PictureError) as error:
            self._fail(str(error))

    def _lay_out(self, keys: Keys) -> None:
        self._say(f"\n{self._rollout.name}: {self._task.instruction}")
        if self._reset is not None:
            self._say(
                f"lay the scene out as it was: {self._folder.picture(self._rollout, 'overlay')} shows it over now"
            )
        self._say("Enter: begin    n: note    o: outline of the stain    q: quit")
        while True:
            key = keys(KEY_PERIOD_S)
            self._show("overlay", self._over_reset)
            if self._fault:
                raise ServiceError(f"the arm stands: {self._fault}")
            if key in (END, "q"):
                self._fail(f"{LEFT} before it began")
                return
            if key == ENTER:
                self._begin()
                return
            if key is not None:
                self._other(key)

    def _begin(self) -> None:
        """Record, tell the policy what to do, let the arm go."""
        give_up_s = time.monotonic() + PICTURE_S
        while (picture := self._picture()) is None:
            if time.monotonic() > give_up_s:
                camera = self._contract.alignment.reference
                raise ServiceError(f"no picture of {camera} has come in {PICTURE_S:g} s; is the camera there?")
            time.sleep(KEY_PERIOD_S)
        write_picture(self._folder.picture(self._rollout, "initial"), picture)
        bag = call(self._start, Trigger.Request())
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._scoring.begin(time.monotonic(), began=now, bag=bag)
        call(self._resume, Trigger.Request())
        if self._scene is not None:  # a simulator announces the instruction with its episode
            call(self._begin_scene, Trigger.Request())
        else:
            self._instruction.publish(String(data=self._task.instruction))
            self._instruction.wait_for_all_acked(Duration(seconds=2))
        self._say(f"RUNNING    {self._help()}    .: something correct    Enter: over    e: error    u: undo    n: note")

    def _run(self, keys: Keys) -> None:
        scoring, why = self._scoring, ""
        while not why:
            key, now_s = keys(KEY_PERIOD_S), time.monotonic()
            self._show("live", lambda live: live)
            if self._fault:
                self._fail(f"the executor has a fault: {self._fault}")
                return
            if key in (END, "q"):
                self._fail(f"{LEFT} within the rollout")
                return
            if key == ENTER:
                why = "ended by the judge"
            elif key == "e":
                self._fail(self._ask("what went wrong") or "an error")
                return
            elif key is not None:
                self._other(key)
            why = why or scoring.over(now_s)
        call(self._hold, Trigger.Request())
        scoring.end(time.monotonic(), why)
        self._say(f"over: {why}")
        scene = self._scene
        if scene is not None:
            scoring.tell(simulated={"state": scene.phase.value, **scene.details})
        if (picture := self._picture()) is not None:
            write_picture(self._folder.picture(self._rollout, "final"), picture)

    def _fail(self, why: str) -> None:
        """The arm is held, the bag ends unmarked, the rollout is repeated."""
        scoring = self._scoring
        recorded = scoring.sheet.phase in ("running", "judging")
        with suppress(ServiceError):
            call(self._hold, Trigger.Request())
        if scoring.sheet.phase not in ("scored", "error"):
            scoring.fail(why, time.monotonic())
        if recorded:
            with suppress(ServiceError):
                call(self._stop, Trigger.Request())
        self._say(f"error: {why}; the rollout will be repeated")

    def _score(self, keys: Keys) -> None:
        scoring = self._scoring
        self._show_scores()
        self._say(f"{self._help()}    u: undo    n: note    e: error    {COUNT}")
        while True:
            key = keys(KEY_PERIOD_S)
            if key in (END, "q"):
                self._fail(f"{LEFT} before it was scored")
                return
            if key == "e":
                self._fail(self._ask("what went wrong") or "an error")
                return
            if key == ENTER:
                try:
                    score = scoring.confirm()
                except SheetError as error:
                    self._say(f"{error}    {COUNT}")
                    continue
                values = [value for value in scoring.sheet.values(scoring.rubric) if value is not None]
                with suppress(ServiceError):  # the score counts, however the bag ends
                    call(self._mark, SetBool.Request(data=scoring.rubric.success(values)))
                    call(self._stop, Trigger.Request())
                self._say(f"score {score:.2f}")
                return
            if key is not None:
                self._other(key)

    # Keys that mean the same wherever they mean something.

    def _other(self, key: str) -> None:
        scoring, now_s = self._scoring, time.monotonic()
        try:
            if key == ".":
                self._say(scoring.correct(now_s))
            elif key == "u":
                self._say(scoring.undo())
                self._show_scores()
            elif key == "n":
                self._say(scoring.note(self._ask("note")))
            elif key == "o":
                when: Any = "before" if scoring.sheet.phase == "laying_out" else "after"
                text = self._ask(
                    f"outlines {when}, px of the {self._contract.alignment.reference} picture (x,y x,y x,y; …)"
                )
                self._say(scoring.outline(when, text, now_s))
            elif key == "s" and not scoring.rubric.keys:
                self._say(scoring.give(float(self._ask("wiped share, 0 to 1")), now_s, part=0))
            elif scoring.sheet.phase == "laying_out":
                self._say(f"{key!r} means nothing here")
            else:
                self._say(scoring.press(key, now_s))
        except (ScoreError, SheetError, JudgingError) as error:
            self._say(str(error))
        except ValueError:
            self._say("that is no number")

    def _help(self) -> str:
        rubric = self._scoring.rubric
        if not rubric.keys:
            return "o: outline of the stain    s: share"
        return f"{' '.join(f'{key}: {value:g}' for key, value in rubric.keys.items())} ({', '.join(rubric.parts)})"

    def _show_scores(self) -> None:
        rubric = self._scoring.rubric
        values = self._scoring.sheet.values(rubric)
        shown = (f"{part} {'–' if v is None else f'{v:g}'}" for part, v in zip(rubric.parts, values, strict=True))
        self._say("scores: " + ", ".join(shown))

    def _picture(self) -> Picture | None:
        return decode_image(self._live) if self._live is not None else None

    def _over_reset(self, live: Picture) -> Picture:
        """Of a layout that was never laid out before it is what the camera sees."""
        return live if self._reset is None else overlay(self._reset, live)[0]

    def _show(self, what: str, made: Callable[[Picture], Picture]) -> None:
        """What the camera sees now, to be looked at; twice a second."""
        now_s = time.monotonic()
        if now_s - self._shown_s >= PICTURE_PERIOD_S and (live := self._picture()) is not None:
            self._shown_s = now_s
            write_picture(self._folder.picture(self._rollout, what), made(live))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="folder of the comparison")
    parser.add_argument("--rollout", type=int, required=True, help="index of the rollout, from 0")
    enter_ros()
    options = parser.parse_args(own_arguments(argv))
    with one_line_errors("judge_console"), secured():
        rclpy.init(args=argv)
        folder = JudgingFolder.read(options.folder)
        console = JudgeConsole(folder, folder.rollouts[options.rollout], lambda text: print(text, flush=True))
    try:
        with one_line_errors("judge_console"), spinning(console), single_keys():
            console.judge(next_key)
            return 0
    except KeyboardInterrupt:
        return 130
    finally:
        console.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
