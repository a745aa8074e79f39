"""Processes that begin with their imports done."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext


def forking_context(*, loads_policy: bool) -> ForkServerContext:
    """Its processes fork from a server that imports what each of them needs, once: torch alone takes seconds.

    The server has computed and drawn nothing, as GL contexts and torch's threads do not survive a fork; its environment
    is that of the first call. ``loads_policy``: whether a checkpoint is loaded in them.
    """
    context = multiprocessing.get_context("forkserver")
    policy = ["lavla_ros.policy.policy"] if loads_policy else []
    context.set_forkserver_preload(["sim_bridges.evaluation.workers", *policy])
    return context
