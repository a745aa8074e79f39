"""Train both latent action models: `accelerate launch … both_models.py ACTION_YAML IMAGE_YAML`."""

from __future__ import annotations

import sys

from lavla_ros.cli import main

if __name__ == "__main__":
    for kind, config in zip(("action", "image"), sys.argv[1:], strict=True):
        main(["latent", "train", kind, "--config", config])
