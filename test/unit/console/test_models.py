"""The models that the console offers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from lavla_ros.console.models import Models
from lavla_ros.control.approved import Approval, Approvals, load_approvals
from lavla_ros.policy.checkpoint_files import BUNDLED, fingerprint


def copy_of_the_bundled(path: Path, *, instead: str = "") -> Path:
    """A checkpoint; with ``instead``, its config.yaml has that section in place of a policy's."""
    shutil.copytree(BUNDLED, path)
    if instead:
        config = path / "config.yaml"
        config.write_text(config.read_text().replace("\npolicy:", f"\n{instead}:"))
    return path


def test_the_bundled_model_and_those_of_a_folder_are_offered_the_approved_first(tmp_path: Path) -> None:
    own = copy_of_the_bundled(tmp_path / "b" / "best")
    (own / "stats.json").write_text((own / "stats.json").read_text() + "\n")
    twin = copy_of_the_bundled(tmp_path / "c")
    copy_of_the_bundled(tmp_path / "a_latent_action_model", instead="latent")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "model.safetensors").write_bytes(b"")
    models = Models("bundled", tmp_path, load_approvals("policies"))
    offered = [(model.name, model.policy, model.approved) for model in models.found()]
    assert offered == [("bundled", "bundled", True), ("c", str(twin), True), ("b/best", str(own), False)]

    (own / "stats.json").write_text((BUNDLED / "stats.json").read_text())
    assert all(model.approved for model in models.found()), "it is looked at again once it has changed"
    shutil.rmtree(own)
    assert [model.name for model in models.found()] == ["bundled", "c"]


def test_the_model_that_the_stack_began_with_is_offered_once(tmp_path: Path) -> None:
    own = copy_of_the_bundled(tmp_path / "best")
    approvals = Approvals(approved=(Approval(source=fingerprint(own)),))
    offered = [model.policy for model in Models(str(own), tmp_path, approvals).found()]
    assert offered == [str(own), "bundled"] or offered == ["bundled", str(own)]
    assert len(Models(str(own)).found()) == 2
    assert [model.name for model in Models(str(tmp_path / "gone")).found()] == ["bundled"]


def test_the_console_looks_at_checkpoints_without_torch() -> None:
    """It would take as much memory as the policy's own process."""
    said = "import sys, lavla_ros.console.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", said], check=False).returncode == 0
