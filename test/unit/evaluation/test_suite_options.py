"""A suite's own options: a frozen dataclass, given as ``-o name=value`` or as if they were the command's."""

from __future__ import annotations

from inspect import signature

import pytest

from lavla_ros.cli.arguments import own_options
from lavla_ros.cli.run import demo
from lavla_ros.config import ConfigError, parse_options
from sim_bridges.suites import SUITES, load_suite, options_of, spell_options
from sim_bridges.world import SuiteError


def evaluate(suite: str, /, task: str = "", policy: str = "", episodes: int = 1, seed: int = 0) -> None: ...


def study(bags: str, /, suite: str = "tabletop", contract: str = "") -> None: ...


OWN = signature(evaluate).parameters


@pytest.mark.parametrize(
    ("given", "spelt"),
    [
        ("tabletop --layout ood --episodes 3", "tabletop -o layout=ood --episodes 3"),
        ("tabletop --layout=ood --seed 0", "tabletop -o layout=ood --seed 0"),
        ("--policy x libero_10 --assets a/b", "--policy x libero_10 -o assets=a/b"),
        (
            "robotwin --robotwin-root R --task-config c --instructions seen --seeds s.json",
            "robotwin -o robotwin_root=R -o task_config=c -o instructions=seen -o seeds=s.json",
        ),
        ("tabletop -o layout=ood --assets a", "tabletop -o layout=ood --assets a"),
        ("--policy bundled", "--policy bundled"),
    ],
)
def test_an_option_may_be_written_as_if_it_were_the_commands(given: str, spelt: str) -> None:
    assert spell_options(given.split(), OWN) == spelt.split()


def test_a_parameter_of_the_command_stays_its_own() -> None:
    own = signature(study).parameters
    arguments = ["bags", "--contract", "x", "--suite", "libero_10"]
    assert spell_options([*arguments, "--assets", "a"], own) == [*arguments, "-o", "assets=a"]
    assert spell_options(["my:bags", "--layout", "ood"], own) == ["my:bags", "-o", "layout=ood"]
    assert spell_options(["--seed", "1", "--layout", "ood"], own_options(demo))[2:] == ["-o", "layout=ood"]
    assert spell_options(["robotwin_standin", "--seeds", "s.json"], own_options(demo))[1:] == ["-o", "seeds=s.json"]
    assert spell_options(["no.such:suite", "--layout", "ood"], OWN) == ["no.such:suite", "--layout", "ood"]
    with pytest.raises(SuiteError, match="--layout of suite tabletop needs a value"):
        spell_options(["tabletop", "--layout"], OWN)


def test_every_shipped_suite_says_its_options_and_their_defaults() -> None:
    defaults = {name: options_of(name) for name in SUITES}
    unperturbed = {"light": 1.0, "camera_shift_m": 0.0, "start_shift_rad": 0.0, "wording": "known"}
    assert defaults["tabletop"] == unperturbed | {
        "layout": "id",
        "contract": "jaka_minicobo",
        "scene": "",
        "obstacles": "",
    }
    assert defaults["libero_10"] == unperturbed | {
        "assets": "",
        "contract": "libero",
        "resolution": 256,
        "demonstrations": "",
    }
    assert defaults["robotwin_standin"] == {"instructions": "", "seeds": "", "contract": "robotwin_aloha"}
    assert defaults["robotwin"] == defaults["robotwin_standin"] | {"robotwin_root": "", "task_config": ""}


def test_what_is_no_option_is_said() -> None:
    assert parse_options(["a=b=c", "d="]) == {"a": "b=c", "d": ""}
    with pytest.raises(ConfigError, match="'layout' is no option; write -o name=value"):
        parse_options(["layout"])
    with pytest.raises(SuiteError, match="options of suite tabletop: layout is 'in'; expected one of"):
        load_suite("tabletop", {"layout": "in"})
    with pytest.raises(SuiteError, match=r"unknown keys \['assets'\].*known: \['camera_shift_m', 'contract', 'layout'"):
        load_suite("tabletop", {"assets": "folder"})
