"""``lavla import``: find the episodes of a source, import them, report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from lavla_ros.contract import load_contract
from training.ingest import (
    EpisodeSource,
    ImportFailed,
    ImportReport,
    find_lerobot,
    find_libero,
    find_robotwin,
    import_episodes,
    load_mapping,
)
from training.ingest.build import EpisodeReport
from training.scale import Workers

Kind = Literal["libero", "robotwin", "lerobot"]
CONTRACTS = {"libero": "libero", "robotwin": "robotwin_aloha"}
"""Contract of a benchmark where none is given."""


def run_import(
    kind: Kind,
    source: Path,
    out: Path,
    *,
    contract: str | None = None,
    mapping: Path | None = None,
    instruction: str | None = None,
    upright: bool = False,
    workers: Workers | None = None,
    on_start: Callable[[int], None] = lambda episodes: None,
    progress: Callable[[EpisodeReport], None] | None = None,
    log: Callable[[str], None] = lambda text: None,
) -> ImportReport:
    """Import ``source`` (a file or a folder) into the new dataset ``out``.

    ``on_start`` gets the number of episodes found. Raises ImportFailed, ContractError, ScaleError.
    """
    if not source.exists():
        raise ImportFailed(f"{source} does not exist")
    if contract is None and kind not in CONTRACTS:
        raise ImportFailed(f"importing {kind} needs a contract: --contract NAME or FILE")
    loaded = load_contract(contract or CONTRACTS[kind])
    if upright and kind != "libero":
        raise ImportFailed("--upright is for libero; for lerobot the mapping says how pictures stand (rotate_deg)")
    if (kind == "lerobot") != (mapping is not None):
        raise ImportFailed("--mapping FILE is needed for lerobot, and serves nothing else")
    episodes: list[EpisodeSource]
    if kind == "libero":
        episodes = list(find_libero(source, instruction=instruction, upright=upright, rate_hz=loaded.rate_hz))
    elif kind == "robotwin":
        episodes = list(find_robotwin(source, instruction=instruction))
    else:
        assert mapping is not None
        episodes = list(find_lerobot(source, loaded, load_mapping(mapping), instruction=instruction))
    on_start(len(episodes))
    return import_episodes(episodes, out, loaded, workers=workers, progress=progress, log=log)
