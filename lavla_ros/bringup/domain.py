"""ROS domains: one that no other program of this machine is in, and who may do what in one.

A name is claimed by binding an abstract socket to it: one process has it at a time, of any user; the kernel gives
it back when the process ends, however it ends; and it reaches exactly as far as ROS on this machine does, the network
namespace.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

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


class Claim:
    """A name that this process has alone; children that inherit its file descriptor keep it while they live."""

    def __init__(self, name: str) -> None:
        """Raises DomainError naming the process that has it."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        address = f"\0lavla/{name}"
        try:
            self._socket.bind(address)
            self._socket.listen(64)  # no answer: who connects learns our process id
        except OSError:
            self._socket.close()
            raise DomainError(f"process {_owner(address)}") from None

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()


def claim_role(role: str, domain: int, namespace: str = "/") -> Claim:
    """``role``: one of ``ROLES``; ``namespace``: a node's, with its slash. Raises DomainError saying who has it."""
    try:
        return Claim(f"{domain}{namespace.rstrip('/')}/{role}")
    except DomainError as error:
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
            with suppress(DomainError):
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


def _owner(address: str) -> str:
    """Its process id and command line, as far as they can be read."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        asking.connect(address)
        pid, _, _ = struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return f"{pid}: {' '.join(command.split())[:120]}"
    return "unknown"
