"""RoboTwin 2.0 demonstrations: one HDF5 file per episode, in either of its two layouts.

``stable_2.0``: ``joint_action/{left_arm, left_gripper, right_arm, right_gripper}`` are the joints' targets at each
frame and ``observation/<camera>/rgb`` JPEG bytes; the action of a frame is the target of the next one, so the last
frame has none. Instructions are in ``../instructions/episode<i>.json``. ``main`` stores ``state``, ``action``,
``vision/<camera>/colors`` and ``instructions`` ready paired. Both hand RGB arrays to an encoder that takes them for
BGR: decoding with OpenCV, which errs the same way round, gives RGB.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import Contract
from training.ingest.build import IngestError, Kind, Rejected
from training.ingest.table import Numbers, Table, columns_by_name

CAMERAS = {
    "head": ("observation/head_camera/rgb", "vision/cam_head/colors"),
    "left_wrist": ("observation/left_camera/rgb", "vision/cam_left_wrist/colors"),
    "right_wrist": ("observation/right_camera/rgb", "vision/cam_right_wrist/colors"),
    "front": ("observation/front_camera/rgb", "vision/cam_third_view/colors"),
}
"""Camera of the contract → where its images are, in either layout."""
JOINTS = {
    "left_joint": ("left_arm", "left_arm_joint_states"),
    "left_gripper": ("left_gripper", "left_ee_joint_states"),
    "right_joint": ("right_arm", "right_arm_joint_states"),
    "right_gripper": ("right_gripper", "right_ee_joint_states"),
}
"""Name in the contract (arms: with _1 … _n) → name in ``joint_action``, and in ``state`` and ``action``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RobotwinEpisode(Table):
    """One demonstration."""

    file: Path
    phrasings: tuple[str, ...]
    """Instructions that may be given for it; the first is the episode's own."""

    @property
    def name(self) -> str:
        return str(self.file)

    def numbers(self, contract: Contract) -> Numbers:
        with h5py.File(self.file, "r") as opened:
            if "joint_action" in opened:
                targets = _joints(opened["joint_action"], 0)
                states = {name: values[:-1] for name, values in targets.items()}
                actions = {name: values[1:] for name, values in targets.items()}
            else:
                states, actions = _joints(opened["state"], 1), _joints(opened["action"], 1)
        states_LS = columns_by_name(contract.state.fields, states, "state")
        return Numbers(
            states_LS=states_LS,
            actions_LA=columns_by_name(contract.action.dims, actions, "action"),
            instructions=(self.phrasings[0] if self.phrasings else "",) * len(states_LS),
            phrasings=self.phrasings,
        )

    def frames(self, camera: str) -> Iterator[NDArray[np.uint8]]:
        if camera not in CAMERAS:
            raise Rejected(Kind.CONTRACT, f"RoboTwin has no camera {camera!r}; it has {sorted(CAMERAS)}")
        with h5py.File(self.file, "r") as opened:
            unpaired = "joint_action" in opened
            path = CAMERAS[camera][0 if unpaired else 1]
            if path not in opened:
                raise Rejected(Kind.FRAMES, f"{path} is missing; record with this camera")
            images = opened[path]
            for step in range(len(images) - unpaired):
                code = np.frombuffer(bytes(images[step]), np.uint8)
                rgb = cv2.imdecode(code, cv2.IMREAD_COLOR) if len(code) else None
                if rgb is None:
                    raise Rejected(Kind.IMAGE, f"frame {step} of camera {camera!r} is no JPEG ({len(code)} bytes)")
                yield np.asarray(rgb, np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class RobotwinFiles:
    """What is said of RoboTwin demonstrations."""

    default_contract: ClassVar[str | None] = "robotwin_aloha"
    first_frames: ClassVar[bool] = True

    instruction: str | None = None
    """In place of the files' own."""

    def find(self, paths: Sequence[Path], contract: Contract) -> list[RobotwinEpisode]:
        """All episodes (``episode<i>.hdf5``) of files and below folders, by folder and number.

        Of the instructions that RoboTwin gives an episode to train on ("seen"), number i is episode i's own, so that
        tasks keep their variety; the others are its further phrasings. Raises IngestError for a folder without
        episodes.
        """
        found = []
        for path in paths:
            files = [path] if path.is_file() else list(path.rglob("episode*.hdf5"))
            if not files:
                raise IngestError(f"{path} holds no episode*.hdf5 file")
            for file in sorted(files, key=lambda file: (str(file.parent), _number(file))):
                found.append(
                    RobotwinEpisode(file=file, phrasings=(self.instruction,) if self.instruction else _phrasings(file))
                )
        return found


def _phrasings(file: Path) -> tuple[str, ...]:
    """Empty if there is none: the episode is rejected for that reason later."""
    number = _number(file)
    beside = file.parent.parent / "instructions" / f"episode{number}.json"
    try:
        if beside.exists():
            found = json.loads(beside.read_text(encoding="utf-8"))["seen"]
        else:
            with h5py.File(file, "r") as opened:
                found = json.loads(opened["instructions"][()]) if "instructions" in opened else []
    except (OSError, ValueError, KeyError) as error:
        raise IngestError(f"the instructions of {file} cannot be read: {error}") from None
    own = number % len(found) if found else 0
    return tuple(dict.fromkeys(str(text) for text in (*found[own:], *found[:own])))


def _number(file: Path) -> int:
    digits = re.findall(r"\d+", file.stem)
    if not digits:
        raise IngestError(f"{file} has no episode number in its name")
    return int(digits[-1])


def _joints(group: Any, layout: int) -> dict[str, NDArray[np.float64]]:
    """Named columns of one of the two layouts."""
    columns: dict[str, NDArray[np.float64]] = {}
    for name, keys in JOINTS.items():
        if keys[layout] in group:
            values = np.asarray(group[keys[layout]], np.float64)
            values = values[:, None] if values.ndim == 1 else values
            single = name.endswith("gripper") and values.shape[1] == 1
            columns |= {name if single else f"{name}_{i + 1}": values[:, i] for i in range(values.shape[1])}
    return columns
