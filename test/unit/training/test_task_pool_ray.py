"""The same tasks on a Ray cluster of two nodes on this machine, one of which is lost."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "latent_actions"))

from labelled_squares import save_action_model
from moving_square import write_squares
from pool_tasks import Task, alive, begun, pids, wait_until, work
from synthetic_bags import convert, make_bag
from synthetic_messages import small_contract

from training.latent_actions.labelling import label
from training.task_pool import PoolError, WorkerLostError, Workers, run_tasks

pytestmark = pytest.mark.long

ray = pytest.importorskip("ray", reason="Ray is not installed (the extra [ray]): clusters are not tested")

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head with one core and a second node with one; both see this folder's modules."""
    from ray.cluster_utils import Cluster

    before = os.environ.get("PYTHONPATH")
    paths = [str(HERE), str(HERE.parent), str(HERE.parents[2]), *([before] if before else [])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ["RAY_DISABLE_IMPORT_WARNING"] = "1"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    made = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    made.add_node(**node)
    made.wait_for_nodes()
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def test_tasks_of_a_cluster_give_what_processes_give(cluster: Any, tmp_path: Path) -> None:
    tasks = [Task(i, tmp_path, delay_s=0.2 if i == 0 else 0) for i in range(8)]
    progress: list[tuple[int, int]] = []
    workers = Workers(ray=cluster.address)
    assert list(run_tasks(tasks, work, workers, progress=lambda *f: progress.append(f))) == [i * i for i in range(8)]
    assert progress[-1] == (8, 8) and begun(tmp_path) == 8
    assert not ray.is_initialized()  # what was opened is closed


def test_errors_and_deaths_are_those_of_processes(cluster: Any, tmp_path: Path) -> None:
    workers = Workers(ray=cluster.address, attempts=2)
    tasks = [Task(0, tmp_path, "die once"), Task(1, tmp_path)]
    said: list[str] = []
    assert list(run_tasks(tasks, work, workers, log=said.append)) == [0, 1]
    assert begun(tmp_path, 0) == 2 and begun(tmp_path, 1) == 1 and len(said) == 1
    with pytest.raises(WorkerLostError, match="number 3: its worker died 2 times"):
        list(run_tasks([Task(3, tmp_path, "die")], work, workers, name=lambda t: f"number {t.number}"))
    with pytest.raises(KeyError, match="task 4 is wrong") as caught:
        list(run_tasks([Task(4, tmp_path, "raise")], work, workers))
    assert type(caught.value) is KeyError and begun(tmp_path, 4) == 1


def _content(root: Path) -> dict[str, str]:
    files = [p for p in sorted(root.rglob("*")) if p.is_file() and p.name != "conversion.json"]
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_a_dataset_is_the_same_wherever_it_was_converted(cluster: Any, tmp_path: Path) -> None:
    contract = small_contract(size=32)
    bags = [make_bag(tmp_path / "bags", contract, 6 + i, episode=i) for i in range(4)]
    convert(bags, tmp_path / "here", contract, jobs=1)
    convert(bags, tmp_path / "there", contract, ray=cluster.address)
    assert _content(tmp_path / "here") == _content(tmp_path / "there")
    assert not (tmp_path / "there/.staging").exists()


def test_labels_are_the_same_wherever_they_were_made(cluster: Any, tmp_path: Path) -> None:
    here = write_squares(tmp_path / "here", [12, 12, 5, 7])
    there = Path(shutil.copytree(here, tmp_path / "there"))
    model = save_action_model(tmp_path / "model", here)
    label(here, model, workers=Workers(jobs=1), shard_steps=10)
    report = label(there, model, workers=Workers(ray=cluster.address), shard_steps=10)
    assert report.shards == 3
    assert _content(here / "latent") == _content(there / "latent")


def test_the_loss_of_a_node_in_the_middle_is_survived(cluster: Any, tmp_path: Path) -> None:
    second = cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20)
    cluster.wait_for_nodes()
    tasks = [Task(i, tmp_path, "wait") for i in range(6)]
    said: list[str] = []
    results = run_tasks(tasks, work, Workers(ray=cluster.address), log=said.append)

    def lose() -> None:
        wait_until(lambda: begun(tmp_path) == 4, 60)  # every core of the three nodes has a task
        cluster.remove_node(second, allow_graceful=False)
        wait_until(lambda: sum(alive(pid) for pid in pids(tmp_path)) == 2, 60)  # its workers follow it
        (tmp_path / "go").touch()

    thread = threading.Thread(target=lose)
    thread.start()
    found = list(results)
    thread.join()
    assert found == [i * i for i in range(6)]
    assert len(said) == 2 and all("begun again" in line for line in said)
    assert begun(tmp_path) == 8


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=r"cannot be reached.*ray start --head"):
        list(run_tasks([Task(0, tmp_path)], work, Workers(ray="127.0.0.1:1")))
