"""Tasks on several processes: order, deaths, errors, and that nothing is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pool_tasks
import pytest
from pool_tasks import Task, alive, begun, pids, wait_until, work
from synthetic_bags import convert, make_bag
from synthetic_messages import small_contract

from training.dataset import validate
from training.ingest import build
from training.ingest.build import IngestError
from training.task_pool import PoolError, WorkerLostError, Workers, run_tasks


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_results_come_in_order_whoever_is_first(tmp_path: Path, jobs: int) -> None:
    tasks = [Task(i, tmp_path, delay_s=0.15 if i == 0 else 0) for i in range(7)]
    progress: list[tuple[int, int]] = []
    results = run_tasks(tasks, work, Workers(jobs=jobs), progress=lambda *figures: progress.append(figures))
    assert list(results) == [i * i for i in range(7)]
    assert progress == [(i, 7) for i in range(1, 8)]
    assert begun(tmp_path) == 7
    assert (os.getpid() in pids(tmp_path)) == (jobs == 1) and len(pids(tmp_path)) <= jobs
    assert list(run_tasks([], work, Workers(jobs=jobs))) == []


def test_a_task_whose_worker_is_lost_is_begun_again_and_no_other(tmp_path: Path) -> None:
    tasks = [Task(i, tmp_path, "die once" if i == 2 else "square", delay_s=0.1) for i in range(6)]
    said: list[str] = []
    results = run_tasks(tasks, work, Workers(jobs=2), name=lambda t: f"number {t.number}", log=said.append)
    assert list(results) == [0, 1, 4, 9, 16, 25]
    assert [begun(tmp_path, i) for i in range(6)] == [1, 1, 2, 1, 1, 1]
    (line,) = said
    assert "number 2" in line and "begun again" in line


def test_a_task_that_kills_every_worker_is_named(tmp_path: Path) -> None:
    tasks = [Task(0, tmp_path), Task(1, tmp_path, "die"), Task(2, tmp_path)]
    with pytest.raises(WorkerLostError, match=r"number 1: its worker died 2 times .*fewer jobs"):
        list(run_tasks(tasks, work, Workers(jobs=2, attempts=2), name=lambda t: f"number {t.number}"))
    assert begun(tmp_path, 1) == 2
    assert not any(alive(pid) for pid in pids(tmp_path))


def test_given_up_tasks_leave_the_others_alone(tmp_path: Path) -> None:
    tasks = [Task(i, tmp_path, "die" if i == 1 else "square") for i in range(4)]
    results = run_tasks(tasks, work, Workers(jobs=2), give_up=lambda task, reason: f"{task.number}: {reason}")
    found = list(results)
    assert found[0] == 0 and found[2:] == [4, 9]
    assert str(found[1]).startswith("1: its worker died 3 times")
    assert begun(tmp_path, 1) == 3


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_a_task_raises_ends_the_run_and_the_workers(tmp_path: Path, jobs: int) -> None:
    tasks = [Task(0, tmp_path), Task(1, tmp_path, "raise"), Task(2, tmp_path, delay_s=0 if jobs == 1 else 30)]
    with pytest.raises(KeyError, match="task 1 is wrong"):
        list(run_tasks(tasks, work, Workers(jobs=jobs)))
    assert begun(tmp_path, 1) == 1
    assert not any(alive(pid) for pid in pids(tmp_path) - {os.getpid()})


def test_leaving_early_ends_tasks_in_their_middle(tmp_path: Path) -> None:
    results = run_tasks([Task(0, tmp_path), Task(1, tmp_path, delay_s=60)], work, Workers(jobs=2))
    assert next(results) == 0
    wait_until(lambda: begun(tmp_path, 1) == 1, 20)
    results.close()
    assert not any(alive(pid) for pid in pids(tmp_path))


def test_no_more_is_begun_ahead_than_two_tasks_per_worker(tmp_path: Path) -> None:
    tasks = [Task(i, tmp_path, "wait" if i == 0 else "square") for i in range(10)]
    results = run_tasks(tasks, work, Workers(jobs=2))

    def release() -> None:
        wait_until(lambda: begun(tmp_path) == 4, 20)
        threading.Event().wait(0.3)  # time to begin more, if it would
        seen.append(begun(tmp_path))
        (tmp_path / "go").touch()

    seen: list[int] = []
    thread = threading.Thread(target=release)
    thread.start()
    assert list(results) == [i * i for i in range(10)]
    thread.join()
    assert seen == [4]


_PARENT = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from pool_tasks import Task, work
from training.task_pool import Workers, run_tasks
if __name__ == "__main__":
    list(run_tasks([Task(i, Path(sys.argv[1]), delay_s=60) for i in range(2)], work, Workers(jobs=2)))
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script, record = tmp_path / "parent.py", tmp_path / "record"
    script.write_text(_PARENT)
    record.mkdir()
    folder = Path(__file__).parent
    parent = subprocess.Popen([sys.executable, str(script), str(record), str(folder), str(folder.parents[2])])
    try:
        wait_until(lambda: begun(record) == 2, 30)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    wait_until(lambda: not any(alive(pid) for pid in pids(record)), 10)


def test_settings_that_make_no_sense_are_refused() -> None:
    for settings, message in (
        ({"jobs": 0}, "jobs is 0"),
        ({"attempts": 0}, "attempts is 0"),
        ({"gpus_per_task": 1.0}, "with a Ray cluster"),
    ):
        with pytest.raises(PoolError, match=message):
            Workers(**settings)  # type: ignore[arg-type]


def test_ray_is_asked_for_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PoolError, match=r"pip install 'lavla_ros\[ray\]'"):
        list(run_tasks([Task(0, tmp_path)], work, Workers(ray="auto")))
    contract = small_contract(size=32)
    bag = make_bag(tmp_path / "bags", contract, 5)
    with pytest.raises(PoolError, match="Ray is not installed"):
        convert([bag], tmp_path / "data", contract, ray="auto")
    assert not (tmp_path / "data").exists()


def test_a_bag_that_kills_its_worker_is_rejected_and_the_rest_converts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract = small_contract(size=32)
    bags = [make_bag(tmp_path / name, contract, 6, episode=i) for i, name in enumerate(("a", "deadly", "b"))]
    monkeypatch.setattr(build, "read_source", pool_tasks.read_unless_deadly)
    report = convert(bags, tmp_path / "data", contract, jobs=2)
    assert [bag.episode for bag in report.sources] == [0, None, 1]
    assert str(report.sources[1].rejected).startswith("worker: its worker died 3 times") and report.rejected == {
        "worker": 1
    }
    assert validate(tmp_path / "data") == []


def test_jobs_of_zero_leave_an_existing_dataset_alone(tmp_path: Path) -> None:
    contract = small_contract(size=32)
    bag = make_bag(tmp_path / "bags", contract, 5)
    convert([bag], tmp_path / "data", contract, jobs=1)
    for jobs, error, message in ((0, PoolError, "jobs is 0"), (1, IngestError, "exists already")):
        with pytest.raises(error, match=message):
            convert([bag], tmp_path / "data", contract, jobs=jobs)
    assert validate(tmp_path / "data") == []
