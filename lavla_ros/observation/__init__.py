"""Streams → aligned observations. Pure: the same code serves live topics and bags, without ROS."""

from __future__ import annotations

from lavla_ros.observation.images import ImageError, decode_image, prepare_image
from lavla_ros.observation.pipeline import ObservationPipeline

__all__ = ["ImageError", "ObservationPipeline", "decode_image", "prepare_image"]
