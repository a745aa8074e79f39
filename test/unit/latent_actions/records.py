"""What a trained latent model says of its training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from training.latent_actions.checkpoint import TRAINING


def load_training_record(path: Path) -> dict[str, Any]:
    return json.loads((path / TRAINING).read_text(encoding="utf-8"))
