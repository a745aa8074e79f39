"""Runs the scenarios and shows what came of them: ``lavla bench safety --out FILE.json``."""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.config import SafetyBench
from benchmarks.safety import skips
from benchmarks.safety.motion import LIMITS, after, largest
from benchmarks.safety.rig import running
from benchmarks.safety.scenarios import Scenario, scenarios
from lavla_ros.config import ConfigError

DETERMINISTIC = "skips"
"""Name of the part without processes, among the scenarios that may be asked for."""


def run(config: SafetyBench) -> dict[str, Any]:
    """Every scenario whose name contains one of those given; none: all of them. About seven minutes for all.

    A scenario that cannot be run is a row with ``error``; none of them ends the campaign. ValueError names what none
    contains.
    """
    began_s, names = time.monotonic(), config.scenarios
    with tempfile.TemporaryDirectory(prefix="lavla-safety-") as folder:
        known = scenarios(Path(folder))
        for name in names:
            if name != DETERMINISTIC and not any(name in s.name for s in known):
                raise ConfigError(
                    f"no scenario contains {name!r}; there are {[s.name for s in known] + [DETERMINISTIC]}"
                )
        rows = [_run(s) for s in known if not names or any(name in s.name for name in names)]
    exact = skips.run() if not names or DETERMINISTIC in names else []
    figures = {"benchmark": "safety", "limits": LIMITS, "scenarios": rows, "executor_alone": exact}
    show(figures)
    return {**figures, "wall_s": round(time.monotonic() - began_s, 1)}


def _run(scenario: Scenario) -> dict[str, Any]:
    print(f"safety: {scenario.name}", file=sys.stderr, flush=True)
    row: dict[str, Any] = {"scenario": scenario.name}
    began_s = time.monotonic()
    try:
        with running(
            scenario.policy, emulator=scenario.emulator, start=not scenario.from_rest, **scenario.servo
        ) as rig:
            if not scenario.from_rest:
                rig.wait_fast()
            elif scenario.servo.get("activate") is not False:
                rig.start()
            event = rig.emulator.cycle()
            scenario.act(rig)
            time.sleep(scenario.settle_s)
            cycles, position = rig.emulator.motion()
            controller = rig.emulator.query("state")
            newest = rig.link.snapshot()
            judged = cycles >= rig.marked
            row |= largest(cycles[judged], position[judged])
            row["after"] = after(cycles, position, event)
            row["state"] = rig.state()
            row["servo_mode"] = controller["servo_mode"]
            row["controller"] = rig.emulator.query("servo_log", since=10**9)["counters"]
            row["settings"] = rig.emulator.query("settings")
            row["missed_ticks"] = None if newest is None else newest.missed
            row["chunks"] = {"accepted": rig.accepted, "refused": rig.refused}
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {error}"
        logging.getLogger(__name__).exception("scenario %r could not be run", scenario.name)
    else:
        row["said"] = rig.said
    row["wall_s"] = round(time.monotonic() - began_s, 1)
    return row


def show(figures: dict[str, Any], console: Console | None = None) -> None:
    """The table, on standard error."""
    console = console or Console(stderr=True, width=200)
    for title, key in (("Servo process against the emulator", "scenarios"), ("Executor alone", "executor_alone")):
        if not figures[key]:
            continue
        table = Table(title=title, show_lines=False)
        for name in (
            "scenario",
            "max v\nrad/s",
            "max a\nrad/s²",
            "max jerk\nrad/s³",
            "limit\nratio",
            "state at the end",
        ):
            table.add_column(name, justify="right" if "max" in name or "ratio" in name else "left")
        table.add_column("what was said", ratio=1)
        for row in figures[key]:
            if "error" in row:
                table.add_row(row["scenario"], "", "", "", "", "could not be run", row["error"])
                continue
            said = row["said"] if isinstance(row["said"], str) else "; ".join(row["said"])
            values = [f"{row[name]:.2f}" if row[name] < 100 else f"{row[name]:.0f}" for name in (*LIMITS, "ratio")]
            if row["ratio"] > 1.01:
                values[-1] = f"[bold red]{values[-1]}[/]"
            table.add_row(row["scenario"], *values, _escape(row["state"]), _escape(said[:300]))
        console.print(table)


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
