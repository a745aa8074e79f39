"""Policy nodes for an evaluation: one per worker, each in a ROS domain of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lavla_ros.bringup.domain import free_domains
from lavla_ros.bringup.launcher import Launcher
from lavla_ros.bringup.stack import NODE_READY, Process, Stack
from lavla_ros.config import ConfigError
from lavla_ros.contract import Contract
from lavla_ros.places import run_dir
from lavla_ros.yaml_text import dump_yaml
from sim_bridges.evaluation.policies import Link
from sim_bridges.evaluation.workers import EvaluationError

MOST = 16

Watch = Callable[[], None]
"""Raises EvaluationError if something that an evaluation needs has died."""


@contextmanager
def links_to_nodes(workers: int, timeout_s: float) -> Iterator[tuple[Link, ...]]:
    """Links in domains that no other process is in while the block runs.

    Raises ValueError for too many workers, DomainError if there are not enough free domains.
    """
    if workers > MOST:
        raise ConfigError(f"workers is {workers}; at most {MOST} run with policy nodes")
    with free_domains(workers) as (domains, keep):
        yield tuple(Link(domain=d, timeout_s=timeout_s, keep_fd=k) for d, k in zip(domains, keep, strict=True))


@contextmanager
def policy_nodes(
    parameters: Mapping[str, Any], contract: Contract, links: tuple[Link, ...], log: Path
) -> Iterator[Watch]:
    """One policy node per link while the block runs; they write to ``log``.

    ``parameters``: of the node; ``policy`` may be ``bundled``. Raises LaunchError with its last lines if a node
    does not come up.
    """
    from lavla_ros.policy.policy import checkpoint_path

    with run_dir() as folder, log.open("w", encoding="utf-8") as output:
        file = folder / "contract.yaml"
        file.write_text(dump_yaml(contract.to_dict()), encoding="utf-8")
        checkpoint = checkpoint_path(parameters["policy"]).resolve()
        given = {**parameters, "policy": str(checkpoint), "contract": str(file), "use_sim_time": True}
        processes = tuple(
            Process(
                name=f"policy_{i}",
                module="lavla_ros.nodes.policy_node",
                is_node=True,
                parameters=given,
                ready=NODE_READY,
                environment={"ROS_DOMAIN_ID": str(link.domain)},
            )
            for i, link in enumerate(links)
        )
        stack = Stack(name="evaluation", description="policy nodes", arguments={}, processes=processes, run_dir=folder)
        keep = [link.keep_fd for link in links if link.keep_fd is not None]
        launcher = Launcher(stack, log=output, pass_fds=keep)
        launcher.start()

        def watch() -> None:
            if not launcher.wait(0.0):
                raise EvaluationError(f"{launcher.failure}\nthe whole log: {log}")

        try:
            yield watch
        finally:
            launcher.stop()
