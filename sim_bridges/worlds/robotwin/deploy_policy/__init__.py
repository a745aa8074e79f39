"""A folder for RoboTwin's ``policy/``: its own scripts evaluate our checkpoints through it (docs/robotwin.md)."""

from sim_bridges.worlds.robotwin.deploy_policy.deploy_policy import encode_obs, eval, get_model, reset_model

__all__ = ["encode_obs", "eval", "get_model", "reset_model"]
