"""``lavla doctor``."""

from __future__ import annotations

import sys
from pathlib import Path

from lavla_ros.cli.arguments import Json
from lavla_ros.cli.terminal import to_json
from lavla_ros.defaults import DEFAULT_CONTRACT


def doctor(
    live: bool = False,
    robot_ip: str = "",
    port: int = 10001,
    status_port: int = 10000,
    contract: str = DEFAULT_CONTRACT,
    bags: Path = Path("runs"),
    namespace: str = "",
    seconds: float = 5.0,
    as_json: Json = False,
) -> None:
    """Each line is a check: ok, warn or wrong, what was seen, and what mends it. The exit status is 1 if something is
    wrong. Nothing is changed, published or commanded. docs/doctor.md explains every check.

    Example: lavla doctor --robot-ip 10.5.5.100

    Example: lavla doctor --live --json

    Args:
        live: Listen to the running stack of this ROS domain, and say which link from the cameras to the driver is
            broken: what to ask if the arm does not move. The machine is not checked then.
        robot_ip: Address of a JAKA controller. By default no controller is looked for.
        port: Command port of the controller.
        status_port: Status port of the controller.
        contract: Contract: a shipped name or a YAML file.
        bags: Folder that bags are to be recorded in.
        namespace: Namespace of the running stack.
        seconds: Number of seconds to listen for.
        as_json: Print the findings as JSON.
    """
    from benchmarks.doctor import chain, probes
    from lavla_ros.config import check
    from lavla_ros.contract import load_contract

    check(0 < seconds <= 600, "seconds", seconds, "more than 0, and 600 at most")
    spec = load_contract(contract)
    findings = []
    if live:
        from benchmarks.doctor.live import listen

        findings += chain.check_chain(listen(spec, seconds, namespace=namespace), spec)
    for finding in findings if live else probes.machine(bags, spec):
        if not live:
            findings.append(finding)
        if not as_json:
            print(finding, flush=True)
    if robot_ip:
        from lavla_ros.jaka.driver_config import JakaDriverConfig

        found = probes.controller(JakaDriverConfig(host=robot_ip, port=port, status_port=status_port), spec)
        findings += found
        if not as_json:
            print(*found, sep="\n")
    wrong = [finding for finding in findings if finding.level == "wrong"]
    if as_json:
        print(to_json({"findings": [finding.to_dict() for finding in findings], "wrong": len(wrong)}))
    elif live:
        print(chain.first_broken(findings))
    sys.exit(1 if wrong else 0)
