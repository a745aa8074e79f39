"""Real bags of synthetic episodes, written by our own recorder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lavla_ros.contract import Contract
from lavla_ros.episode import ExecutorReport
from lavla_ros.recording import EpisodeRecorder
from lavla_ros.recording.types import EXECUTOR_TOPIC, jazzy, string_cdr
from training.ingest.bag import Bags, BagSource
from training.ingest.build import IngestReport, build_dataset
from training.task_pool import Workers

MS = 1_000_000
T0 = 1_700_000_000_000_000_000


def _header(stamp_ns: int) -> Any:
    types = jazzy().types
    stamp = types["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return types["std_msgs/msg/Header"](stamp=stamp, frame_id="")


def image_cdr(stamp_ns: int, pixels: np.ndarray) -> bytes:
    kind = "sensor_msgs/msg/Image"
    message = jazzy().types[kind](
        header=_header(stamp_ns),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding="rgb8",
        is_bigendian=0,
        step=pixels.shape[1] * 3,
        data=pixels.ravel(),
    )
    return bytes(jazzy().serialize_cdr(message, kind))


def joints_cdr(stamp_ns: int, values: dict[str, float]) -> bytes:
    kind = "sensor_msgs/msg/JointState"
    message = jazzy().types[kind](
        header=_header(stamp_ns),
        name=list(values),
        position=np.array(list(values.values())),
        velocity=np.empty(0),
        effort=np.empty(0),
    )
    return bytes(jazzy().serialize_cdr(message, kind))


def command_cdr(stamp_ns: int, values: dict[str, float], from_start_ns: int) -> bytes:
    return trajectory_cdr(stamp_ns, [values], [from_start_ns])


def trajectory_cdr(stamp_ns: int, values: Sequence[dict[str, float]], from_start_ns: Sequence[int]) -> bytes:
    types = jazzy().types
    kind = "trajectory_msgs/msg/JointTrajectory"
    points = [
        types["trajectory_msgs/msg/JointTrajectoryPoint"](
            positions=np.array(list(row.values())),
            velocities=np.empty(0),
            accelerations=np.empty(0),
            effort=np.empty(0),
            time_from_start=types["builtin_interfaces/msg/Duration"](sec=after // 10**9, nanosec=after % 10**9),
        )
        for row, after in zip(values, from_start_ns, strict=True)
    ]
    message = types[kind](header=_header(stamp_ns), joint_names=list(values[0]), points=points)
    return bytes(jazzy().serialize_cdr(message, kind))


def picture(size: int, episode: int, step: int, camera: int) -> np.ndarray:
    """A smooth picture whose block position tells the step: survives lossy coding."""
    yy, xx = np.mgrid[0:size, 0:size]
    image = np.stack([xx * 120 // size + 40, yy * 120 // size + 40, np.full_like(xx, 60 + 90 * camera)], 2)
    cell = size // 8
    row, column = (step // 8) % 8, step % 8
    image[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = 230
    image[: cell // 2, : cell // 2] = (episode * 37) % 200
    return image.astype(np.uint8)


def joint_values(step_time_s: float) -> dict[str, float]:
    """Smooth joints as a function of time; deliberately not in the contract's order."""
    return {"gripper": 0.5 + 0.4 * float(np.cos(step_time_s)), "b": 1 + 0.1 * step_time_s, "a": step_time_s * 0.2}


def make_bag(
    root: Path,
    contract: Contract,
    steps: int = 20,
    *,
    episode: int = 0,
    outcome: str = "succeeded",
    tick_ms: int = 0,
    skip: Callable[[str, int], bool] = lambda topic, step: False,
    metadata: dict[str, Any] | None = None,
    instruction: str | None = "put the mango into the bowl",
    without: Sequence[str] = (),
    start_ns: int = T0,
    hands: Mapping[int, str] | None = None,
    chunks: Mapping[int, str] | None = None,
) -> Path:
    """One episode at 10 Hz. ``tick_ms`` 0: commands per step (lock-step); else a servo tick (live arm).

    ``hands``: step from which on somebody has the arm → who; None: nothing says it. ``chunks``: step → topic on which a
    chunk is sent then, of the values that joints have at its times.

    Commands equal ``joint_values`` at their effective time plus 1 in joint a.
    """
    topics = {c.observation_topic: "sensor_msgs/msg/Image" for c in contract.cameras}
    topics |= {
        contract.state.topic: "sensor_msgs/msg/JointState",
        contract.action.topic: "trajectory_msgs/msg/JointTrajectory",
        "/instruction": "std_msgs/msg/String",
    }
    topics |= {EXECUTOR_TOPIC: "std_msgs/msg/String"} if hands else {}
    topics |= dict.fromkeys((chunks or {}).values(), "trajectory_msgs/msg/JointTrajectory")
    recorder = EpisodeRecorder(root, {t: k for t, k in topics.items() if t not in without}, min_free_bytes=0)
    path = recorder.start({"task": "pick_place", "seed": episode, **(metadata or {})}, stamp_ns=start_ns)

    def write(topic: str, raw: bytes, stamp_ns: int, step: int) -> None:
        if topic not in without and not skip(topic, step):
            recorder.write(topic, raw, stamp_ns)

    if instruction is not None:
        write("/instruction", string_cdr(instruction), start_ns, 0)
    dt_ms = round(contract.dt_ns / MS)
    for step in range(steps):
        t = start_ns + step * dt_ms * MS
        if hands and step in hands:
            said = ExecutorReport(state="tracking", commander=hands[step]).to_json()
            write(EXECUTOR_TOPIC, string_cdr(said), t + dt_ms * MS, step)
        if chunks and step in chunks:
            after_ms = [dt_ms * (h + 1) for h in range(contract.chunk_size)]
            planned = [joint_values((step * dt_ms + ms) / 1000) for ms in after_ms]
            write(chunks[step], trajectory_cdr(t, planned, [ms * MS for ms in after_ms]), t + 5 * MS, step)
        write(contract.state.topic, joints_cdr(t, joint_values(step * dt_ms / 1000)), t, step)
        for number, spec in enumerate(contract.cameras):
            pixels = picture(spec.width, episode, step, number)
            write(spec.observation_topic, image_cdr(t, pixels), t + 2 * MS, step)
        ticks = range(0, dt_ms, tick_ms) if tick_ms else (0,)
        for tick in ticks:
            sent, ahead_ms = t + tick * MS, (tick_ms or dt_ms)
            values = joint_values((step * dt_ms + tick + ahead_ms) / 1000)
            values["a"] += 1
            write(contract.action.topic, command_cdr(sent, values, ahead_ms * MS), sent + 3 * MS, step)
    recorder.stop(outcome)  # type: ignore[arg-type]
    return path


def convert(
    bags: Sequence[Path],
    out: Path,
    contract: Contract,
    *,
    options: Bags | None = None,
    jobs: int | None = None,
    ray: str | None = None,
    **settings: Any,
) -> IngestReport:
    """The dataset ``out`` of these bags, in this order."""
    taken = options or Bags()
    sources = [BagSource(path=bag.absolute(), options=taken) for bag in bags]
    return build_dataset(
        sources, out, contract, kind="bag", options=asdict(taken), first_frames=False,
        workers=Workers(jobs=jobs, ray=ray), **settings,
    )  # fmt: skip
