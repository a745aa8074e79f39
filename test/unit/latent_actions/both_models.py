"""Train both latent action models: `accelerate launch … both_models.py ACTION_YAML IMAGE_YAML`."""

from __future__ import annotations

import sys

from training.latent_actions import action_train, image_train

if __name__ == "__main__":
    action_train.main(["--config", sys.argv[1]])
    image_train.main(["--config", sys.argv[2]])
