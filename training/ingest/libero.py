"""LIBERO demonstrations: HDF5 files of one task each, in robomimic's layout.

``data/demo_i`` has ``actions`` (L, 7) and ``obs/{agentview_rgb, eye_in_hand_rgb, ee_states, joint_states,
gripper_states}``. Two kinds of files exist. LIBERO's own were rendered *after* each action was executed, so that the
observation beside action i is the one that action i + 1 was decided on; files regenerated for OpenVLA have the
observation before. They are told apart by ``num_samples``, which only LIBERO's own episodes carry; observations and
actions are paired accordingly. Images of both are stored upside down (OpenGL), as the simulator's camera gives them:
the contract's ``rotate_deg: 180`` turns them as the standard protocol does. Files whose pictures were turned before
have to be named as such (``upright``), for LIBERO's own attribute is missing in regenerated files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import CameraSpec, Contract
from training.ingest.build import IngestError, Kind, Rejected
from training.ingest.table import Numbers, Table, columns_by_name

CAMERAS = {"agentview": "agentview_rgb", "wrist": "eye_in_hand_rgb"}
"""Camera of the contract → image data of the file."""
STATE_COLUMNS = {
    "ee_states": ("eef_x", "eef_y", "eef_z", "eef_ax", "eef_ay", "eef_az"),
    "gripper_states": ("finger_left", "finger_right"),
    "joint_states": tuple(f"joint_{i}" for i in range(1, 8)),
}
"""Data of ``obs`` → names of its columns."""
ACTION_COLUMNS = ("x", "y", "z", "ax", "ay", "az", "gripper")


@dataclass(frozen=True, slots=True, kw_only=True)
class LiberoEpisode(Table):
    """One demonstration."""

    file: Path
    demo: str
    instruction: str
    after_action: bool
    """Observations were taken after the action beside them."""
    upright: bool = False
    """The pictures stand as the policy is to see them: they are not turned."""

    @property
    def name(self) -> str:
        return f"{self.file}:{self.demo}"

    def numbers(self, contract: Contract) -> Numbers:
        with h5py.File(self.file, "r") as opened:
            group = opened[f"data/{self.demo}"]
            actions = np.asarray(group["actions"], np.float64)
            count = len(actions)
            states: dict[str, NDArray[np.float64]] = {}
            for key, names in STATE_COLUMNS.items():
                if key in group["obs"]:
                    values = np.asarray(group["obs"][key], np.float64)
                    if values.shape != (count, len(names)):
                        raise Rejected(Kind.SHAPE, f"obs/{key} is {values.shape}; expected {(count, len(names))}")
                    states |= {name: values[self._observed(count), i] for i, name in enumerate(names)}
        if actions.shape != (count, len(ACTION_COLUMNS)):
            raise Rejected(Kind.SHAPE, f"actions are {actions.shape}; expected {(count, len(ACTION_COLUMNS))}")
        acted = actions[1:] if self.after_action else actions
        return Numbers(
            states_LS=columns_by_name(contract.state.fields, states, "state"),
            actions_LA=columns_by_name(
                contract.action.dims, {n: acted[:, i] for i, n in enumerate(ACTION_COLUMNS)}, "action"
            ),
            instructions=(self.instruction,) * len(acted),
        )

    def frames(self, camera: str) -> Iterator[NDArray[np.uint8]]:
        if camera not in CAMERAS:
            raise Rejected(Kind.CONTRACT, f"LIBERO has no camera {camera!r}; it has {sorted(CAMERAS)}")
        with h5py.File(self.file, "r") as opened:
            images = opened[f"data/{self.demo}/obs/{CAMERAS[camera]}"]
            for step in range(len(images))[self._observed(len(images))]:
                yield np.asarray(images[step], np.uint8)

    def prepared_as(self, spec: CameraSpec) -> CameraSpec:
        return replace(spec, rotate_deg=0) if self.upright else spec

    def _observed(self, count: int) -> slice:
        """Which observations are kept: after the last action nothing was decided any more."""
        return slice(0, count - 1 if self.after_action else count)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiberoFiles:
    """What is said of LIBERO demonstrations."""

    default_contract: ClassVar[str | None] = "libero"
    first_frames: ClassVar[bool] = True

    instruction: str | None = None
    """In place of the files' own."""
    upright: bool = False
    """The pictures stand as the policy is to see them: they are not turned."""

    def find(self, paths: Sequence[Path], contract: Contract) -> list[LiberoEpisode]:
        """All demonstrations of files, and of the ``*.hdf5`` files below folders, in order.

        The instruction is the file's own; if it carries none, the one in its name. Raises IngestError for a folder
        without such files, one that is not LIBERO's, and files that say that they are of another rate or orientation.
        """
        episodes: list[LiberoEpisode] = []
        for path in paths:
            files = [path] if path.is_file() else sorted(path.rglob("*.hdf5"))
            if not files:
                raise IngestError(f"{path} holds no *.hdf5 file")
            for file in files:
                try:
                    with h5py.File(file, "r") as opened:
                        if "data" not in opened or not any(re.fullmatch(r"demo_\d+", name) for name in opened["data"]):
                            raise IngestError(f"{file} has no data/demo_0: not a LIBERO demonstration file")
                        episodes += _episodes(file, opened["data"], self, contract.rate_hz)
                except OSError as error:
                    raise IngestError(f"{file} cannot be read: {error}") from None
        return episodes


def _episodes(file: Path, data: Any, said: LiberoFiles, rate_hz: float) -> Iterator[LiberoEpisode]:
    upright = said.upright
    convention = _text(data.attrs.get("macros_image_convention", ""))
    if convention not in ("", "opengl") and not upright:
        raise IngestError(
            f"{file}: its images follow the convention {convention!r}; turning them as the contract does is right for "
            "'opengl' only. Where they stand upright, add --upright"
        )
    if convention == "opengl" and upright:
        raise IngestError(f"{file} says that its images are upside down ('opengl'); leave --upright out")
    rate = _control_rate(data)
    if rate is not None and rate != rate_hz:
        raise IngestError(f"{file} was recorded at {rate:g} Hz; the contract has rate_hz {rate_hz:.12g}")
    text = said.instruction or _stored_instruction(data) or instruction_of_name(file.name)
    for demo in sorted((n for n in data if re.fullmatch(r"demo_\d+", n)), key=lambda n: int(n.split("_")[1])):
        after = "num_samples" in data[demo].attrs
        yield LiberoEpisode(file=file, demo=demo, instruction=text, after_action=after, upright=upright)


def _control_rate(data: Any) -> float | None:
    """Rate of the environment that the file was made with; None if it does not say."""
    try:
        return float(json.loads(_text(data.attrs["env_args"]))["env_kwargs"]["control_freq"])
    except (KeyError, TypeError, ValueError):
        return None


def _stored_instruction(data: Any) -> str:
    try:
        found = json.loads(_text(data.attrs["problem_info"]))["language_instruction"]
    except (KeyError, ValueError):
        return ""
    # some files hold it as a list of characters, some within quotes
    return "".join(found).strip().strip('"').strip()


def instruction_of_name(name: str) -> str:
    """``KITCHEN_SCENE3_turn_on_the_stove_demo.hdf5`` → "turn on the stove"."""
    stem = name.removesuffix(".hdf5").removesuffix("_demo")
    return re.sub(r"^[A-Z_]+SCENE\d+_", "", stem).replace("_", " ").strip()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
