"""LIBERO's scene assets: where they are, what they are, and whether figures made with them may be compared.

Meshes and textures are no part of the hf-libero package. They are looked for, in this order: the folder that is
asked for, ``LAVLA_LIBERO_ASSETS``, ``assets`` inside the installed package, the place that the package downloads to,
and, where there is a network, that download.

``asset_files.txt`` lists every file that the four suites of the paper load, with the hash of the benchmark's own file
or of the project's stand-in for it, so that a result can say by content, not by a folder's name, what it was made with.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from sim_bridges.worlds.libero.tasks import LiberoError, package_folder

VARIABLE = "LAVLA_LIBERO_ASSETS"
HUB_REPOSITORY = "lerobot/libero-assets"
"""Data set on the Hugging Face hub from which hf-libero takes its assets."""
_LIST = Path(__file__).with_name("asset_files.txt")
FOLDERS = (
    "articulated_objects",
    "scenes",
    "stable_hope_objects",
    "stable_scanned_objects",
    "textures",
    "turbosquid_objects",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What a folder of assets holds, by content."""

    folder: str
    found_by: str
    hash: str
    """Over the paths and contents of all assets: equal hashes, equal scenes."""
    stand_ins: tuple[str, ...]
    """Files that are the project's stand-ins."""
    altered: tuple[str, ...]
    """Files that are not the benchmark's own, whose hash is known."""
    unverified: tuple[str, ...]
    """Files that are not the stand-in, while the hash of the benchmark's own is not known."""

    @property
    def comparable(self) -> bool:
        """Whether success rates measured with these assets may stand beside published ones."""
        return not self.stand_ins and not self.altered

    @property
    def statement(self) -> str:
        """One or two plain sentences for a report."""
        if self.comparable:
            note = f" ({len(self.unverified)} files could not be verified by hash)" if self.unverified else ""
            return f"LIBERO's own assets{note}: comparable with published figures, as far as the assets go."
        parts = [
            f"{len(files)} {what} (such as {files[0]})"
            for files, what in ((self.stand_ins, "stand-ins"), (self.altered, "altered files"))
            if files
        ]
        return (
            f"The scenes contain {' and '.join(parts)} in place of LIBERO's own meshes and textures: "
            "not comparable with published figures."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LiberoAssets:
    """A complete folder of assets."""

    folder: Path
    found_by: str
    """In words: the argument, the variable, …"""

    @property
    def provenance(self) -> Provenance:
        """Reads every file, once per process."""
        return _inspect(self.folder, self.found_by)


@dataclass(frozen=True, slots=True)
class _Listed:
    hash: str
    kind: Literal["own", "stand-in"]


def find_assets(folder: str | Path | None = None, *, download: bool = True) -> LiberoAssets:
    """The assets to use: ``folder`` if given (or not empty), else wherever they are (see the module).

    ``download`` False leaves the network alone. Raises LiberoError that names what is missing and says how to get it.
    """
    asked = str(folder) if folder else ""
    named = os.environ.get(VARIABLE, "")
    for text, found_by in ((asked, "argument"), (named, VARIABLE)):
        if text:
            _require_complete(Path(text), found_by)
            return LiberoAssets(folder=Path(text).resolve(), found_by=found_by)
    for place, found_by in ((package_folder() / "assets", "inside hf-libero"), (_cache(), "downloaded by hf-libero")):
        if not _missing(place):
            return LiberoAssets(folder=place, found_by=found_by)
    why = "downloading is switched off"
    if download:
        try:
            place = _download()
            _require_complete(place, "download")
            return LiberoAssets(folder=place, found_by="downloaded now")
        except Exception as error:  # noqa: BLE001  # whatever the hub's client raises, the answer is the same
            why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    raise LiberoError(
        f"LIBERO's scene assets are not on this machine and could not be downloaded ({why}). Set {VARIABLE} to a "
        f"folder that contains {', '.join(FOLDERS)}, or, with a network, get the data set {HUB_REPOSITORY} from the "
        "Hugging Face hub (docs/libero.md)"
    )


def _cache() -> Path:
    return Path.home() / ".cache" / "libero" / "assets"


def _download() -> Path:
    """What hf-libero does at first use; its own function calls an interface that hub clients since 1.0 do not have."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(HUB_REPOSITORY, repo_type="dataset", local_dir=_cache()))


def _require_complete(folder: Path, found_by: str) -> None:
    if not folder.is_dir():
        raise LiberoError(f"the folder of LIBERO's assets {folder} (from {found_by}) does not exist")
    missing = _missing(folder)
    if missing:
        raise LiberoError(
            f"{folder} (from {found_by}) lacks {len(missing)} of {len(_listed())} of LIBERO's assets, "
            f"such as {missing[0]}; expected the folders {', '.join(FOLDERS)}"
        )


def _missing(folder: Path) -> list[str]:
    return [path for path in _listed() if not (folder / path).is_file()]


@cache
def _listed() -> dict[str, _Listed]:
    found: dict[str, _Listed] = {}
    for line in _LIST.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            digest, kind, path = line.split(maxsplit=2)
            found[path] = _Listed(digest, "own" if kind == "own" else "stand-in")
    return found


@cache
def _inspect(folder: Path, found_by: str) -> Provenance:
    overall = hashlib.sha256()
    stand_ins: list[str] = []
    altered: list[str] = []
    unverified: list[str] = []
    for path in sorted(_files(folder)):
        digest = hashlib.sha256((folder / path).read_bytes()).hexdigest()
        overall.update(f"{digest} {path}\n".encode())
        listed = _listed().get(path)
        if listed is None:
            continue
        same = listed.hash == digest
        if listed.kind == "stand-in":
            (stand_ins if same else unverified).append(path)
        elif not same:
            altered.append(path)
    return Provenance(
        folder=str(folder),
        found_by=found_by,
        hash=overall.hexdigest()[:16],
        stand_ins=tuple(stand_ins),
        altered=tuple(altered),
        unverified=tuple(unverified),
    )


def _files(folder: Path) -> Iterator[str]:
    for name in FOLDERS:
        for file in (folder / name).rglob("*"):
            if file.is_file():
                yield file.relative_to(folder).as_posix()
