"""Simulators in one process."""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver

import pytest

import sim_bridges  # noqa: F401  # chooses the OpenGL before a test imports MuJoCo


@pytest.fixture(scope="session")
def imported_once() -> None:
    """A process has one server that its workers fork from, whoever starts them: this one has what any of them needs."""
    needed = ["training.train", "training.latent_actions.inspection", "benchmarks.gpu_train", "lavla_ros.policy.policy"]
    multiprocessing.get_context("forkserver").set_forkserver_preload(["sim_bridges.evaluation.workers", *needed])
    forkserver.ensure_running()
