"""A ROS domain, and a role in it, is one program's at a time; the kernel gives it back when that is gone."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from lavla_ros.bringup.domain import VARIABLE, DomainError, claim_role, domain_id, free_domains

HOLDER = """
import sys, time
from lavla_ros.bringup.domain import free_domains
with free_domains(int(sys.argv[1])) as (domains, keep):
    print(*domains, flush=True)
    time.sleep(60.0)
"""


@contextlib.contextmanager
def _another(count: int, **environment: str) -> Iterator[tuple[subprocess.Popen[str], tuple[int, ...]]]:
    command = [sys.executable, "-c", HOLDER, str(count)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment)
    try:
        assert holder.stdout is not None
        yield holder, tuple(map(int, holder.stdout.readline().split()))
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_programs_at_the_same_time_have_different_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with _another(3) as (_, first), _another(3) as (_, second), free_domains(3) as (third, keep):
        assert len({*first, *second, *third}) == 9 and 0 not in third
        assert len(keep) == 3


def test_a_domain_is_kept_by_the_child_of_a_killed_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with free_domains(1) as ((domain,), keep):
        child = subprocess.Popen(["sleep", "60"], pass_fds=keep)
    try:
        monkeypatch.setenv(VARIABLE, str(domain))
        with free_domains(1) as ((other,), _):
            assert other != domain, "a process of the last run is in it"
    finally:
        child.kill()
        child.wait()
    with free_domains(1) as ((again,), _):
        assert again == domain


def test_the_users_own_domain_is_taken_where_nobody_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with free_domains(1) as ((wanted,), _):
        pass
    monkeypatch.setenv(VARIABLE, str(wanted))
    with free_domains(1) as ((domain,), _):
        assert domain == wanted
        with _another(1) as (_, (other,)):
            assert other != wanted


def test_a_domain_with_some_ros_program_in_it_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with free_domains(1) as ((wanted,), _):
        pass
    monkeypatch.setenv(VARIABLE, str(wanted))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant:
        participant.bind(("127.0.0.1", 7400 + 250 * wanted + 10))
        with free_domains(1) as ((domain,), _):
            assert domain != wanted


def test_a_role_is_one_programs_until_it_is_gone() -> None:
    command = "import sys,time; from lavla_ros.bringup.domain import claim_role\nc = claim_role('executor', 231)\n"
    other = subprocess.Popen(
        [sys.executable, "-c", command + "print('has it', flush=True); time.sleep(60)"], stdout=subprocess.PIPE
    )
    try:
        assert other.stdout is not None and other.stdout.readline()
        match = f"231 already has the executor .*process {other.pid}: .*python.*ROS_DOMAIN_ID"
        with pytest.raises(DomainError, match=match):
            claim_role("executor", 231)
        claim_role("executor", 230).close()
        claim_role("policy", 231).close()
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
        other.stdout.close()
    claim_role("executor", 231).close()


@pytest.mark.parametrize("text", ["abc", "233", "-1", "1.5"])
def test_what_is_no_domain_is_refused(text: str) -> None:
    with pytest.raises(DomainError, match="expected 0 to 232"):
        domain_id({VARIABLE: text})


def test_no_domain_is_domain_0() -> None:
    assert domain_id({}) == domain_id({VARIABLE: ""}) == 0
    assert domain_id({VARIABLE: "57"}) == 57
