"""ROS domains: one that no other program of this machine is in, and who may do what in one.

Both are claimed by name (:mod:`lavla_ros.claim`), which reaches exactly as far as ROS on this machine does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from lavla_ros.claim import Claim, ClaimError
from lavla_ros.errors import UserError

VARIABLE = "ROS_DOMAIN_ID"
MOST_DOMAINS = 100
"""Domains 1 to this are given away: 0 is everybody's, and from 102 on the ports lie among the ephemeral ones."""
ROLES = ("executor", "policy", "recorder")
"""Nodes of which a namespace of a domain has one: two would take turns at the same arm, or mix their episodes."""
_LARGEST = 232
_FIRST_PORT, _PORTS_PER_DOMAIN = 7400, 250


class DomainError(UserError, RuntimeError):
    """A ROS domain is not one, is taken, or none is free."""


def domain_id(environment: Mapping[str, str] | None = None) -> int:
    """The ROS domain of an environment (default: this process's). Raises DomainError for what is none."""
    text = (os.environ if environment is None else environment).get(VARIABLE) or "0"
    if not text.strip().isdecimal() or int(text) > _LARGEST:
        raise DomainError(f"{VARIABLE} is {text!r}; expected 0 to {_LARGEST} (0 to 101 are safe on Linux)")
    return int(text)


def claim_role(role: str, domain: int, namespace: str = "/") -> Claim:
    """``role``: one of ``ROLES``; ``namespace``: a node's, with its slash. Raises DomainError saying who has it."""
    try:
        return Claim(f"{domain}{namespace.rstrip('/')}/{role}")
    except ClaimError as error:
        where = f"ROS domain {domain}" if namespace == "/" else f"namespace {namespace} of ROS domain {domain}"
        raise DomainError(
            f"{where} already has the {role} of another lavla stack ({error}); stop that one, or give this "
            f"one a namespace of its own (namespace:=left), or a domain: {VARIABLE}=1 to 101"
        ) from None


@contextmanager
def free_domains(count: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """``count`` domains that no other program is in, and the file descriptors that keep them (for children).

    The environment's own domain is taken first, if it names one and that is free. Raises DomainError if there are not
    enough.
    """
    own = [domain_id()] if os.environ.get(VARIABLE) else []
    first = os.getpid() % MOST_DOMAINS  # what has just been left is not what is taken next
    others = [1 + (first + i) % MOST_DOMAINS for i in range(MOST_DOMAINS)]
    taken: dict[int, Claim] = {}
    with ExitStack() as stack:
        for domain in [*own, *(d for d in others if d not in own)]:
            if len(taken) == count:
                break
            with suppress(ClaimError):
                claim = Claim(str(domain))
                if domain in _inhabited():
                    claim.close()
                else:
                    taken[domain] = stack.enter_context(closing(claim))
        if len(taken) < count:
            raise DomainError(f"{count} free ROS domains are needed, but {len(taken)} of 1 to {MOST_DOMAINS} are free")
        yield tuple(taken), tuple(c.fileno() for c in taken.values())


def _inhabited() -> set[int]:
    """Domains whose ports are bound on this machine, by whatever ROS program."""
    ports = set()
    for file in (Path("/proc/net/udp"), Path("/proc/net/udp6")):
        if file.exists():
            ports |= {
                int(line.split()[1].rpartition(":")[2], 16)
                for line in file.read_text(encoding="utf-8").splitlines()[1:]
            }
    return {domain_of_port(port) for port in ports}


def domain_of_port(port: int) -> int:
    """The domain whose participants use a UDP (or shared-memory) port; negative for ports of other programs."""
    return (port - _FIRST_PORT) // _PORTS_PER_DOMAIN
