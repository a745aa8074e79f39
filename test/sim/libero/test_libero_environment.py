"""LIBERO under the contract: the protocol's observation, and LIBERO's own bits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from lavla_ros.contract import Contract, load_contract
from sim_bridges.perturbation import PerturbationOptions
from sim_bridges.world import SuiteError
from sim_bridges.worlds.libero.environment import WAIT_ACTION, LiberoEnvironment
from sim_bridges.worlds.libero.exactness import Case, Trace, bridged, differences, direct, each, in_own_process
from sim_bridges.worlds.libero.tasks import LiberoError

pytestmark = [pytest.mark.sim, pytest.mark.long]
pytest.importorskip("libero", reason="LIBERO is not installed")
STILL = np.zeros(7)


@pytest.fixture(scope="module")
def environment(libero_assets: str) -> Iterator[LiberoEnvironment]:
    made = LiberoEnvironment("libero_object", 3, assets=libero_assets, resolution=224)
    yield made
    made.close()


def run(environment: LiberoEnvironment, actions: np.ndarray, *, images: bool = False) -> list[np.ndarray]:
    states = []
    for action in actions:
        environment.observe(images)
        environment.step(action)
        states.append(environment.states())
    return states


def random_actions(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1.0, 1.0, (count, 7))


# Fixtures of a scene stand elsewhere for every seed, and the solver starts from wherever the one before left it: a
# further episode in the same process is where a short cut at the reset would show.
TASKS = {"libero_spatial": 4, "libero_object": 3, "libero_goal": 2, "libero_10": 2}


@pytest.fixture(scope="module")
def traces(libero_assets: str) -> dict[str, tuple[Trace, Trace]]:
    """Of every suite: LIBERO's own, and ours."""
    cases = [Case(suite=name, task=task, assets=libero_assets, steps=24, resolution=64) for name, task in TASKS.items()]
    own, ours = (in_own_process(each, function, cases) for function in (direct, bridged))
    return dict(zip(TASKS, zip(own, ours, strict=True), strict=True))


@pytest.mark.parametrize("suite", TASKS)
@pytest.mark.timeout(600)
def test_states_and_pictures_are_liberos_own_bit_for_bit(traces: dict[str, tuple[Trace, Trace]], suite: str) -> None:
    expected, found = traces[suite]
    assert len(expected.states) == 48 and len(expected.pictures) == 12
    assert differences(expected, found) == []


def test_a_difference_of_one_bit_is_seen() -> None:
    state = np.ones(3)
    other = np.nextafter(state, 2.0)
    left, right = Trace(states=[state, state], done=[False]), Trace(states=[state, other], done=[False])
    assert len(differences(left, right)) == 1 and "number 1" in differences(left, right)[0]
    assert differences(left, left) == []


def test_equal_arguments_give_equal_episodes_whatever_was_before(environment: LiberoEnvironment) -> None:
    actions = random_actions(12)
    environment.reset(3, 7)
    first, hashed = run(environment, actions), environment.trajectory
    environment.reset(9, 1)
    run(environment, random_actions(5, seed=1), images=True)
    environment.reset(3, 7)
    again = run(environment, actions, images=True)
    assert np.array_equal(first, again) and environment.trajectory == hashed
    environment.reset(4, 7)
    assert not np.array_equal(run(environment, actions), first)


def test_the_observation_is_the_contracts(environment: LiberoEnvironment) -> None:
    contract = load_contract("libero")
    environment.reset(0, 7)
    observation = environment.observe()
    assert observation.instruction == environment.task.instruction
    assert observation.stamp_ns == 0 and observation.state.dtype == np.float32
    raw = environment.raw_images()
    for name in contract.camera_names:
        image = observation.images[name]
        assert image.shape == (224, 224, 3) and image.flags.c_contiguous
        np.testing.assert_array_equal(image, raw[name][::-1, ::-1])  # 256 in the protocol; equal sizes show the turn
        assert image.std() > 20.0
    assert environment.observe(images=False).images == {}
    environment.step(STILL)
    assert environment.observe(images=False).stamp_ns == 50_000_000


def test_pictures_stand_upright(environment: LiberoEnvironment) -> None:
    """The arm is on the far side: what changes in the static camera's picture when it moves is in the upper half."""
    environment.reset(0, 7)
    before = environment.observe().images["agentview"].astype(float)
    for _ in range(10):
        environment.step([0.0, 0.0, 0.8, 0.0, 0.0, 0.0, -1.0])
    changed = np.abs(environment.observe().images["agentview"] - before).max(axis=2) > 40.0
    assert changed.sum() > 100 and np.nonzero(changed)[0].mean() < 90.0


def test_colours_are_not_darkened(environment: LiberoEnvironment) -> None:
    import mujoco

    model = environment.env.sim.model._model
    assert np.all(np.asarray(model.tex_colorspace) == int(mujoco.mjtColorSpace.mjCOLORSPACE_LINEAR))


def test_the_state_is_the_protocols(environment: LiberoEnvironment) -> None:
    environment.reset(0, 7)
    domain = environment.env.env
    before = environment.state()
    grip = np.array(domain.sim.data.site_xpos[domain.robots[0].eef_site_id])
    np.testing.assert_allclose(before[:3], grip, atol=0.01)
    angle = np.linalg.norm(before[3:6])
    assert np.pi * 0.9 < angle < np.pi * 1.1  # straight down: half a turn
    for _ in range(10):
        environment.step([0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    after = environment.state()
    assert after[0] - before[0] > 0.04 and abs(after[1] - before[1]) < 0.02


def test_minus_one_opens_and_one_closes(environment: LiberoEnvironment) -> None:
    environment.reset(0, 7)
    for command, low, high in ((1.0, -0.002, 0.01), (-1.0, 0.035, 0.042)):
        for _ in range(15):
            environment.step([*WAIT_ACTION[:6], command])
        finger = environment.state()[6]
        assert low < finger < high, (command, finger)


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (np.zeros(6), ("(6,)", "(7,)")),
        (np.zeros((1, 7)), ("(1, 7)",)),
        (np.array([0, 0, 0, 0, np.nan, 0, 0]), ("ay", "nan")),
        (np.array([0, 0, np.inf, 0, 0, 0, 0]), ("z", "inf")),
        (np.array([1.01, 0, 0, 0, 0, 0, -1]), ("x", "1.01", "-1 to 1")),
    ],
)
def test_bad_actions_are_refused_and_move_nothing(
    environment: LiberoEnvironment, action: np.ndarray, words: tuple[str, ...]
) -> None:
    environment.reset(0, 7)
    before = environment.states()
    with pytest.raises(LiberoError) as error:
        environment.step(action)
    assert all(word in str(error.value) for word in words)
    assert np.array_equal(environment.states(), before) and environment.steps == 0


def test_bad_resets_are_refused(environment: LiberoEnvironment) -> None:
    for index, seed, words in ((50, 7, "0 to 49"), (-1, 7, "-1"), (0, -3, "-3"), (0, 2**32, "4294967295")):
        with pytest.raises(LiberoError, match=words):
            environment.reset(index, seed)


def test_what_the_environment_refuses_at_once(libero_assets: str) -> None:
    for arguments, options, words in (
        (("libero_kitchen", 0), {}, "libero_kitchen"),
        (("libero_object", 10), {}, "0 to 9"),
        (("libero_object", 0), {"cameras": ("left",)}, "left"),
        (("libero_object", 0), {"resolution": 0}, "resolution is 0"),
        (("libero_object", 0), {"contract": "jaka_minicobo"}, "joint_1|front"),
        (("libero_object", 0), {"contract": other_rate()}, "10 Hz"),
    ):
        with pytest.raises(LiberoError, match=words):
            LiberoEnvironment(*arguments, **{"assets": libero_assets, **options})


def other_rate() -> Contract:
    data = load_contract("libero").to_dict()
    return Contract.from_dict({**data, "rate_hz": 10.0})


def test_an_environment_that_was_not_reset_says_so(libero_assets: str) -> None:
    fresh = LiberoEnvironment("libero_object", 0, assets=libero_assets, cameras=())
    try:
        for use in (lambda: fresh.step(STILL), fresh.state, fresh.observe):
            with pytest.raises(LiberoError, match="not reset"):
                use()
        fresh.reset(0, 7)
        with pytest.raises(LiberoError, match="without cameras"):
            fresh.observe()
        assert fresh.observe(images=False).state.shape == (8,)
    finally:
        fresh.close()
        fresh.close()


def test_scenes_can_be_perturbed(libero_assets: str, environment: LiberoEnvironment) -> None:
    options = PerturbationOptions(light=0.5, camera_shift_m=0.05, start_shift_rad=0.05, wording="polite")
    changed = LiberoEnvironment("libero_object", 3, assets=libero_assets, cameras=(), perturbations=options)
    environment.reset(2, 7)
    changed.reset(2, 7)
    usual, model = environment.env.sim.model._model, changed.env.sim.model._model
    assert np.allclose(model.light_diffuse, 0.5 * usual.light_diffuse)
    moved = model.camera("agentview").pos - usual.camera("agentview").pos
    assert np.linalg.norm(moved) == pytest.approx(0.05)
    arm = np.asarray(changed.env.env.robots[0]._ref_joint_pos_indexes)
    joints = (changed.states() - environment.states())[1 + arm]
    assert np.abs(joints).max() > 0.02 and len(set(np.sign(joints))) == 2
    assert changed.instruction == "Could you please " + environment.instruction + "?"
    first = changed.states()
    changed.reset(2, 7)
    assert np.array_equal(changed.states(), first)
    far = LiberoEnvironment(
        "libero_object", 3, assets=libero_assets, cameras=(), perturbations=PerturbationOptions(camera_shift_m=0.5)
    )
    with pytest.raises(SuiteError, match=r"hides .* from camera 'agentview' in the episode of seed 7/"):
        for state in range(30):
            far.reset(state, 7)
    changed.close()
    far.close()
