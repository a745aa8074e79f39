"""What is set in the controller before servo mode, so that it acts when we cannot, and read back where it can be."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from lavla_ros.errors import UserError
from lavla_ros.jaka.client import JakaClient
from lavla_ros.jaka.codec import JakaProtocolError
from lavla_ros.jaka.driver_config import JakaDriverConfig
from lavla_ros.jaka.errors import JakaConnectionError, JakaError

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_SAME_KG, _SAME_M = 0.01, 0.001


class SettingRefused(UserError, RuntimeError):
    """The controller does not take a setting, or has another one than it was given."""


def apply_settings(
    client: JakaClient, config: JakaDriverConfig, filter_limits: tuple[float, float, float] | None
) -> None:
    """Servo filter, network exception, collision sensitivity, payload. Outside servo mode only.

    Raises SettingRefused naming the parameter and the way out; JakaConnectionError if the connection breaks.
    """
    _set("filter_factor", "0 (no filter)", lambda: client.set_servo_move_filter(filter_limits))
    if config.network_timeout_s:
        _set(
            "network_timeout_s",
            "0 (left alone), after the controller was made to stop by itself when commands stop",
            lambda: client.set_network_exception_handle(config.network_timeout_s, "abort"),
        )
    level = config.collision_sensitivity
    _set("collision_sensitivity", "another level", lambda: client.set_collision_sensitivity(level))
    if (found := _read_back("collision_sensitivity", client.get_collision_sensitivity)) not in (None, level):
        raise SettingRefused(f"collision_sensitivity was set to {level}, but the controller has {found}")
    if config.payload_kg is not None:
        mass_kg, centroid_m = config.payload_kg, config.payload_centroid_m
        _set("payload_kg", "null (left as set at the pendant)", lambda: client.set_payload(mass_kg, centroid_m))
        payload = _read_back("payload_kg", client.get_payload)
        if payload is not None and (
            abs(payload[0] - mass_kg) > _SAME_KG
            or max(abs(a - b) for a, b in zip(payload[1], centroid_m, strict=True)) > _SAME_M
        ):
            raise SettingRefused(
                f"payload was set to {mass_kg} kg at {centroid_m} m, but the controller has {payload[0]} kg at "
                f"{payload[1]} m"
            )


def _set(parameter: str, way_out: str, call: Callable[[], None]) -> None:
    try:
        call()
    except JakaError as error:
        raise SettingRefused(f"{parameter}: {error}; set it to {way_out} if this firmware cannot do it") from error


def _read_back(parameter: str, call: Callable[[], _T]) -> _T | None:
    """None if this firmware cannot tell."""
    try:
        return call()
    except (JakaError, JakaProtocolError, JakaConnectionError) as error:
        _log.info("%s cannot be read back: %s", parameter, error)
        return None
