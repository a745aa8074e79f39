"""LIBERO's recorded initial states, read without executing anything.

They come as torch files: a pickled numpy array within a zip archive, and loading one would run whatever its pickle
says. All of them are written alike, so that the pickle's instructions are only listed here, compared with the one
form that a two-dimensional array of float64 has, and its bytes taken from their place.
"""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim_bridges.worlds.libero.tasks import LiberoError

_GLOBALS = ["numpy.core.multiarray _reconstruct", "numpy ndarray", "_codecs encode", "numpy dtype"]
_STRINGS = ["b", "latin1", "f8", "<"]
"""Type code of the empty array, encoding of the bytes, float64, little-endian; the fifth is the data."""
_FLAGS = ["NEWFALSE", "NEWTRUE", "NEWFALSE"]
"""How the type is made, and that the array lies in C order."""


def read_initial_states(file: Path) -> NDArray[np.float64]:
    """(N, 1 + nq + nv) time, positions and velocities of the whole simulation.

    Raises LiberoError if the file is missing or is anything but such an array.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            pickled = archive.read(next(n for n in archive.namelist() if n.endswith("/data.pkl")))
    except FileNotFoundError:
        raise LiberoError(f"there is no file of initial states {file}; is hf-libero 0.1.4 installed whole?") from None
    except (OSError, zipfile.BadZipFile, StopIteration) as error:
        raise LiberoError(f"{file} is no file of initial states ({type(error).__name__}: {error})") from None
    return _array(pickled, str(file))


def _array(pickled: bytes, where: str) -> NDArray[np.float64]:
    found: dict[str, list[str]] = {"GLOBAL": [], "BINUNICODE": []}
    numbers: list[int] = []
    flags: list[str] = []
    try:
        for operation, value, _ in pickletools.genops(pickled):
            if operation.name in found:
                found[operation.name].append(str(value))
            elif operation.name in ("BININT", "BININT1", "BININT2") and isinstance(value, int):
                numbers.append(value)
            elif operation.name in ("NEWTRUE", "NEWFALSE"):
                flags.append(operation.name)
    except ValueError as error:
        raise LiberoError(f"{where}: its pickle is damaged ({error})") from None
    strings = found["BINUNICODE"]
    # 0 (empty array), 1 (version), rows, columns, then the type's own: 3, -1, -1, 0
    regular = found["GLOBAL"] == _GLOBALS and strings[:4] == _STRINGS and len(strings) == 5 and flags == _FLAGS
    if not regular or len(numbers) != 8 or numbers[:2] != [0, 1]:
        raise LiberoError(
            f"{where} holds something else than one array of float64 (it names {found['GLOBAL']}); it is not executed"
        )
    rows, columns = numbers[2:4]
    data = strings[4].encode("latin1", errors="replace")
    if len(data) != rows * columns * 8:
        raise LiberoError(f"{where}: {len(data)} bytes for {rows} initial states of {columns} numbers")
    return np.frombuffer(data, "<f8").reshape(rows, columns).copy()
