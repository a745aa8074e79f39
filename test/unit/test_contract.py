"""What a contract's hash covers, what a recording depends on, and which hashes of old are taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open
from synthetic_messages import small_contract

import lavla_ros
from lavla_ros.config import ConfigError
from lavla_ros.contract import (
    Contract,
    ContractError,
    Dimension,
    contract_differences,
    load_contract,
    recording_differences,
    require_same_contract,
    shipped_contract,
)

ONE = small_contract()
BUNDLED = Path(lavla_ros.__file__).parent / "policy" / "bundled"

WIRING = {
    "name": replace(ONE, name="other"),
    "camera topic": replace(ONE, cameras=tuple(replace(c, topic=f"/x{c.topic}") for c in ONE.cameras)),
    "channel order": replace(ONE, cameras=tuple(replace(c, channel_order="bgr8") for c in ONE.cameras)),
    "state topic": replace(ONE, state=replace(ONE.state, topic="/arm/joint_states")),
    "action topic": replace(ONE, action=replace(ONE.action, topic="/arm/command")),
    "tolerance": replace(ONE, alignment=replace(ONE.alignment, camera_tolerance_s=0.01)),
    "arm limit": replace(
        ONE, action=replace(ONE.action, dims=(Dimension(name="a", low=-1, high=1), *ONE.action.dims[1:]))
    ),
    "instruction topic": replace(ONE, instruction_topic="/say"),
}
LEARNED = {
    "rate": replace(ONE, rate_hz=20.0),
    "chunk": replace(ONE, chunk_size=5),
    "robot": replace(ONE, robot="other"),
    "size": replace(ONE, cameras=tuple(replace(c, width=32) for c in ONE.cameras)),
    "rotation": replace(ONE, cameras=tuple(replace(c, rotate_deg=180) for c in ONE.cameras)),
    "crop": replace(ONE, cameras=tuple(replace(c, crop="none") for c in ONE.cameras)),
    "unit": replace(ONE, state=replace(ONE.state, fields=(Dimension(name="a", unit="m"), *ONE.state.fields[1:]))),
    "gripper bounds": replace(
        ONE,
        state=replace(
            ONE.state,
            fields=(*ONE.state.fields[:2], Dimension(name="gripper", unit="fraction", kind="gripper", low=0, high=2)),
        ),
    ),
    "order": replace(ONE, state=replace(ONE.state, fields=ONE.state.fields[::-1])),
    "source": replace(ONE, action=replace(ONE.action, source="next_state")),
    "mode": replace(ONE, action=replace(ONE.action, mode="delta")),
    "step": replace(ONE, step="command"),
}


@pytest.mark.parametrize("name", WIRING)
def test_wiring_changes_neither_the_hash_nor_who_may_work_together(name: str) -> None:
    other = WIRING[name]
    assert other.hash == ONE.hash and other.full_hash != ONE.full_hash
    assert contract_differences(ONE, other) == [] == recording_differences(ONE, other)
    require_same_contract(ONE, other, ours_from="here", theirs_from="there")


@pytest.mark.parametrize("name", LEARNED)
def test_what_a_policy_learns_from_is_in_the_hash_and_in_the_refusal(name: str) -> None:
    other = LEARNED[name]
    assert other.hash != ONE.hash and contract_differences(ONE, other)
    with pytest.raises(ContractError, match="the contract of here does not match that of there"):
        require_same_contract(ONE, other, ours_from="here", theirs_from="there")
    free = name in ("rate", "chunk", "order", "source")  # a recording serves them all
    assert (recording_differences(ONE, other) == []) == free


def test_another_order_is_no_difference_to_those_who_match_names() -> None:
    other = LEARNED["order"]
    assert contract_differences(ONE, other) == ["order of state: ['a', 'b', 'gripper'] != ['gripper', 'b', 'a']"]
    require_same_contract(ONE, other, ours_from="here", theirs_from="there", by_name=True)


def test_a_recording_of_more_serves_a_contract_of_less() -> None:
    less = replace(ONE, cameras=ONE.cameras[:1], state=replace(ONE.state, fields=ONE.state.fields[:1]))
    assert recording_differences(less, ONE) == []


def test_a_contract_survives_being_written_down() -> None:
    for contract in (ONE, *WIRING.values(), *LEARNED.values()):
        told = contract.described()
        assert Contract.from_dict(told["contract_definition"]) == contract and contract.has_hash(told["contract_hash"])


@pytest.mark.parametrize(
    ("name", "old"),
    [
        ("jaka_minicobo", "3af165688ed96b8d"),
        ("libero", "53924d9675ce2623"),
        ("robotwin_aloha", "6b471fcccb9acdf1"),
    ],
)
def test_hashes_over_every_field_are_still_known(name: str, old: str) -> None:
    """Bags, datasets and checkpoints carry them from before."""
    contract = load_contract(name)
    assert contract.has_hash(old) and contract.has_hash(contract.hash) and not contract.has_hash("feed")
    assert shipped_contract(old) == contract == shipped_contract(contract.hash)


def test_the_bundled_policy_was_made_under_a_hash_of_its_contract() -> None:
    with safe_open(str(BUNDLED / "model.safetensors"), framework="np") as weights:
        assert load_contract(BUNDLED / "contract.yaml").has_hash(weights.metadata()["contract"])


def test_guiding_by_hand_differs_from_teleoperation_in_the_source_of_labels_only() -> None:
    guided, commanded = load_contract("jaka_minicobo_guided"), load_contract("jaka_minicobo")
    assert contract_differences(guided, commanded) == ["action.source: 'next_state' != 'command'"]
    assert recording_differences(guided, commanded) == []


def test_a_topic_goes_with_the_namespace_unless_a_cameras_driver_has_it_absolute() -> None:
    shipped = load_contract("jaka_minicobo")
    front = shipped.cameras[0]
    assert front.topic == "/camera/front/image_raw" and front.relative
    names = [front.topic, front.observation_topic, shipped.state.topic, shipped.action.topic, shipped.instruction_topic]
    assert [shipped.wire(n) for n in names] == [n.removeprefix("/") for n in names]
    foreign = replace(shipped, cameras=(replace(front, relative=False), *shipped.cameras[1:]))
    assert foreign.wire(front.topic) == front.topic
    assert foreign.wire(f"{front.topic}/compressed") == f"{front.topic}/compressed"
    assert foreign.wire(front.observation_topic) == "observation/front"
    assert foreign.full_hash == shipped.full_hash and foreign.to_dict() == shipped.to_dict()
    for topic in ("", "/", "a b", "/9", "camera//front"):
        with pytest.raises(ConfigError, match="topic"):
            replace(front, topic=topic)
