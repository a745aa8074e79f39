"""Recordings → our dataset: bags, the benchmarks' HDF5 files, any LeRobot or RLDS dataset, and what others add.

``lavla convert BAGS`` and ``lavla import KIND SOURCE`` end here. What a source holds is matched with the contract by
name; what does not fit is refused, with the names on both sides.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from lavla_ros.contract import Contract, load_contract
from lavla_ros.plugins import find
from training.ingest.build import EpisodeSource, IngestError, IngestReport, Kind, Rejected, build_dataset
from training.ingest.table import Stored

__all__ = [
    "SOURCES",
    "EpisodeSource",
    "IngestError",
    "IngestReport",
    "Kind",
    "Recordings",
    "Rejected",
    "build_dataset",
    "ingest",
    "recordings",
]

SOURCES = {
    "bag": "training.ingest.bag:Bags",
    "libero": "training.ingest.libero:LiberoFiles",
    "robotwin": "training.ingest.robotwin:RobotwinFiles",
    "lerobot": "training.ingest.lerobot:LeRobotDatasets",
    "rlds": "training.ingest.rlds:RldsDatasets",
}
"""Kind of recordings → ``module:attribute`` of the class whose keyword arguments are its options."""


class Recordings(Protocol):
    """Recordings of one kind, and what the options say of them."""

    @property
    def default_contract(self) -> str | None:
        """Contract that is taken if none is given; None: one has to be given."""

    @property
    def first_frames(self) -> bool:
        """Whether a person has to look at how the pictures stand."""

    def find(self, paths: Sequence[Path], contract: Contract) -> Sequence[EpisodeSource]:
        """The recordings of these files and folders, in order, none twice. Raises IngestError if one holds none."""


def recordings(kind: str, options: Mapping[str, Any]) -> Recordings:
    """Recordings of a kind of SOURCES, or of a ``module:attribute``, under these options.

    Raises IngestError for a kind that there is not, or an option that it lacks or needs.
    """
    factory: Callable[..., Recordings] = find(kind, SOURCES, "source", IngestError)
    known = inspect.signature(factory).parameters
    needed = {name for name, parameter in known.items() if parameter.default is inspect.Parameter.empty}
    if unknown := sorted(options.keys() - known.keys()):
        raise IngestError(f"{kind} has no option {unknown}; it has {sorted(known)}")
    if missing := sorted(needed - options.keys()):
        raise IngestError(f"{kind} needs {', '.join(f'--{name}' for name in missing)}")
    return factory(**options)


def ingest(
    kind: str,
    paths: Sequence[Path],
    out: Path,
    *,
    contract: str | Contract | None = None,
    options: Mapping[str, Any] | None = None,
    enlarge: bool = False,
    on_start: Callable[[int], None] = lambda sources: None,
    **settings: Any,
) -> IngestReport:
    """Make the dataset ``out`` of the recordings of these files and folders; the settings are :func:`build_dataset`'s.

    ``enlarge``: take pictures of files and datasets that are smaller than the contract's. ``on_start`` gets the number
    of sources found. Raises IngestError, ContractError, PoolError.
    """
    if missing := [str(path) for path in paths if not path.exists()]:
        raise IngestError(f"{missing[0]} does not exist")
    given = dict(options or {})
    found = recordings(kind, given)
    name = contract or found.default_contract
    if name is None:
        raise IngestError(f"importing {kind} needs a contract: --contract NAME or FILE")
    loaded = name if isinstance(name, Contract) else load_contract(name)
    sources: Sequence[EpisodeSource] = found.find([path.absolute() for path in dict.fromkeys(paths)], loaded)
    on_start(len(sources))
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    if enlarge:
        sources = [replace(source, enlarge=True) if isinstance(source, Stored) else source for source in sources]
        plain["enlarge"] = True
    first_frames = found.first_frames
    settings.setdefault("interventions", any(getattr(source, "tells_commander", False) for source in sources))
    return build_dataset(sources, out, loaded, kind=kind, options=plain, first_frames=first_frames, **settings)
