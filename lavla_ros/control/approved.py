"""Which policies may move an arm at its full speed scale: a list that belongs to a stack (``config/approved/*.yaml``).

A chunk says whose it is (``header.frame_id``): the fingerprint of a policy's checkpoint, or the name of a program. The
executor's side decides what that means; whoever is not in the list, or says nothing, is followed at a quarter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lavla_ros.config import ConfigError, check, read_config
from lavla_ros.resources import config_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """One who may command at full speed."""

    source: str
    """The fingerprint of a checkpoint, or a program's name."""
    note: str = ""
    """For people: which checkpoint it is, who approved it, after which evaluation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Approvals:
    """The list of a stack. Raises ConfigError for a source that is empty or named twice."""

    approved: tuple[Approval, ...] = ()

    def __post_init__(self) -> None:
        sources = [each.source for each in self.approved]
        check(all(sources), "approved: a source", "", "the fingerprint of a checkpoint or the name of a program")
        twice = sorted({source for source in sources if sources.count(source) > 1})
        check(not twice, "approved: the sources", twice, "each once")

    def objection(self, source: str) -> str:
        """Why chunks of this source are not to be followed at full speed, and what to do about it; "": they are."""
        if any(each.source == source for each in self.approved):
            return ""
        if not source:
            return "the chunks do not say whose they are (header.frame_id), so that no one can have approved of them"
        return (
            f"{source!r} is not approved: when its evaluation and its first motions were good, add "
            f"{{source: {source}}} to the list that the parameter approved names, and start again"
        )


def load_approvals(name: str | Path) -> Approvals:
    """A YAML file by its path, or the shipped ``config/approved/NAME.yaml``. Raises ConfigError."""
    try:
        return read_config(Approvals, config_file(name, "approved"))
    except FileNotFoundError as error:
        raise ConfigError(f"approved {str(name)!r}: {error}; or give a YAML file") from None
