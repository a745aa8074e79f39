"""The arms of the JAKA family: ``config/arms/jaka_*.yaml``."""

from __future__ import annotations

from lavla_ros.config import ConfigError
from lavla_ros.control.arm import Arm
from lavla_ros.control.arms import arm_named, shipped_arms
from lavla_ros.jaka.dh import DhParameters, differences

MINICOBO = arm_named("jaka_minicobo")


def jaka_models() -> list[str]:
    """What :func:`jaka_arm` takes: minicobo, zu5 and so on."""
    return [name.removeprefix("jaka_") for name in shipped_arms() if name.startswith("jaka_")]


def jaka_arm(model: str) -> Arm:
    """An arm by its model (zu5), or a JAKA arm of your own by its YAML file. Raises ConfigError."""
    if model.endswith((".yaml", ".yml")):
        return arm_named(model)
    if model not in (models := jaka_models()):
        raise ConfigError(f"there is no JAKA model {model!r}; there are {models}, or give a YAML file")
    return arm_named(f"jaka_{model}")


def models_like(reported: DhParameters) -> list[str]:
    """The models whose geometry a controller reports."""
    return [m for m in jaka_models() if (chain := jaka_arm(m).chain) and not differences(chain, reported)]
