"""The arm does not move: which link from the camera to the driver is broken. Pure; ``live.py`` listens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.doctor.checks import CameraFacts, Finding, check_camera
from lavla_ros.contract import Contract
from lavla_ros.episode import ExecutorReport

LINKS = ("camera", "observation", "policy", "chunk", "executor", "driver")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFacts:
    """What came on a topic while one listened."""

    publishers: tuple[str, ...] = ()
    count: int = 0
    rate_hz: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StackFacts:
    """What a live stack says."""

    cameras: Mapping[str, CameraFacts]
    states: Mapping[str, StreamFacts]
    """Topic → what came, of each topic that has a part of the state."""
    instruction: str | None
    chunks: StreamFacts
    commands: StreamFacts
    """Of the topic of the action that has most."""
    executor: ExecutorReport | None
    """None: it says nothing."""
    problems: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Name of a node → its warnings and errors of /diagnostics."""
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Name of a node → what it reports."""
    episode: str = ""
    """Phase of a simulator's episode; empty without one."""
    moved_rad: float = 0.0
    """Largest change of a joint."""
    domain: int = 0
    """ROS domain that was listened to."""

    def node(self, name: str) -> bool:
        return name in self.values


def check_chain(facts: StackFacts, contract: Contract) -> list[Finding]:
    """A finding for each link, in order, from the camera on. What is behind a broken link may be as it should be."""
    publishers = [each.publishers for each in (*facts.states.values(), facts.chunks, facts.commands)]
    publishers += [each.publishers for each in facts.cameras.values()]
    if not (facts.values or facts.executor or any(publishers)):
        fix = "is it running? `lavla up` names the domain of a stack: ROS_DOMAIN_ID=… lavla doctor --live"
        return [Finding(name="stack", level="wrong", seen=f"none is heard in ROS domain {facts.domain}", fix=fix)]
    found = [finding for spec in contract.cameras for finding in _camera(facts, spec.name, contract)]
    return [*found, _observation(facts, contract), _policy(facts), _chunk(facts), _executor(facts), _driver(facts)]


def first_broken(findings: Sequence[Finding]) -> str:
    """One sentence: where the chain is broken, or that it is not."""
    for finding in findings:
        if finding.level == "wrong":
            return f"the chain is broken at the {finding.name}: {finding.seen}"
    return "the chain is whole: what the arm does not do, the policy does not ask for"


def _camera(facts: StackFacts, name: str, contract: Contract) -> list[Finding]:
    heard = facts.cameras.get(name, CameraFacts(publishers=()))
    return check_camera(heard, contract.camera(name), contract)


def _observation(facts: StackFacts, contract: Contract) -> Finding:
    name = "observation"
    if silent := [topic for topic, stream in facts.states.items() if stream.count == 0]:
        seen = f"nothing comes on {', '.join(silent)}, so no step is complete"
        fix = "the executor node, or the robot's own drivers, report its state: do they run, and reach the robot?"
        return Finding(name=name, level="wrong", seen=seen, fix=fix)
    if not facts.instruction and facts.chunks.count == 0:
        fix = f"instruction:=… of the stack, or publish {contract.instruction_topic}"
        return Finding(name=name, level="wrong", seen="nobody has said what is to be done", fix=fix)
    rate_hz = min((stream.rate_hz for stream in facts.states.values()), default=0.0)
    seen = f"state {rate_hz:.0f} times a second, instruction {facts.instruction!r}"
    return Finding(name=name, level="ok", seen=seen)


def _policy(facts: StackFacts) -> Finding:
    name = "policy"
    if not facts.node("policy"):
        if facts.chunks.publishers:  # a person's device, or a program of one's own
            return Finding(name=name, level="ok", seen=f"none; {', '.join(facts.chunks.publishers)} commands")
        fix = "lavla up jaka_policy policy:=…, or whatever is to command the arm"
        return Finding(name=name, level="wrong", seen="no policy node runs, and nothing else commands", fix=fix)
    if problems := facts.problems.get("policy"):
        return Finding(name=name, level="wrong", seen="; ".join(problems), fix="as it says; its log has more")
    if facts.episode and facts.episode != "running":
        fix = "/episode/reset begins the next episode"
        return Finding(name=name, level="wrong", seen=f"it waits: the simulator's episode is {facts.episode}", fix=fix)
    return Finding(name=name, level="ok", seen=f"{facts.values['policy'].get('policy', '')} runs")


def _chunk(facts: StackFacts) -> Finding:
    name = "chunk"
    if len(facts.chunks.publishers) > 1:
        fix = "the arm obeys one: end the others"
        return Finding(name=name, level="wrong", seen=f"{', '.join(facts.chunks.publishers)} publish chunks", fix=fix)
    if facts.chunks.count == 0:
        fix = "look at the links before this one"
        return Finding(name=name, level="wrong", seen="none was published", fix=fix)
    seen = f"{facts.chunks.rate_hz:.1f} a second by {', '.join(facts.chunks.publishers)}"
    return Finding(name=name, level="ok", seen=seen)


def _executor(facts: StackFacts) -> Finding:
    name, report = "executor", facts.executor
    values = facts.values.get("executor", {})
    if report is None or not report.state:
        fix = "the stack starts it last: is something before it not ready?"
        return Finding(name=name, level="wrong", seen="it says nothing", fix=fix)
    if report.fault:
        fix = f"clear the cause, then {report.waiting_for or 'acknowledge and resume'}"
        return Finding(name=name, level="wrong", seen=f"fault: {report.fault}", fix=fix)
    if report.held:
        fix = f"ros2 service call {report.waiting_for or '/executor/resume'} std_srvs/srv/Trigger"
        return Finding(name=name, level="wrong", seen=f"held: {report.held}", fix=fix)
    if report.state == "idle":
        fix = "start the stack without standby, or activate the executor node"
        return Finding(name=name, level="wrong", seen="it is idle, and only reports the arm's state", fix=fix)
    if report.state == "holding" and facts.chunks.count:
        refused = {key: count for key, count in values.items() if "refused" in key or "rejected" in key}
        counted = f" ({', '.join(f'{key} {count}' for key, count in sorted(refused.items()))})" if refused else ""
        fix = "its log names each refused chunk: too far from the arm, too old, out of range, or too near the scene"
        reason = report.reason or "no reason is given"
        return Finding(name=name, level="wrong", seen=f"it holds although chunks come: {reason}{counted}", fix=fix)
    scale = values.get("speed_scale", "")
    if scale and float(scale) < 0.05:
        fix = "ros2 param set /executor speed_scale 0.3"
        return Finding(name=name, level="warn", seen=f"{report.state}, at {float(scale):.0%} of the speed", fix=fix)
    return Finding(name=name, level="ok", seen=report.state + (f": {report.reason}" if report.reason else ""))


def _driver(facts: StackFacts) -> Finding:
    name = "driver"
    if problems := facts.problems.get("executor"):
        return Finding(name=name, level="wrong", seen="; ".join(problems), fix="as it says; lavla doctor --robot-ip …")
    if facts.commands.count == 0:
        return Finding(name=name, level="wrong", seen="no command is sent", fix="look at the links before this one")
    if facts.executor is not None and facts.executor.state == "tracking" and facts.moved_rad < 1e-4:
        fix = "is the arm at its target? Else: drag mode, brakes, a controller that ignores commands"
        return Finding(name=name, level="warn", seen="commands are sent, and no joint moved by 0.0001 rad", fix=fix)
    seen = f"{facts.commands.rate_hz:.0f} commands a second; joints moved by up to {facts.moved_rad:.3f} rad"
    return Finding(name=name, level="ok", seen=seen)
