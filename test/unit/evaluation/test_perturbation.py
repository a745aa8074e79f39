"""Scenes that are changed for an evaluation: light, camera, start and wording."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lavla_ros.config import ConfigError
from sim_bridges.evaluation.report import write_report
from sim_bridges.evaluation.results import EpisodeResult, Results
from sim_bridges.perturbation import Perturbation, PerturbationOptions, perturbations_of, perturbed, reworded
from sim_bridges.suites import load_suite
from sim_bridges.world import EpisodePlan, SuiteError

PLAN = EpisodePlan(index=0, task="pick_place", trial=0, seed=1_000_000, state_index=None, max_steps=10)


def environment(**options: str):
    return load_suite("tabletop", options).environment("pick_place", images=False)


def test_without_perturbations_a_scene_keeps_its_bits_and_its_description():
    plain, told = load_suite("tabletop"), load_suite("tabletop", {"light": "1.0", "wording": "known"})
    assert plain.describe(PLAN) == told.describe(PLAN) == {"task": "pick_place", "layout": "id", "seed": 1_000_000}
    one, other = environment(), environment(start_shift_rad="0.0")
    assert one.reset(PLAN) == other.reset(PLAN)
    assert np.array_equal(one.sim.snapshot(), other.sim.snapshot())
    changed = load_suite("tabletop", {"light": "0.5", "wording": "polite"})
    assert hasattr(plain, "live") and not hasattr(changed, "live"), "the live stack knows nothing of perturbations"
    assert changed.describe(PLAN) == plain.describe(PLAN) | {"light": 0.5, "wording": "polite"}


def test_the_arm_begins_elsewhere_and_nothing_else_moves():
    usual, shifted, again = environment(), environment(start_shift_rad="0.1"), environment(start_shift_rad="0.1")
    states = [each.reset(PLAN) for each in (usual, shifted, again)]
    assert states[1] == states[2] != states[0]
    moved = shifted.sim.joint_position_rad - usual.sim.joint_position_rad
    assert np.allclose(np.abs(moved), 0.1, atol=0.02) and len(set(np.sign(moved))) == 2
    for name, body in usual.sim.concerned.items():
        assert np.allclose(usual.sim.data.xpos[body], shifted.sim.data.xpos[body], atol=1e-3), name
    # the executor knows where the arm is: it stands
    before = shifted.sim.joint_position_rad
    for _ in range(5):
        shifted.step(None)
    assert np.allclose(shifted.sim.joint_position_rad, before, atol=0.02)
    other = replace(PLAN, seed=1_000_007)
    assert not np.allclose(np.sign(moved), np.sign(_shift(other)))


def _shift(plan: EpisodePlan) -> np.ndarray:
    usual, shifted = environment(), environment(start_shift_rad="0.1")
    usual.reset(plan), shifted.reset(plan)
    return shifted.sim.joint_position_rad - usual.sim.joint_position_rad


def test_the_camera_is_moved_and_what_it_must_see_is_never_hidden():
    moved = environment(camera_shift_m="0.03")
    usual = np.array(moved.sim.model.camera("front").pos)
    places = []
    for seed in range(4):
        moved.reset(replace(PLAN, seed=PLAN.seed + seed))
        places.append(np.array(moved.sim.model.camera("front").pos))
        assert np.linalg.norm(places[-1] - usual) == pytest.approx(0.03)
    assert len({tuple(place) for place in places}) == 4
    wrist = np.array(moved.sim.model.camera("wrist").pos)
    assert np.array_equal(wrist, environment().sim.model.camera("wrist").pos)
    far = environment(camera_shift_m="0.5")
    with pytest.raises(SuiteError, match=r"camera_shift_m=0\.5 hides .* from camera 'front' in the episode of seed"):
        for seed in range(40):
            far.reset(replace(PLAN, seed=PLAN.seed + seed))
    assert np.array_equal(far.sim.model.camera("front").pos, usual), "nothing is left moved"


def test_a_thing_before_another_hides_it():
    table = environment()
    table.reset(PLAN)
    sim = table.sim
    view = Perturbation(PerturbationOptions(), sim.model, "front")
    (name, body), (_, cover) = list(sim.concerned.items())[:2]
    assert view._sees(sim.data, body)
    start = sim._free_q[name]
    eye = np.array(sim.model.camera("front").pos)
    other = next(n for n, b in sim.concerned.items() if b == cover)
    before = eye + 0.8 * (sim.data.qpos[start : start + 3] - eye)
    sim.data.qpos[sim._free_q[other] : sim._free_q[other] + 3] = before
    assert not view._sees(sim.data, body)


def test_lights_are_brighter_or_darker():
    usual, dark = environment().sim.model, environment(light="0.4").sim.model
    assert np.allclose(dark.light_diffuse, 0.4 * usual.light_diffuse)
    assert np.allclose(dark.vis.headlight.ambient, 0.4 * np.array(usual.vis.headlight.ambient))


@pytest.mark.parametrize(
    ("wording", "expected"),
    [
        ("known", "Put the mango into the bowl."),
        ("polite", "Could you please put the mango into the bowl?"),
        ("other_verbs", "set the mango into the bowl"),
        ("embedded", "There is something to do on this table: put the mango into the bowl, and nothing else."),
    ],
)
def test_instructions_in_other_words(wording, expected):
    assert reworded("Put the mango into the bowl.", wording) == expected
    table = environment(wording=wording)
    table.reset(PLAN)
    assert table.observe(images=False).instruction == reworded(table.sim.instruction, wording)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("light", "0.01", "light is 0.01; expected 0.1 to 3"),
        ("camera_shift_m", "2", "camera_shift_m is 2"),
        ("start_shift_rad", "-0.1", "start_shift_rad is -0.1; expected 0 to 0.3"),
        ("wording", "klingon", "wording"),
    ],
)
def test_perturbations_out_of_bounds_are_refused(option, value, message):
    with pytest.raises(SuiteError, match=message):
        load_suite("tabletop", {option: value})


def test_a_report_shows_what_was_changed(tmp_path):
    assert perturbed(PerturbationOptions()) == {} and perturbations_of({}) == {}
    episode = EpisodeResult(index=0, seed=1, initial_state="a", success=True, score=1.0, length_steps=5)
    results = Results(
        suite="tabletop",
        task="pick_place",
        policy="mine",
        contract_hash="c",
        settings={"options": {"light": "0.5", "wording": "polite", "layout": "ood"}},
        episodes=(episode,),
    )
    write_report(tmp_path / "report.html", results, title="t", reproduce="lavla eval")
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Perturbations</h2>" in page and "light 0.5, wording polite" in page
    write_report(tmp_path / "plain.html", replace(results, settings={}), title="t", reproduce="lavla eval")
    assert "Perturbations" not in (tmp_path / "plain.html").read_text()


def test_libero_has_the_same_options():
    suite = pytest.importorskip("sim_bridges.worlds.libero.suite")
    with pytest.raises(ConfigError, match="light"):
        suite.LiberoOptions(light=9.0)
    assert perturbed(suite.LiberoOptions(wording="embedded")) == {"wording": "embedded"}
