"""One LIBERO task in this process, under the contract and by the standard protocol.

The protocol is the one that published figures follow (OpenVLA's, OpenVLA-OFT's and openpi's evaluations): a hard reset,
a recorded initial state, ten waiting steps with the gripper open, pictures of 256×256 turned by 180°, a state of end
effector, axis-angle and fingers, actions at 20 Hz, and success at the first step on which the goal holds.

What is done differently here changes no bit of the simulation: pictures are drawn only when they are asked for, the
model is compiled once instead of at every reset, and no OpenGL context is made until the first picture.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lavla_ros.contract import Contract, Observation, load_contract
from lavla_ros.observation.images import prepare_image
from lavla_ros.typing import NS_PER_S, FloatArray
from sim_bridges.perturbation import UNPERTURBED, Perturbation, PerturbationOptions, reworded
from sim_bridges.worlds.libero.assets import LiberoAssets, find_assets
from sim_bridges.worlds.libero.initial_states import read_initial_states
from sim_bridges.worlds.libero.package import import_libero
from sim_bridges.worlds.libero.pictures import CAMERAS, Pictures
from sim_bridges.worlds.libero.tasks import LiberoError, find_task

RESOLUTION = 256
"""Edge of LIBERO's pictures in the protocol, pixels; the contract's size is made from them."""
RATE_HZ = 20
WAIT_STEPS = 10
WAIT_ACTION = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
ACTIONS = ("x", "y", "z", "ax", "ay", "az", "gripper")
"""Steps of the end effector (1 is 5 cm or 0.5 rad) and the gripper: -1 open, 1 close."""
STATES = (
    *("eef_x", "eef_y", "eef_z", "eef_ax", "eef_ay", "eef_az", "finger_left", "finger_right"),
    *(f"joint_{i}" for i in range(1, 8)),
)
"""What a contract may ask for: metres, axis-angle, metres of either finger's travel; and the arm's joints, radians."""
_LARGEST_SEED = 2**32 - 1
_ROUNDING = 1e-6
_CHANGED = ("body_pos", "body_quat", "site_rgba")
"""Arrays of the model that LIBERO writes to while it runs: places of fixtures, visibility of marks."""
_FORWARDS_OF_A_NEW_MODEL = 2
"""A hard reset evaluates a new model this often before it places anything; the solver starts from the result."""


class LiberoEnvironment:
    """One simulator. Not thread-safe; pictures must all be drawn in the same thread. Several may live in a process."""

    def __init__(
        self,
        suite: str,
        task: int | str,
        *,
        resolution: int = RESOLUTION,
        assets: LiberoAssets | str | Path | None = None,
        cameras: Sequence[str] | None = None,
        contract: Contract | str = "libero",
        initial_states: FloatArray | None = None,
        perturbations: PerturbationOptions = UNPERTURBED,
    ) -> None:
        """``task``: number or name. ``assets``: see :func:`find_assets`. ``cameras``: those of the contract that will
        be looked at (None: all; empty: none, and nothing is ever kept for pictures). ``initial_states``: (N, 1 + nq +
        nv) in place of the task's recorded ones.

        Raises LiberoError for an unknown suite, task or camera, a contract that is not LIBERO's, or missing assets.
        """
        if not 8 <= resolution <= 2048:
            raise LiberoError(f"the resolution is {resolution}; expected 8 to 2048 pixels")
        self.contract = load_contract(contract) if isinstance(contract, str) else contract
        _check_contract(self.contract)
        self.cameras = self.contract.camera_names if cameras is None else tuple(cameras)
        unknown = sorted(set(self.cameras) - set(self.contract.camera_names))
        if unknown:
            raise LiberoError(f"contract {self.contract.name} has no cameras {unknown}: {self.contract.camera_names}")
        self.task = find_task(suite, task)
        self.assets = assets if isinstance(assets, LiberoAssets) else find_assets(assets)
        if initial_states is None:
            initial_states = read_initial_states(self.task.initial_states_file)
        self._initial_states = initial_states
        self.env: Any = self._make_env()
        """LIBERO's own wrapper; ``env.env`` is robosuite's environment. Stepping them directly loses count."""
        self._wording = perturbations.wording
        self._perturbation = Perturbation(perturbations, self.env.sim.model._model, CAMERAS["agentview"])
        self._pictures = Pictures(self.env.sim.model._model, resolution) if self.cameras else None
        self._watch_cameras()
        self._reset_like_new = self._make_reset()
        self._quat2axisangle: Callable[[FloatArray], FloatArray] = importlib.import_module(
            "robosuite.utils.transform_utils"
        ).quat2axisangle
        self._observed: Any = None
        self._digest = hashlib.sha256()
        self.steps = 0
        """Actions of the present episode; the waiting steps are not counted."""
        self.success = False
        """The goal holds after the newest step."""

    @property
    def initial_state_count(self) -> int:
        return len(self._initial_states)

    @property
    def instruction(self) -> str:
        return reworded(self.task.instruction, self._wording)

    @property
    def time_ns(self) -> int:
        """Simulated time since the end of the waiting steps: the stamp of the next observation."""
        return self.steps * (NS_PER_S // RATE_HZ)

    @property
    def trajectory(self) -> str:
        """Hash over the simulator's state after every step of the episode: equal episodes, equal hashes."""
        return self._digest.hexdigest()[:16]

    def reset(self, initial_state: int, seed: int) -> None:
        """Begin the episode of a recorded initial state, after its waiting steps.

        ``seed`` decides where LIBERO puts fixtures, which the recorded states do not contain: equal arguments, equal
        episodes, whatever happened before. Raises LiberoError for an index or a seed out of range.
        """
        if not 0 <= initial_state < self.initial_state_count:
            raise LiberoError(
                f"initial state {initial_state} of {self.task.suite} task {self.task.index} does not exist; "
                f"there are 0 to {self.initial_state_count - 1}"
            )
        if not 0 <= seed <= _LARGEST_SEED:
            raise LiberoError(f"the seed is {seed}; expected 0 to {_LARGEST_SEED}")
        self.env.seed(seed)
        self._reset_like_new()
        start = np.array(self._initial_states[initial_state])
        arm = self.env.env.robots[0]._ref_joint_pos_indexes
        if (shift := self._perturbation.start_shift([seed, initial_state], len(arm))) is not None:
            start[1 + np.asarray(arm)] += shift  # behind the time
        self._observed = self.env.set_init_state(start)
        for _ in range(WAIT_STEPS):
            self._observed = self.env.step(list(WAIT_ACTION))[0]
        domain = self.env.env
        things = {name: domain.obj_body_id[name] for name in domain.obj_of_interest if name in domain.obj_body_id}
        self._perturbation.move_camera([seed, initial_state], domain.sim.data._data, things)
        self.steps = 0
        self._digest = hashlib.sha256()
        self.success = False

    def step(self, action: ArrayLike) -> bool:
        """One action (7,) of :data:`ACTIONS`, each from -1 to 1: 50 ms of simulated time.

        Returns whether the goal holds then. Raises LiberoError before the first reset, or naming what is wrong with
        the action; nothing has moved then.
        """
        values = self._checked(action)
        if self._observed is None:
            raise LiberoError("the environment was not reset yet")
        self._observed, _, done, _ = self.env.step(values)
        self.steps += 1
        self._digest.update(self.states().tobytes())
        self.success = bool(done)
        return self.success

    def observe(self, images: bool = True) -> Observation:
        """The contract's observation now. ``images`` False: none is drawn, and the simulation goes the same way.

        Raises LiberoError before the first reset, NoGLError if pictures are wanted and no OpenGL works.
        """
        raw = self.raw_images() if images else {}
        stamp = self.time_ns
        return Observation(
            stamp_ns=stamp,
            images={name: np.ascontiguousarray(prepare_image(raw[name], self.contract.camera(name))) for name in raw},
            state=self.state().astype(np.float32),
            instruction=self.instruction,
            capture_ns=dict.fromkeys((*raw, "state"), stamp),
        )

    def raw_images(self) -> dict[str, NDArray[np.uint8]]:
        """Camera → (R, R, 3) RGB as LIBERO gives it (upside down): what a driver would send. Raises as observe does."""
        if self._observed is None:
            raise LiberoError("the environment was not reset yet")
        if self._pictures is None:
            raise LiberoError("this environment was made without cameras: observe(images=False), or name some")
        return {name: self._pictures.draw(name) for name in self.cameras}

    def state(self) -> FloatArray:
        """(S,) in the contract's order. LIBERO samples it, as the pictures, shortly before a step's end."""
        if self._observed is None:
            raise LiberoError("the environment was not reset yet")
        seen = self._observed
        turned = self._quat2axisangle(np.array(seen["robot0_eef_quat"]))
        values = np.concatenate([seen["robot0_eef_pos"], turned, seen["robot0_gripper_qpos"], seen["robot0_joint_pos"]])
        by_name = dict(zip(STATES, values, strict=True))
        return np.array([by_name[name] for name in self.contract.state.names], np.float64)

    def states(self) -> FloatArray:
        """(1 + nq + nv,) time, positions and velocities of the whole simulation."""
        return np.asarray(self.env.get_sim_state(), np.float64)

    def release_pictures(self) -> None:
        """Free the OpenGL context, in the thread that drew; another thread may draw then."""
        if self._pictures is not None:
            self._pictures.close()

    def close(self) -> None:
        """Free everything; calling it again does nothing."""
        self.release_pictures()
        if self.env is not None:
            self.env.close()
            self.env = None
            self._observed = None

    def _checked(self, action: ArrayLike) -> FloatArray:
        values = np.asarray(action, np.float64)
        if values.shape != (len(ACTIONS),):
            raise LiberoError(f"the action has shape {values.shape}; expected ({len(ACTIONS)},) for {list(ACTIONS)}")
        bad = {name: float(v) for name, v in zip(ACTIONS, values, strict=True) if not abs(v) <= 1.0 + _ROUNDING}
        if bad:
            raise LiberoError(f"the action has {bad}; expected finite numbers from -1 to 1 (1 is 5 cm or 0.5 rad)")
        return values

    def _make_env(self) -> Any:
        envs = import_libero(self.assets.folder)
        try:
            env = envs.env_wrapper.ControlEnv(
                bddl_file_name=str(self.task.bddl_file),
                has_renderer=False,
                has_offscreen_renderer=False,
                use_camera_obs=False,
                ignore_done=True,
            )
        except (FileNotFoundError, ValueError) as error:
            raise LiberoError(
                f"the scene of {self.task.suite} task {self.task.index} cannot be built from the assets in "
                f"{self.assets.folder} ({str(error).strip()}); libero_90 needs more files than the other suites"
            ) from error
        env.env.hard_reset = False
        return env

    def _watch_cameras(self) -> None:
        """A sensor that is sampled when cameras would be, and costs a copy."""
        if self._pictures is None:
            return
        pictures, domain = self._pictures, self.env.env
        observables = importlib.import_module("robosuite.utils.observables")

        def sample(_cache: Any) -> float:
            pictures.capture(domain.sim.data._data)
            return 0.0

        sensor = observables.sensor(modality="picture")(sample)
        domain.add_observable(
            observables.Observable(
                name="lavla_pictures", sensor=sensor, sampling_rate=domain.control_freq, active=False
            )
        )

    def _make_reset(self) -> Callable[[], None]:
        """A reset that leaves what the first hard one leaves, without compiling the model again (1 to 3 s)."""
        domain = self.env.env
        # Loading a scene adds samplers of its drawers' and burners' positions to those that are there, so that LIBERO
        # draws more random numbers at every reset. Two of each is what its first reset has.
        domain.object_property_initializers = domain.object_property_initializers * 2
        model, data = domain.sim.model._model, domain.sim.data._data
        new = mujoco.MjModel.from_xml_string(domain.model.get_xml())
        original = {name: np.array(getattr(new, name)) for name in _CHANGED}

        def reset_simulation() -> None:
            for name, values in original.items():
                getattr(model, name)[:] = values
            mujoco.mj_resetData(model, data)
            for _ in range(_FORWARDS_OF_A_NEW_MODEL):
                mujoco.mj_forward(model, data)

        def reset() -> None:
            for robot in domain.robots:
                robot.gripper.current_action = np.zeros(robot.gripper.dof)
            self.env.reset()

        domain.sim.reset = reset_simulation
        return reset


def _check_contract(contract: Contract) -> None:
    """Raises LiberoError if the contract asks for what LIBERO does not have."""
    for what, asked, there in (
        ("cameras", contract.camera_names, tuple(CAMERAS)),
        ("states", contract.state.names, STATES),
    ):
        unknown = sorted(set(asked) - set(there))
        if unknown:
            raise LiberoError(f"contract {contract.name} wants the {what} {unknown}; LIBERO has {list(there)}")
    if contract.action.names != ACTIONS or contract.action.mode != "delta":
        raise LiberoError(
            f"contract {contract.name} commands {list(contract.action.names)}, {contract.action.mode}; "
            f"LIBERO takes {list(ACTIONS)}, delta"
        )
    if contract.rate_hz != RATE_HZ:
        raise LiberoError(f"contract {contract.name} runs at {contract.rate_hz:g} Hz; LIBERO at {RATE_HZ} Hz")
