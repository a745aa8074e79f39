"""Numbers as people write them, and texts that only look like numbers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavla_ros.config import read_config
from lavla_ros.yaml_text import dump_yaml, load_yaml
from training.config import TrainConfig

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.from_regex(r"[-+]?[0-9]{1,3}(\.[0-9]{0,2})?[eE][-+]?[0-9]{1,2}", fullmatch=True),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(("text", "value"), [("3e-4", 3e-4), ("1E5", 1e5), ("-2.e+3", -2e3), ("+5e-2", 5e-2)])
def test_scientific_notation_needs_no_dot(text: str, value: float) -> None:
    assert load_yaml(f"rate: {text}") == {"rate": value}


@pytest.mark.parametrize("text", ["'3e-4'", "1e5x", "e5", "runs/1e-4"])
def test_texts_stay_texts(text: str) -> None:
    assert isinstance(load_yaml(f"name: {text}")["name"], str)


@given(PLAIN)
def test_what_is_written_is_read_back(data: object) -> None:
    assert load_yaml(dump_yaml(data)) == data


def test_a_recipe_takes_it(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("optim: {learning_rate: 3e-4}\n", encoding="utf-8")
    assert math.isclose(read_config(TrainConfig, recipe).optim.learning_rate, 3e-4)
