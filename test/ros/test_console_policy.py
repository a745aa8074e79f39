"""The console's page in a real browser while a policy moves the arm of the tabletop: taken over, exchanged."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest
from console_harness import NEEDS_CHROMIUM, Console, Person, chromium, sync_api
from ros_harness import wait_until

from lavla_ros.contract import load_contract
from lavla_ros.episode import ExecutorReport
from lavla_ros.policy.checkpoint_files import BUNDLED, CONTRACT, STATS, WEIGHTS
from lavla_ros.recording import BagReader
from lavla_ros.yaml_text import dump_yaml
from training.ingest.bag import Bags, BagSource

pytestmark = [pytest.mark.alone, NEEDS_CHROMIUM]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled policy again: with another fingerprint, of another contract, and without the most of its weights."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("own/best", "foreign", "cut_off"):
        shutil.copytree(BUNDLED, folder / name)
    (folder / "own" / "best" / STATS).write_text((BUNDLED / STATS).read_text() + "\n")
    contract = load_contract(BUNDLED / CONTRACT).to_dict()
    (folder / "foreign" / CONTRACT).write_text(dump_yaml(contract | {"rate_hz": 20.0}))
    (folder / "cut_off" / WEIGHTS).write_bytes((BUNDLED / WEIGHTS).read_bytes()[:1000])
    return folder


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Console]:
    endless = ("task:=stack_3_bowls", "episode_s:=3600.0")  # the bundled policy does not know the task
    words = (*endless, "camera_rate_hz:=5.0", "--models", str(models))
    started = Console(tmp_path_factory.mktemp("console"), *words, stack="jaka_policy")
    yield started
    started.close()
    assert "Traceback" not in started.log.read_text()


@pytest.fixture
def person(console: Console) -> Iterator[Person]:
    with chromium() as browser:
        made = Person(browser, console)
        made.operates()
        yield made


def commanders(bag: Path) -> list[str]:
    """Who had the arm, in turn, by what the bag says."""
    with BagReader(bag) as reader:
        said = [
            ExecutorReport.from_json(reader.deserialize(each).data) for each in reader.messages(["/executor/state"])
        ]
    return [who for who, _ in groupby(report.commander for report in said if report.commander)]


def _recorded_on(bag: Path) -> None:
    """Some steps more of who commands are recorded: the file grows four times a second."""
    for _ in range(6):
        before = _size(bag)
        wait_until(lambda: _size(bag) > before, "the recording goes on")  # noqa: B023 (asked at once)


def _size(bag: Path) -> int:
    return sum(file.stat().st_size for file in bag.iterdir())


def test_a_person_takes_the_arm_from_a_policy_and_gives_it_back(console: Console, person: Person) -> None:
    """And the recording says of each step who commanded."""
    person.sees("running", "bundled runs")
    person.page.keyboard.press("r")
    person.sees("episode", "RECORDING")
    person.sees("commander", "A policy commands the arm")
    person.sees("state", "moving")
    (bag,) = console.bags.glob("episode_*")
    _recorded_on(bag)

    person.is_moved("Space", "a")
    person.sees("commander", "A person has the arm")
    person.lets_go("Space", "a")
    person.comes_to_rest()
    person.sees("commander", "A person has the arm")  # the policy goes on predicting, and moves nothing
    moved = []
    for key in ("a", "d"):
        moved.append(person.is_moved("Space", key))
        person.lets_go("Space", key)
        person.comes_to_rest()
    assert moved[0] * moved[1] < 0, "the arm goes where the person says"

    person.button("Hand back").click()
    person.sees("commander", "A policy commands the arm")
    person.sees("state", "moving")
    _recorded_on(bag)
    person.page.keyboard.press("f")
    person.sees("said", "failed")

    assert commanders(bag) == ["policy", "person", "policy"]
    source = BagSource(path=bag, options=Bags(outcomes=("failed",), allow_gaps=True))  # cameras may be slow here
    episodes = source.episodes(load_contract("jaka_minicobo"))
    steps = [step.intervention for episode in episodes for step in episode.steps()]
    assert [of_a_person for of_a_person, _ in groupby(steps)] == [False, True, False]


def test_another_model_runs_and_one_of_another_contract_does_not(person: Person, models: Path) -> None:
    choice = person.page.get_by_role("combobox", name="Model")

    def run(name: str) -> None:
        choice.click()
        person.page.get_by_role("option", name=name).click()
        person.button("Run this model").click()

    person.sees("running", "bundled runs")
    if person.shows("commander").startswith("A person"):
        person.button("Hand back").click()
    run("foreign")
    person.sees("said", "cannot run here, and nothing has changed")
    person.sees("said", "rate_hz: 10.0 != 20.0")
    person.sees("running", "bundled runs")
    assert "resume" not in person.shows("reason"), "the arm was not held for it"

    run("own/best (not approved: slowly)")
    person.sees("said", "best runs. Resume lets it move the arm.")
    person.sees("running", str(models / "own" / "best"))
    person.sees("state", "standing")
    person.sees("reason", "waiting for resume")
    person.button("Resume").click()
    person.sees("commander", "A policy commands the arm")

    person.button("Stop the model").click()
    person.sees("running", "No model runs")
    person.sees("commander", "Nobody commands")
    person.comes_to_rest()

    run("cut_off")
    person.sees("said", "no model runs: cannot configure")
    person.sees("running", WEIGHTS)
    run("bundled")
    person.sees("running", "bundled runs")
    person.button("Resume").click()
    person.sees("commander", "A policy commands the arm")
    sync_api.expect(person.button("Stop the model")).to_be_enabled()

    person.button("New scene (N)").click()
    person.sees("scene", "homing")
    person.sees("scene", "running")
