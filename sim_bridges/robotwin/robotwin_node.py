"""RoboTwin as topics in lock-step: one observation out, one command (or a chunk of them) in.

Stamps and /clock are simulated time, physics steps × 4 ms. At every replanning step the node publishes the three
pictures, and awaits the chunk for them; it executes the chunk's commands one after another, each to its end, telling
of the joints after every one. The commander is a policy node on ``/action_chunk``, or the scripted expert in this
process (demonstrations).

Which episode: the parameters ``task`` and ``seed``. As the protocol has it, a seed is one if the expert solves it,
which also says what the instruction's placeholders stand for; so the expert tries it first. A seed that was asked for
and is not solved ends in an error; those that begin by themselves are the next ones from ``seed`` on that are. With
``seeds``, a list that an evaluation has kept, nothing is tried. The rest: :mod:`sim_bridges.episode_node`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from geometry_msgs.msg import PoseStamped
from rcl_interfaces.msg import ParameterDescriptor
from sensor_msgs.msg import CameraInfo, JointState

from lavla_ros.contract import ActionChunk
from lavla_ros.ros.diagnostics import Report
from lavla_ros.ros.lifecycle import run_node, set_stamp
from lavla_ros.ros.messages import joint_state
from lavla_ros.ros.parameters import parameter
from sim_bridges.episode_node import EpisodeNode, EpisodeParameters, Scene
from sim_bridges.lockstep_topics import DEPTH, BridgeError
from sim_bridges.robotwin.environment import JOINTS, FloatArray, RobotwinEnvironment, RobotwinError, View
from sim_bridges.robotwin.seeds import SeedFile, Tried, accepted, first_seed, try_seed
from sim_bridges.robotwin.sources import Instructions, TaskSource, open_source, require_task

MEASURED_TOPIC = "joint_states/measured"
ENDPOSE_TOPICS = {"left": "endpose/left", "right": "endpose/right"}
WORLD = "world"
"""Frame of the end-effector poses."""


@dataclass(frozen=True, kw_only=True)
class RobotwinParameters(EpisodeParameters):
    contract: str = parameter("robotwin_aloha", "Contract: a shipped name or a YAML file.")
    robotwin_root: str = parameter("standin", "RoboTwin checkout; standin; empty: that of LAVLA_ROBOTWIN_ROOT.")
    task_config: str = parameter("", "RoboTwin's configuration of the scenes; empty: demo_clean.")
    instructions: str = parameter(
        "", "Instruction templates; empty: unseen, for the expert seen.", choices=("", "seen", "unseen")
    )
    seeds: str = parameter("", "A seeds.json: the episodes of its list, with its instructions.")
    replan_steps: int = parameter(25, "Commands between two pictures for the policy.", low=1, high=256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An episode to be run."""

    task: str
    seed: int
    exact: bool
    """This seed; else the first from here on that is an episode."""


class RobotwinNode(EpisodeNode):
    """See the module."""

    parameters_type = RobotwinParameters
    parameters: RobotwinParameters

    def __init__(self, **options: Any) -> None:
        super().__init__("robotwin", **options)
        self.declare_parameter("task", "stack_two_blocks", ParameterDescriptor(description="RoboTwin's name of it."))
        self.declare_parameter("seed", first_seed(0), ParameterDescriptor(description="Of the scene."))
        self._source: TaskSource
        self._environment: RobotwinEnvironment | None = None
        self._episode = Tried(seed=-1)
        self._listed: SeedFile | None = None
        self._extras: dict[str, Any] = {}
        self._measured = joint_state(JOINTS)

    def request(self, index: int | None = None) -> Request:
        task, seed = str(self.get_parameter("task").value), int(self.get_parameter("seed").value)
        if index is None:
            return Request(task=task, seed=seed, exact=True)
        if self._listed is not None:
            return Request(task=task, seed=self._listed.accepted(task)[index].seed, exact=True)
        return Request(task=task, seed=seed + index, exact=False)

    def check(self, request: Request) -> None:
        """Raises RobotwinError for what does not exist."""
        require_task(self._source, request.task)
        if request.seed < 0:
            raise RobotwinError(f"the seed is {request.seed}; expected an integer >= 0")

    def open(self, first: Request) -> None:
        parameters = self.parameters
        if parameters.record and parameters.commander == "topic":
            raise RobotwinError("record is for the expert's demonstrations: set commander to expert")
        self._episode = Tried(seed=-1)
        self._source = open_source(parameters.robotwin_root, parameters.task_config)
        self.check(first)
        usual = "seen" if parameters.commander == "expert" else "unseen"
        self._kind = cast(Instructions, parameters.instructions or usual)
        self._provenance = self._source.provenance()
        if parameters.seeds:
            if not Path(parameters.seeds).is_file():
                raise RobotwinError(f"seeds is {parameters.seeds!r}, which is not a file")
            self._listed = SeedFile(Path(parameters.seeds), self._provenance, self._kind)
            if (count := len(self._listed.accepted(first.task))) < parameters.episodes:
                raise RobotwinError(
                    f"{parameters.seeds} has {count} episodes of {first.task}, not {parameters.episodes}"
                )
        if parameters.disturb:
            self._source.disturbance(first.seed)
        self.get_logger().info(self._provenance.statement)
        self._load(first.task)
        for camera in self._contract.cameras:
            topic = self._contract.wire(camera.topic).removesuffix("image_raw") + "camera_info"
            self._extras[camera.name] = self.create_publisher(CameraInfo, topic, DEPTH)
        self._extras["measured"] = self.create_publisher(JointState, MEASURED_TOPIC, DEPTH)
        for arm, topic in ENDPOSE_TOPICS.items():
            self._extras[arm] = self.create_publisher(PoseStamped, topic, DEPTH)

    def close(self) -> None:
        for publisher in self._extras.values():
            self.destroy_publisher(publisher)
        self._extras, self._listed = {}, None
        if self._environment is not None:
            self._environment.close()
            self._environment = None

    def describe(self, request: Request) -> Scene:
        """Raises RobotwinError where the seed is no episode, or none of many is."""
        self._episode = self._find(request)
        made = self._provenance
        about = {
            "suite": self._source.suite,
            "task": request.task,
            "seed": self._episode.seed,
            "assets": made.hash,
            "comparable": made.comparable,
        }
        return Scene(instruction=self._episode.instruction, about=about)

    def begin(self, request: Request) -> RobotwinEnvironment:
        environment = self._load(request.task)
        environment.reset(self._episode.seed, instruction=self._episode.instruction)
        return environment

    def act(self, request: Request) -> tuple[bool, str]:
        """Commands until the goal is reached or the limit is. Raises BridgeError where no chunk comes."""
        environment = self._environment
        assert environment is not None
        own = environment.step_limit
        limit = min(self.parameters.max_steps or own, own)
        failed = f"the limit of {limit} steps is reached"
        if self.parameters.commander == "topic":
            success = self._follow_topic(environment, limit)
        elif environment.has_commands_of_an_expert:
            success, failed = self._follow_expert(environment, limit), "the expert did not reach the goal"
        else:
            success, failed = self._show_demonstration(environment)
        return success, "" if success else failed

    # Who acts.

    def _follow_topic(self, environment: RobotwinEnvironment, limit: int) -> bool:
        actions: FloatArray = np.empty((0, len(JOINTS)))
        success = False
        while environment.steps < limit and not success:
            self._require_wanted()
            since = environment.steps % self.parameters.replan_steps
            self._show(environment, environment.view() if since == 0 else None)
            if since == 0:
                actions = self.topics.chunk(environment.time_ns, steps=self.parameters.replan_steps).actions_HA
            success = self._command(environment, actions[since], actions[since])
        self._show(environment, environment.view())
        return success

    def _follow_expert(self, environment: RobotwinEnvironment, limit: int) -> bool:
        """Command by command. A recording shows every one with its picture; labels are the commands as the expert gave
        them, whatever a disturbance made of them."""
        expert = environment.commands_of_expert()
        disturbance = self._source.disturbance(self._episode.seed) if self.parameters.disturb else None
        success = False
        while environment.steps < limit and not success and not expert.done:
            self._require_wanted()
            self._show(environment, environment.view() if self.parameters.record else None)
            action = expert.act()
            chunk = ActionChunk(
                stamp_ns=environment.time_ns,
                dt_ns=self._contract.dt_ns,
                actions_HA=action[None],
                names=self._contract.action.names,
            )
            executed = chunk if disturbance is None else disturbance.apply(chunk)
            success = self._command(environment, action, executed.actions_HA[0])
        self._show(environment, environment.view() if self.parameters.record else None)
        return success

    def _show_demonstration(self, environment: RobotwinEnvironment) -> tuple[bool, str]:
        """An expert that moves by itself, sampled as RoboTwin's data: a frame's label is where the drives are to go at
        the next one."""
        before_ns: list[int] = []

        def on_frame() -> None:
            self._require_wanted()
            if before_ns:
                self.topics.command(before_ns.pop(), environment.commanded())
            self._show(environment, environment.view() if self.parameters.record else None)
            before_ns.append(environment.time_ns)

        shown = environment.demonstrate(on_frame)
        return shown.solved, shown.reason

    def _command(self, environment: RobotwinEnvironment, action: FloatArray, executed: FloatArray) -> bool:
        self.topics.command(environment.time_ns, environment.check_command(action))
        return environment.step(executed).success

    def _require_wanted(self) -> None:
        if self.ended:
            raise BridgeError(self.ended)

    # What is published.

    def _show(self, environment: RobotwinEnvironment, view: View | None) -> None:
        """Clock and joints; with ``view`` also pictures, what belongs to them, and the end effectors."""
        stamp_ns = self.topics.stamp_ns(environment.time_ns)
        state = environment.commanded() if view is None else view.state
        self.topics.observe(environment.time_ns, state, {} if view is None else view.images)
        set_stamp(self._measured.header.stamp, stamp_ns)
        self._measured.position = environment.measured().tolist()
        self._extras["measured"].publish(self._measured)
        if view is None:
            return
        for camera, image in view.images.items():
            self._extras[camera].publish(camera_info(camera, image.shape[:2], view.intrinsics[camera], stamp_ns))
        for arm, pose in view.endposes.items():
            self._extras[arm].publish(pose_stamped(pose, stamp_ns))

    # Episodes.

    def _find(self, request: Request) -> Tried:
        if self._listed is not None:
            for row in self._listed.accepted(request.task):
                if row.seed == request.seed:
                    return row
        environment = self._load(request.task)
        check = partial(try_seed, environment, self._source, kind=self._kind)
        if request.exact:
            tried = check(request.seed)
            if tried.rejected:
                raise RobotwinError(
                    f"seed {request.seed} of {request.task} is no episode: the expert does not solve it "
                    f"({tried.rejected})"
                )
            return tried
        first = request.seed
        if self._episode.instruction and first <= self._episode.seed:
            first = self._episode.seed + 1  # earlier episodes had to skip seeds

        def tries(seed: int) -> Any:
            while True:
                self._require_wanted()
                yield check(seed)
                seed += 1

        return next(accepted(request.task, first, (), tries))

    def _load(self, task: str) -> RobotwinEnvironment:
        """The environment of the task: the present one, or a new one in its place."""
        environment = self._environment
        if environment is None or environment.name != task:
            if environment is not None:
                self._environment = None
                environment.close()
            environment = self._source.environment(task, self._contract)
            self._environment = environment
        return environment

    def diagnose(self, report: Report) -> None:
        super().diagnose(report)
        report.value("source", self._provenance.source)
        if self._environment is not None:
            report.value("task", self._environment.name)
            report.value("seed", self._episode.seed)
            report.value("steps", self._environment.steps)


def camera_info(camera: str, size: tuple[int, ...], intrinsic: FloatArray, stamp_ns: int) -> CameraInfo:
    """Of a camera without distortion. ``size``: height, width; ``intrinsic``: (3, 3)."""
    message = CameraInfo(height=size[0], width=size[1], distortion_model="plumb_bob", d=[0.0] * 5)
    set_stamp(message.header.stamp, stamp_ns)
    message.header.frame_id = camera
    message.k = intrinsic.ravel().tolist()
    message.r = np.eye(3).ravel().tolist()
    message.p = np.hstack([intrinsic, np.zeros((3, 1))]).ravel().tolist()
    return message


def pose_stamped(pose: FloatArray, stamp_ns: int) -> PoseStamped:
    """(7,) position in m and quaternion x, y, z, w → the message."""
    message = PoseStamped()
    set_stamp(message.header.stamp, stamp_ns)
    message.header.frame_id = WORLD
    at, turned = message.pose.position, message.pose.orientation
    at.x, at.y, at.z, turned.x, turned.y, turned.z, turned.w = (float(value) for value in pose)
    return message


def main() -> int:
    return run_node(RobotwinNode)


if __name__ == "__main__":
    sys.exit(main())
