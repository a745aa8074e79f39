"""The models that a person may choose from: the bundled one, the one that the stack began with, those in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lavla_ros.control.approved import Approvals
from lavla_ros.defaults import BUNDLED_POLICY
from lavla_ros.policy.checkpoint_files import CheckpointError, checkpoint_path, find_policies, fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A checkpoint that can be chosen."""

    policy: str
    """What the policy node is given: ``bundled``, or the folder."""
    name: str
    """As it is shown."""
    approved: bool
    """Whether it may move the arm at the full speed scale."""


class Models:
    """What there is to choose from, looked for anew each time; a checkpoint is read again only if it has changed."""

    def __init__(self, begun_with: str, folder: Path | None = None, approvals: Approvals | None = None) -> None:
        """``begun_with``: the policy of the stack. ``approvals``: its executor's; None: whoever commands is."""
        self._begun_with, self._folder, self._approvals = begun_with, folder, approvals
        self._known: dict[Path, tuple[tuple[tuple[str, int, int], ...], str]] = {}

    def found(self) -> list[Model]:
        """Those that are approved first, then by their names. Reads whole checkpoints the first time."""
        named = {BUNDLED_POLICY: BUNDLED_POLICY, self._begun_with: self._begun_with}
        if self._folder is not None:
            begun_with = checkpoint_path(self._begun_with).resolve()
            for path in find_policies(self._folder):
                if path.resolve() != begun_with:
                    named[str(path)] = str(path.relative_to(self._folder))
        models = []
        for policy, name in named.items():
            try:
                source = self._fingerprint(checkpoint_path(policy))
            except (CheckpointError, OSError):  # it is gone, or being written
                continue
            approved = self._approvals is None or not self._approvals.objection(source)
            models.append(Model(policy=policy, name=name, approved=approved))
        return sorted(models, key=lambda model: (not model.approved, model.name))

    def _fingerprint(self, path: Path) -> str:
        """Raises CheckpointError, OSError."""
        files = sorted(file for file in path.rglob("*") if file.is_file())
        if not files:
            raise CheckpointError(f"{path} is no checkpoint")
        seen = tuple((str(file), (stat := file.stat()).st_mtime_ns, stat.st_size) for file in files)
        if self._known.get(path, ((), ""))[0] != seen:
            self._known[path] = seen, fingerprint(path)
        return self._known[path][1]
