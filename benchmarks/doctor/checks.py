"""Each check is a function from facts to a finding: what was seen, whether it will do, and what mends it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lavla_ros.contract import CameraSpec, Contract

Level = Literal["ok", "warn", "wrong"]
PARTICIPANTS = 8
"""Processes of a stack, each with a segment of shared memory."""
SEGMENT_BYTES = 33_554_432
"""Of config/fastdds_profile.xml."""
UDP_BYTES = 4_194_304
"""Of the same profile."""
PRIORITY = 50
"""Real-time priority that the servo process asks for by default."""
GIB, MIB = 1 << 30, 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a check found."""

    name: str
    level: Level
    seen: str
    fix: str = ""
    """What to do; empty if nothing."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        line = f"{self.level:5}  {self.name}: {self.seen}"
        return f"{line}\n       → {self.fix}" if self.fix else line


def _finding(name: str, level: Level, seen: str, fix: str = "") -> Finding:
    return Finding(name=name, level=level, seen=seen, fix="" if level == "ok" else fix)


# ---------------------------------------------------------------------- the machine


def check_gl(backend: str | None, error: str, packages: str) -> Finding:
    """``error``: of drawing a picture; empty if it was drawn."""
    if error:
        fix = f"needed for simulation alone; on Debian or Ubuntu: apt-get install {packages}"
        return _finding("GL", "warn", f"no picture can be drawn with {backend or 'any back end'}: {error}", fix)
    return _finding("GL", "ok", f"a picture was drawn with {backend}")


def check_ros(error: str, middleware: str, domain: int, reach: str) -> Finding:
    """``error``: of importing rclpy and of the environment; empty if both will do."""
    if error:
        return _finding(
            "ROS", "wrong", error, "install the extra ros (pip install -e .[ros]), or source a distribution"
        )
    seen = f"{middleware or 'the usual middleware'}, domain {domain}, {reach}"
    if reach != "LOCALHOST":
        fix = "unset ROS_AUTOMATIC_DISCOVERY_RANGE unless several machines share the stack (docs/network.md)"
        return _finding("ROS", "warn", f"{seen}: other machines can command the arm", fix)
    return _finding("ROS", "ok", seen)


def check_shared_memory(total: int, free: int, leftover: int) -> Finding:
    """Of /dev/shm, bytes; ``leftover``: files of participants that have ended."""
    needed = PARTICIPANTS * SEGMENT_BYTES
    seen = f"{free / MIB:.0f} of {total / MIB:.0f} MiB are free; a stack takes {needed / MIB:.0f}"
    if leftover:
        seen += f"; {leftover} files are left of processes that were killed"
    fix = "mount -o remount,size=1G /dev/shm (in a container: --shm-size=1g)"
    if leftover:
        fix += "; lavla may be stopped and /dev/shm/fastrtps_* removed"
    if free < 2 * SEGMENT_BYTES:
        return _finding("shared memory", "wrong", seen, fix)
    return _finding("shared memory", "warn" if free < needed else "ok", seen, fix)


def check_udp_buffer(largest: int | None) -> Finding:
    """``largest``: net.core.rmem_max, bytes; None if the kernel does not say."""
    if largest is None:
        return _finding("DDS transport", "ok", "the kernel does not say how large a socket's buffer may be")
    seen = f"a socket may buffer {largest / MIB:.1f} MiB; the profile asks for {UDP_BYTES / MIB:.0f}"
    fix = f"sysctl -w net.core.rmem_max={UDP_BYTES}; it matters if images go over a network"
    return _finding("DDS transport", "ok" if largest >= UDP_BYTES else "warn", seen, fix)


def check_clock(synchronised: bool | None, error_s: float, jump_s: float) -> Finding:
    """``error_s``: the kernel's largest estimate; ``jump_s``: of the wall clock against the monotonic one, while the
    checks ran."""
    if abs(jump_s) > 0.005:
        seen = f"the wall clock was set by {jump_s:+.3f} s while this ran"
        return _finding(
            "clock", "wrong", seen, "let chrony slew the clock (makestep only at boot); stamps must not jump"
        )
    if synchronised is None:
        return _finding("clock", "ok", "the kernel does not say whether the clock is synchronised")
    if not synchronised:
        fix = "systemctl enable --now chrony; needed if cameras or nodes of other computers stamp the pictures"
        return _finding("clock", "warn", "not synchronised", fix)
    return _finding("clock", "ok", f"synchronised to {1e3 * error_s:.0f} ms")


def check_governor(governors: Mapping[str, int]) -> Finding:
    """Governor → number of cores; none: the machine has none, as virtual ones."""
    if not governors:
        return _finding("governor", "ok", "the machine chooses its own frequency")
    seen = ", ".join(f"{count} cores {name}" for name, count in sorted(governors.items()))
    slow = set(governors) - {"performance", "schedutil"}
    return _finding("governor", "warn" if slow else "ok", seen, "cpupower frequency-set -g performance")


def check_realtime(limit: int, *, memory_locked: bool, keeps_awake: bool, root: bool) -> Finding:
    """``limit``: highest real-time priority of a process here; ``keeps_awake``: /dev/cpu_dma_latency is writable."""
    if root:
        fix = "run the stack as a user of its own: root does not hear the drivers of other users"
        return _finding("real time", "warn", "this is root", fix)
    lacks = [f"rtprio is {limit}, not {PRIORITY}"] if limit < PRIORITY else []
    lacks += [] if memory_locked else ["memory cannot be locked"]
    lacks += [] if keeps_awake else ["/dev/cpu_dma_latency is not writable"]
    fix = (
        f"/etc/security/limits.d/lavla.conf: USER - rtprio {PRIORITY} and USER - memlock unlimited; a udev rule for "
        'KERNEL=="cpu_dma_latency", MODE="0666"; log in again'
    )
    seen = "; ".join(lacks) or f"priority {limit}, memory locked, cores kept awake"
    return _finding("real time", "warn" if lacks else "ok", seen, fix)


def check_disk(folder: str, free: int, bytes_per_s: float | None, contract: Contract) -> Finding:
    """``bytes_per_s``: of a synced write; None if nothing could be written."""
    need = sum(3.0 * camera.width * camera.height for camera in contract.cameras) * contract.rate_hz
    if bytes_per_s is None:
        return _finding(
            "disk", "wrong", f"nothing can be written in {folder}", "choose a folder of yours that is not full"
        )
    hours = free / need / 3600
    seen = (
        f"{folder}: {bytes_per_s / MIB:.0f} MiB/s, {free / GIB:.0f} GiB free; {contract.name} records {need / MIB:.1f} "
        f"MiB/s, so it is full after {hours:.0f} h"
    )
    fix = "record to a local SSD with more space; with images:=compressed the cameras' own JPEG is recorded"
    level: Level = "wrong" if bytes_per_s < 1.5 * need or free < GIB else "warn"
    return _finding("disk", level if bytes_per_s < 4 * need or free < 10 * GIB else "ok", seen, fix)


def check_gpu(names: Sequence[str], usable: bool | None) -> Finding:
    """``names``: what the driver lists; ``usable``: whether PyTorch can compute on it, None if that was not asked."""
    if not names:
        return _finding("GPU", "ok", "there is none: policies run on the CPU")
    seen = ", ".join(names)
    if usable is False:
        fix = "install a PyTorch that is built for CUDA (https://pytorch.org), as new as the driver allows"
        return _finding("GPU", "wrong", f"{seen}, which PyTorch cannot use", fix)
    return _finding("GPU", "ok", seen)


def check_inputs(devices: Mapping[str, bool]) -> Finding:
    """Input device → whether this user may read it."""
    if not devices:
        return _finding("input devices", "ok", "none is plugged in")
    closed = [name for name, readable in devices.items() if not readable]
    if closed:
        fix = "usermod -aG input USER, and log in again (a SpaceMouse: a udev rule for its hidraw)"
        return _finding("input devices", "warn", f"may not be read: {', '.join(closed)}", fix)
    return _finding("input devices", "ok", ", ".join(devices))


def check_video(devices: Mapping[str, bool]) -> Finding:
    """Camera device → whether this user may open it."""
    closed = [name for name, readable in devices.items() if not readable]
    if closed:
        return _finding("USB cameras", "wrong", f"may not be opened: {', '.join(closed)}", "usermod -aG video USER")
    return _finding("USB cameras", "ok", ", ".join(devices) or "none is plugged in")


# ---------------------------------------------------------------------- the controller


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerFacts:
    """What the controller says on its status port, where nothing is sent; and, if nobody commands it, of its arm."""

    address: str
    error: str = ""
    """Why there is no status."""
    rate_hz: float = 0.0
    faults: tuple[str, ...] = ()
    """In words, gravest first."""
    taken: str = ""
    powered_on: bool | None = None
    enabled: bool | None = None
    tool_outputs: int = 0
    says_commanded: bool = True
    """Whether the firmware tells its commanded position."""
    busy: str = ""
    """Who commands it."""
    differences: tuple[str, ...] | None = None
    """Of its arm's geometry from the contract's; None if the firmware does not tell, or was not asked."""
    firmware_tells: bool = True


def check_controller(facts: ControllerFacts, *, gripper_output: int | None) -> list[Finding]:
    """``gripper_output``: index of the tool output that works the gripper; None if there is none."""
    name = "controller"
    if facts.error:
        fix = "switch it on, check the cable and the address (ping), close the vendor's app"
        return [_finding(name, "wrong", f"{facts.address} cannot be reached: {facts.error}", fix)]
    found = [_finding(name, "ok", f"{facts.address} reports {facts.rate_hz:.0f} times a second")]
    if facts.rate_hz < 8.0:
        fix = "a slow or lossy network; connect by cable, without other traffic"
        found = [_finding(name, "wrong", f"{facts.address} reports {facts.rate_hz:.1f} times a second", fix)]
    if facts.faults:
        fix = "clear the cause, then acknowledge (/executor/acknowledge) or at the pendant"
        found.append(_finding("arm", "wrong", "; ".join(facts.faults), fix))
    elif facts.taken:
        found.append(_finding("arm", "wrong", f"it is {facts.taken}", "give it back at the pendant"))
    elif facts.powered_on is False or facts.enabled is False:
        state = "has no power" if facts.powered_on is False else "is not enabled"
        fix = "at the pendant, or /executor/power_on and /executor/enable with the stack in standby"
        found.append(_finding("arm", "warn", f"it {state}", fix))
    else:
        found.append(_finding("arm", "ok", "powered, enabled, without a fault"))
    if facts.busy:
        seen = f"not asked: {facts.busy}"
        found.append(_finding("arm's model", "ok", seen))
    elif facts.differences:
        fix = "name the contract of this arm (contract:=…), or correct its robot; docs/how_to/your_arm.md"
        found.append(_finding("arm's model", "wrong", "; ".join(facts.differences), fix))
    elif facts.differences is None or not facts.firmware_tells:
        fix = "compare the type plate with the contract's robot"
        found.append(_finding("arm's model", "warn", "the firmware does not tell the arm's geometry", fix))
    else:
        found.append(_finding("arm's model", "ok", "its geometry is that of the contract"))
    if not facts.says_commanded:
        fix = "update the controller: whether it has a command of its own at the arm cannot be checked"
        found.append(_finding("firmware", "warn", "it does not tell its commanded position", fix))
    if gripper_output is not None and gripper_output >= facts.tool_outputs:
        seen = f"{facts.tool_outputs} are told; the gripper is on number {gripper_output}"
        fix = "check arm.gripper_output in config/control, and that the tool's power is on at the pendant"
        found.append(_finding("tool outputs", "warn", seen, fix))
    return found


# ---------------------------------------------------------------------- cameras of a live stack


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraFacts:
    """What came on the topic of a camera while one listened."""

    publishers: tuple[str, ...]
    rate_hz: float = 0.0
    latency_s: float = 0.0
    """From the stamp to its arrival, in the middle."""
    size: tuple[int, int] = (0, 0)
    """Height, width."""
    brightness: float = 0.5
    """Mean of all pixels, 0 to 1."""
    dark: float = 0.0
    """Share of pixels that are black."""
    bright: float = 0.0
    """Share of pixels that are white in all channels."""


def check_camera(facts: CameraFacts, spec: CameraSpec, contract: Contract) -> list[Finding]:
    """One finding for each thing that is wrong, or one that all is well."""
    name = f"camera {spec.name}"
    if not facts.publishers:
        fix = f"does the camera node run? It publishes {spec.observation_topic}"
        return [_finding(name, "wrong", f"nobody publishes {spec.observation_topic}", fix)]
    if facts.rate_hz == 0.0:
        fix = f"does the driver publish {spec.topic}? /diagnostics of the camera node says what it misses"
        return [_finding(name, "wrong", f"{', '.join(facts.publishers)} publishes nothing", fix)]
    found = []
    if facts.size != (spec.height, spec.width):
        seen = f"pictures are {facts.size[1]} x {facts.size[0]}, the contract says {spec.width} x {spec.height}"
        found.append(_finding(name, "wrong", seen, "start the camera node with this contract"))
    if facts.rate_hz < 0.9 * contract.rate_hz:
        seen = f"{facts.rate_hz:.1f} pictures a second, the contract needs {contract.rate_hz:g}"
        found.append(
            _finding(name, "wrong", seen, "a longer exposure than the period? a full USB bus? a busy machine?")
        )
    if facts.latency_s > contract.alignment.max_observation_age_s or facts.latency_s < -0.05:
        seen = f"pictures arrive {facts.latency_s:.2f} s after their stamps"
        found.append(_finding(name, "wrong", seen, "stamps of another clock, or pictures that queue in the driver"))
    elif facts.latency_s > 0.2:
        seen = f"pictures arrive {1e3 * facts.latency_s:.0f} ms after their stamps"
        found.append(
            _finding(name, "warn", seen, "the policy acts on what was; raw instead of compressed, a faster bus")
        )
    if facts.bright > 0.25 or facts.dark > 0.5:
        what = f"{facts.bright:.0%} of the pixels are white" if facts.bright > 0.25 else f"{facts.dark:.0%} are black"
        fix = "an exposure as in training, fixed: v4l2-ctl -c auto_exposure=1 -c exposure_time_absolute=…"
        found.append(_finding(name, "warn", what, fix))
    seen = f"{facts.rate_hz:.1f} pictures a second of {spec.width} x {spec.height}, {1e3 * facts.latency_s:.0f} ms old"
    return found or [_finding(name, "ok", f"{seen}, brightness {facts.brightness:.2f}")]
