"""Which checkpoints there are, and which is which: what can be said of one without torch, and without its weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lavla_ros.defaults import BUNDLED_POLICY
from lavla_ros.errors import UserError

CONFIG, CONTRACT, STATS, WEIGHTS = "config.yaml", "contract.yaml", "stats.json", "model.safetensors"
SCHEMA = 1
OURS, FP2T = "policy", "fp2t"
"""The section of config.yaml that makes a checkpoint one of a policy: ours, or a released one that was imported."""
BUNDLED = Path(__file__).resolve().parent / "bundled"


class CheckpointError(UserError, RuntimeError):
    """A checkpoint cannot be used; the message names the file, what is wrong and what to do."""


def checkpoint_path(path: str | Path) -> Path:
    """The directory that a policy name stands for: ``"bundled"`` or a path.

    Raises CheckpointError if no policy is bundled.
    """
    if str(path) != BUNDLED_POLICY:
        return Path(path)
    if not BUNDLED.is_dir():
        raise CheckpointError(f"no bundled policy in {BUNDLED}; train one with `lavla train` and pass its folder")
    return BUNDLED


def is_policy(path: Path, *sections: str) -> bool:
    """Whether a folder looks like a policy's checkpoint whose config.yaml has one of ``sections`` (none: any)."""
    try:
        text = "\n" + (path / CONFIG).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return any(f"\n{section}:" in text for section in sections or (OURS, FP2T))


def find_policies(root: Path) -> list[Path]:
    """The checkpoints of policies in ``root`` and below, sorted; empty if there is no such folder."""
    return sorted(file.parent for file in root.rglob(WEIGHTS) if is_policy(file.parent))


def fingerprint(path: Path) -> str:
    """What tells a checkpoint from every other one: a hash of its files, wherever they lie. Raises CheckpointError."""
    found = hashlib.sha256()
    try:
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            found.update(f"{file.relative_to(path).as_posix()} {digest}\n".encode())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    return found.hexdigest()[:32]
