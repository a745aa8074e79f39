"""Files that are there whole, or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lavla_ros.outputs import replacing


def write_json(path: Path, data: object) -> None:
    """Write all of it or nothing, durably: a temporary file beside ``path``, synced, then an atomic rename."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(data, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file that may not exist yet."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
