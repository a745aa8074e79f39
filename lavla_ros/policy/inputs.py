"""What a policy takes of an observation, held against its contract."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import Contract, Observation
from lavla_ros.errors import UserError


class ObservationError(UserError, ValueError):
    """An observation does not fit the policy's contract; names what is wrong."""


def observed_images(observation: Observation, contract: Contract) -> list[NDArray[np.uint8]]:
    """(H, W, 3) of each camera, in the contract's order. Raises ObservationError."""
    views = []
    for spec in contract.cameras:
        image = observation.images.get(spec.name)
        if image is None:
            raise ObservationError(
                f"the observation has no image of camera {spec.name!r}; it has {sorted(observation.images)}"
            )
        if image.shape != (spec.height, spec.width, 3) or image.dtype != np.uint8:
            raise ObservationError(
                f"the image of camera {spec.name!r} has shape {image.shape} and type {image.dtype}; "
                f"expected ({spec.height}, {spec.width}, 3) uint8"
            )
        views.append(image)
    return views


def observed_state(observation: Observation, contract: Contract) -> NDArray[np.float32]:
    """(S,) finite numbers in the contract's order. Raises ObservationError."""
    state = np.asarray(observation.state, dtype=np.float32)
    names = contract.state.names
    if state.shape != (len(names),):
        raise ObservationError(f"the state has shape {state.shape}; expected ({len(names)},) for {list(names)}")
    bad = [name for name, value in zip(names, state, strict=True) if not np.isfinite(value)]
    if bad:
        raise ObservationError(f"the state of {bad} is not finite")
    return state
