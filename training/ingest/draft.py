"""A first contract of a robot, proposed from a bag or a dataset of it.

What the recording shows is written as it is. ``# GUESS`` marks what is likely and has to be looked at, ``# FILL IN`` a
blank that the recording cannot answer: the file does not load before a person has filled it. ``# CANNOT BE SAID`` is a
sentence on something that the robot does and no contract can say.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavla_ros.contract import Contract, shipped_contract
from lavla_ros.pieces import JOINTS, MESSAGE_TYPES, TRAJECTORY
from lavla_ros.topics import ACTION_CHUNK, in_bag
from lavla_ros.yaml_text import dump_yaml
from training.dataset import layout
from training.ingest.build import IngestError
from training.ingest.inspection import ARRAYS, BagFacts, Joints, Topic

_LEADER = re.compile(r"leader|master|teleop|gello|command|cmd|target|desired", re.IGNORECASE)
_GRIPPER = re.compile(r"gripper|finger|jaw|knuckle", re.IGNORECASE)
_LINEAR = re.compile(r"linear|prismatic|slide|rail", re.IGNORECASE)
_ARRAY_COMMAND = re.compile(f"{_LEADER.pattern}|{_GRIPPER.pattern}|controller", re.IGNORECASE)
_PLAIN_WORDS = {
    *("camera", "cam", "color", "colour", "rgb", "compressed", "sensors", "observation", "images"),
    *("image", "image_raw", "image_rect_raw", "image_color", "image_rect", "image_rect_color", "raw"),
}
"""Parts of a camera's topic that do not tell it from another one."""
_OTHERS = {
    **dict.fromkeys(ARRAYS, "numbers without names"),
    "geometry_msgs/msg/Twist": "velocities of the tool or the base",
    "geometry_msgs/msg/TwistStamped": "velocities of the tool",
    "geometry_msgs/msg/Pose": "poses",
    "geometry_msgs/msg/PoseStamped": "poses",
    "geometry_msgs/msg/Wrench": "forces",
    "geometry_msgs/msg/WrenchStamped": "forces",
    "control_msgs/msg/GripperCommand": "commands of a gripper",
    "control_msgs/msg/JointJog": "velocities of joints",
}
_FULL_TURN = 2 * math.pi + 0.1
_USUAL_HZ, _USUAL_TOLERANCE_S = 10, 0.05
_ROBOT = "what this robot is called; everything learned is for that robot alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Camera:
    name: str
    topic: str
    """Empty if the recording does not tell it."""
    seen: str
    """What its pictures are like."""
    width: int
    height: int
    rate_hz: float | None
    prepared: bool
    """Whether the recording has them as a policy sees them."""
    orderless: bool = False
    """Whether the pictures do not say whether red or blue comes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Value:
    """One number of the state or the action."""

    name: str
    """In the contract."""
    low: float | None
    """As recorded, like ``high``."""
    high: float | None
    there: str = ""
    """Its name in the messages."""
    topic: str = ""
    kind: str = JOINTS
    """Message type."""
    group: int = 0
    """Which of the topic's messages have it, if none has all."""


def draft_from_bag(facts: BagFacts, name: str) -> str:
    """The YAML of a contract called ``name``.

    A bag that says its contract gives that. Raises IngestError for a bag without pictures or joint states.
    """
    if (recorded := _recorded(facts)) is not None:
        return _as_recorded(recorded, facts.bag)
    topics = [topic for topic in facts.topics if topic.count and topic.name != in_bag(ACTION_CHUNK)]
    cameras, notes = _cameras(topics)
    states = [topic for topic in topics if topic.joints and JOINTS in topic.types]
    leaders = [topic for topic in states if _LEADER.search(topic.name)]
    states = [topic for topic in states if topic not in leaders] or states
    if not cameras or not states:
        lacking = "colour camera" if not cameras else "JointState"
        have = {topic.name: topic.types for topic in topics}
        raise IngestError(f"{facts.bag} has no {lacking}, so no contract can be drafted; it has {have}")
    state = _joined(states)
    commands, action, arrays = _commanded(topics, [topic for topic in leaders if topic not in states], state)
    slowest = min((camera.rate_hz for camera in cameras if camera.rate_hz), default=None)
    rate_hz = _rate_hz(slowest)
    lines = [
        *_head(Path(facts.bag).name),
        f"name: {_text(name)}",
        _fill("robot:", _ROBOT),
        f"rate_hz: {rate_hz}   # GUESS: policy steps per second; the slowest camera has {_number(slowest)}",
        *_chunk(rate_hz),
        *_camera_lines(cameras),
        *notes,
        *_depth_lines(topics),
        *_state_lines(states, state),
        *_action_lines(commands, action, state),
        *_other_lines(topics, [*commands, *arrays]),
        *_alignment_lines(cameras, topics, states, commands),
        *(f"  # GUESS: one is wrong: {finding}" for finding in facts.findings),
        *_instruction_lines(topics),
    ]
    return "\n".join(lines) + "\n"


def draft_from_dataset(root: Path, name: str) -> str:
    """The YAML of a contract called ``name``; a dataset of ours has its own. Raises DatasetError, IngestError."""
    if (embedded := layout.read_contract(root)) is not None:
        return _as_recorded(embedded, str(root))
    info = layout.read_json(root / layout.INFO)
    features, ranges = info["features"], _ranges(root)
    images = {key: each for key, each in features.items() if each["dtype"] in ("video", "image")}
    if not images or layout.STATE not in features or layout.ACTION not in features:
        raise IngestError(f"{root} lacks cameras, {layout.STATE} or {layout.ACTION}; it has {sorted(features)}")
    cameras = []
    for key, feature in images.items():
        height, width = feature["shape"][:2] if feature["shape"][0] > 4 else feature["shape"][1:]
        seen = f"{key}: {width}x{height}"
        called = _identifier(key.rsplit(".", 1)[-1])
        cameras.append(
            _Camera(name=called, topic="", seen=seen, width=width, height=height, rate_hz=None, prepared=False)
        )
    state, action = (_values(key, features[key], ranges.get(key, {})) for key in (layout.STATE, layout.ACTION))
    lines = [
        *_head(f"the dataset {root.name}"),
        f"name: {_text(name)}",
        f"robot: {_text(info['robot_type'])}   # GUESS: the dataset's robot_type"
        if info.get("robot_type")
        else _fill("robot:", _ROBOT),
        f"rate_hz: {info['fps']}",
        *_chunk(info["fps"]),
        *_camera_lines(cameras),
        "state:",
        _fill("  topic:", "sensor_msgs/JointState topic of the running robot; a dataset has no topics"),
        "  fields:",
        *_dimensions(state, convert=False),
        "action:",
        _fill("  topic:", "trajectory_msgs/JointTrajectory topic for commands; a dataset has no topics"),
        "  space: joint   # GUESS: from a dataset it is not known whether these are joints or the tool's pose",
        "  mode: absolute   # GUESS: delta if an action is a difference to the state",
        "  source: command",
        "  dims:",
        *_dimensions(action, convert=False),
        "alignment:",
        f"  reference: {cameras[0].name}   # GUESS: the camera whose frames are the steps",
    ]
    return "\n".join(lines) + "\n"


def _recorded(facts: BagFacts) -> Contract | None:
    """The contract that the bag's first episode says it was recorded under."""
    for episode in facts.episodes[:1]:
        told, text = episode.metadata.get("contract_definition"), episode.metadata.get("contract_hash")
        if told is not None:
            return Contract.from_dict(told, source=f"contract_definition of {facts.bag}")
        if text is not None:
            return shipped_contract(text)
    return None


def _as_recorded(contract: Contract, source: str) -> str:
    said = f"# The contract that {Path(source).name} says it was recorded under, as it was; nothing is guessed."
    return f"{said}\n{dump_yaml(contract.to_dict())}"


def _head(source: str) -> Iterator[str]:
    yield f"# Drafted from {source}. GUESS: look at it. FILL IN: the recording cannot tell."
    yield "# For what is marked CANNOT BE SAID a contract has no words. The file loads when every FILL IN has a value."


def _chunk(rate_hz: float) -> Iterator[str]:
    yield f"chunk_size: {max(1, min(256, round(2 * rate_hz)))}   # GUESS: actions per prediction; these are 2 s"


def _rate_hz(slowest: float | None) -> int:
    """The usual rate, or the camera's if that is slower; a whole number, as every tool takes it."""
    if slowest is None or slowest >= 0.98 * _USUAL_HZ:
        return _USUAL_HZ
    nearest = round(slowest)
    return max(1, nearest if abs(slowest / max(nearest, 1) - 1) < 0.02 else math.floor(slowest))


def _cameras(topics: Sequence[Topic]) -> tuple[list[_Camera], list[str]]:
    """Every colour camera once, and sentences on pictures that no contract takes."""
    found: dict[str, _Camera] = {}
    notes: list[str] = []
    colour = []
    for topic in topics:
        if topic.pictures is None:
            continue
        orderless = topic.pictures.encoding in ("8UC3", "8UC4")
        if _is_depth(topic):
            continue
        if topic.pictures.problem and not orderless:
            notes.append(f"  # CANNOT BE SAID: {topic.name} ({topic.pictures.encoding}) is no colour picture.")
        elif topic.pictures.encoding.startswith("mono") and re.search("infra", topic.name):
            notes.append(f"  # GUESS: {topic.name} is left out: infrared")
        else:
            colour.append((topic, topic.pictures, orderless))
    for topic, pictures, orderless in colour:
        base = topic.name.removesuffix("/compressed")
        prepared = base.startswith("/observation/")
        key = base.removeprefix("/observation/") if prepared else base
        if key in found:
            continue  # raw and compressed of one camera
        found[key] = _Camera(
            name=_camera_name(base, [each.name for each in found.values()]),
            topic="" if prepared else base,
            seen=f"{pictures.width}x{pictures.height} {pictures.encoding}, {_number(topic.rate_hz)} Hz",
            width=pictures.width,
            height=pictures.height,
            rate_hz=topic.rate_hz,
            prepared=prepared,
            orderless=orderless,
        )
    return list(found.values()), notes


def _is_depth(topic: Topic) -> bool:
    """Whether the pictures are depth that a contract can say."""
    seen = topic.pictures.encoding if topic.pictures else ""
    return seen in ("16UC1", "32FC1") or (seen.startswith("16UC1") and "png" in seen.lower())


def _depth_lines(topics: Sequence[Topic]) -> Iterator[str]:
    found: dict[str, Topic] = {}
    for topic in topics:
        if _is_depth(topic):
            found.setdefault(re.sub("/compressed(Depth)?$", "", topic.name), topic)
    if found:
        yield "depth:   # kept in datasets, lossless; no policy reads it"
    names: list[str] = []
    for base, topic in found.items():
        names.append(_camera_name(base, names))
        seen = topic.pictures.encoding if topic.pictures else ""
        name = names[-1] if "depth" in names[-1] else f"{names[-1]}_depth"
        yield f"  - {{name: {name}, topic: {base}}}   # {seen}, {_number(topic.rate_hz)} Hz"


def _camera_name(topic: str, taken: Sequence[str]) -> str:
    words = [word for word in topic.split("/") if word and word not in _PLAIN_WORDS]
    name = _identifier("_".join(words) or "camera")
    numbered = (name, *(f"{name}_{i}" for i in range(2, 100)))
    return next(each for each in numbered if each not in taken)


def _identifier(text: str) -> str:
    plain = re.sub(r"\W", "_", text)
    return plain if plain.isidentifier() else f"camera_{plain}"


def _camera_lines(cameras: Sequence[_Camera]) -> Iterator[str]:
    yield "cameras:"
    for camera in cameras:
        yield f"  - name: {camera.name}   # {camera.seen}"
        if camera.topic:
            yield f"    topic: {camera.topic}"
        else:
            yield _fill("    topic:", "the driver's topic, sensor_msgs/Image or CompressedImage")
        if camera.prepared:
            yield f"    width: {camera.width}"
            yield f"    height: {camera.height}"
        else:
            yield "    width: 224   # GUESS: what the policy sees"
            yield "    height: 224"
            yield "    rotate_deg: 0   # GUESS: look at a picture; 180 if the camera is mounted upside down"
            cut = abs(camera.width - camera.height) // 2
            side = "at left and right" if camera.width > camera.height else "at top and bottom"
            yield f"    crop: center_square   # GUESS: it cuts {cut} pixels {side}; none squeezes the picture"
        if camera.orderless:
            yield _fill("    channel_order:", "rgb8 or bgr8; the pictures' encoding does not say it")


def _state_lines(states: Sequence[Topic], values: Sequence[_Value]) -> Iterator[str]:
    yield "state:"
    joint_lists = [topic.joints for topic in states if topic.joints]
    if any(joints.velocity or joints.effort for joints in joint_lists):
        yield "  # GUESS: velocity and effort are in the messages too, and left out; a piece can say them."
    yield from _numbers_lines("fields", values, states, JOINTS)


def _numbers_lines(key: str, values: Sequence[_Value], topics: Sequence[Topic], plain: str) -> Iterator[str]:
    """Dimensions and where they come from: a topic if that says all, else pieces."""
    degrees = _in_degrees(values)
    pieces: dict[tuple[str, int, str, str], list[_Value]] = {}
    for value in values:
        pieces.setdefault((value.topic, value.group, value.kind, _units(value, degrees)[1]), []).append(value)
    rates = {topic.name: topic.rate_hz for topic in topics}
    simple = len(pieces) == 1 and all(kind == plain and not unit for _, _, kind, unit in pieces)
    simple = simple and all(value.there == value.name for value in values)
    if simple:
        yield f"  topic: {values[0].topic}   # {_number(rates[values[0].topic])} Hz"
    for topic in topics:
        if topic.joints and topic.joints.partial and not _disjoint(topic.joints):
            yield f"  # CANNOT BE SAID: {topic.name}: some messages lack some joints, in ways that overlap."
    yield f"  {key}:"
    yield from _dimensions(values)
    if simple:
        return
    yield "  pieces:"
    for (source, _, kind, unit), held in pieces.items():
        yield f"    - topic: {source}   # {_number(rates[source])} Hz"
        if kind != JOINTS:
            yield f"      type: {kind}"
        order = "   # GUESS of the order: the messages have no names" if kind in ARRAYS else ""
        yield f"      names: [{', '.join(_text(value.name) for value in held)}]{order}"
        if kind not in ARRAYS and [value.there for value in held] != [value.name for value in held]:
            yield f"      message_names: [{', '.join(_text(value.there) for value in held)}]"
        if unit:
            reach = max(max(abs(value.low or 0), abs(value.high or 0)) for value in held)
            yield f"      unit: {unit}   # GUESS: of the messages, which have values up to {reach:.4g}"


def _disjoint(joints: Joints) -> bool:
    return sum(map(len, joints.groups)) == len(joints.names)


def _joined(topics: Sequence[Topic]) -> list[_Value]:
    """The joints of all topics; with the part of the topic before them that tells them apart, if names repeat."""
    listed = [(topic, topic.joints) for topic in topics if topic.joints]
    names = [name for _, joints in listed for name in joints.names]
    found = []
    for topic, joints in listed:
        prefix = f"{_apart(topic.name, [t.name for t in topics])}_" if len(names) > len(set(names)) else ""
        group = {name: i for i, names in enumerate(joints.groups) for name in names} if _disjoint(joints) else {}
        found += [
            _Value(
                name=prefix + name,
                there=name,
                low=low,
                high=high,
                topic=topic.name,
                kind=topic.types[0],
                group=group.get(name, 0),
            )
            for name, low, high in _rows(joints)
        ]
    return found


def _rows(joints: Joints) -> Iterable[tuple[str, float | None, float | None]]:
    return zip(joints.names, joints.low, joints.high, strict=True)


def _apart(topic: str, topics: Sequence[str]) -> str:
    """The words of a topic that the others do not all have."""
    words = [re.findall(r"[^/_]+", each) for each in topics]
    own = [word for word in re.findall(r"[^/_]+", topic) if not all(word in other for other in words)]
    return "_".join(own)


def _commanded(
    topics: Sequence[Topic], leaders: Sequence[Topic], state: Sequence[_Value]
) -> tuple[list[Topic], list[_Value], list[Topic]]:
    """Topics that can give labels, their numbers, and those of them that have no names.

    That is trajectories, else leader arms, else arrays as long as the state; and a gripper's own number beside them.
    """
    arm, grippers = ([v for v in state if _is_gripper(v) == wanted] for wanted in (False, True))
    arrays: list[tuple[Topic, list[_Value]]] = []
    for topic in topics:
        if topic.joints is None or topic.types[0] not in ARRAYS or not _ARRAY_COMMAND.search(topic.name):
            continue
        choices = (grippers, arm, list(state)) if _GRIPPER.search(topic.name) else (arm, list(state))
        taken = next((each for each in choices if each and len(each) == len(topic.joints.names)), None)
        if taken is not None and not topic.joints.partial:
            rows = zip(taken, _rows(topic.joints), strict=True)
            kind = topic.types[0]
            values = [
                _Value(name=v.name, low=low, high=high, topic=topic.name, kind=kind) for v, (_, low, high) in rows
            ]
            arrays.append((topic, values))
    named = [t for t in topics if t.joints and TRAJECTORY in t.types] or list(leaders)
    values = _joined(named)
    used: list[Topic] = []
    for topic, more in arrays:
        if not {v.name for v in more} & {v.name for v in values} and (not named or all(map(_is_gripper, more))):
            values += more
            used.append(topic)
    return [*named, *used], values, used


def _action_lines(commands: Sequence[Topic], values: Sequence[_Value], state: Sequence[_Value]) -> Iterator[str]:
    yield "action:"
    for topic in commands:
        if topic.joints and topic.joints.points > 1:
            yield f"  # CANNOT BE SAID: {topic.name} has plans of up to {topic.joints.points} points;"
            yield "  # one of a single point alone is a label. `source: next_state` takes the measured joints."
    yield "  space: joint"
    yield "  mode: absolute"
    yield "  # low: and high: of a joint refuse what is beyond; the recorded range is no limit of the robot."
    if not commands:
        yield "  source: next_state   # GUESS: no command that can be a label is in the bag"
        yield "  topic: joint_command   # GUESS: where commands will go; the bag has no JointTrajectory"
        yield "  dims:"
        yield from _dimensions(state)
        return
    yield "  source: command"
    yield from _numbers_lines("dims", values, commands, TRAJECTORY)
    missing = [value.name for value in state if _is_gripper(value)]
    if missing and not any(map(_is_gripper, values)):
        yield f"  # GUESS: the state has {', '.join(missing)}, but these commands have no gripper."
        yield "  # If it is commanded on a topic of its own, that is one more piece."


def _in_degrees(values: Sequence[_Value]) -> bool:
    arm = [value for value in values if not _is_gripper(value)]
    reach = [max(abs(v.low), abs(v.high)) for v in arm if v.low is not None and v.high is not None]
    return bool(reach) and max(reach) > _FULL_TURN


def _units(value: _Value, degrees: bool) -> tuple[str, str, float]:
    """Likely unit in the contract, that of the messages (empty: the same), and the factor between them."""
    if not _is_gripper(value):
        linear = _LINEAR.search(value.name) is not None
        return ("m", "", 1.0) if linear else ("rad", "deg", math.pi / 180) if degrees else ("rad", "", 1.0)
    if value.low is None or value.high is None:
        return "fraction", "", 1.0
    if value.low < -1e-3 or value.high > 1 + 1e-3:
        return ("fraction", "percent", 1e-2) if value.low >= -1 and 1.5 < value.high <= 101 else ('"1"', "", 1.0)
    return ("m" if value.high <= 0.1 and "finger" in value.name else "fraction"), "", 1.0


def _dimensions(values: Sequence[_Value], *, convert: bool = True) -> Iterator[str]:
    """A line per number, with its unit and recorded range in that; without ``convert`` numbers stay as they are."""
    degrees = _in_degrees(values)
    if degrees and not convert:
        yield "    # GUESS: values beyond a full turn look like degrees. Unit 1 keeps the dataset's numbers as they"
        yield "    # are; arms take rad: `scale: 0.0174533` in the mapping of the import makes them so."
    for value in values:
        unit, other, factor = _units(value, degrees)
        if other and not convert:
            unit, factor = '"1"', 1.0
        seen = "nothing recorded"
        if value.low is not None and value.high is not None:
            seen = f"recorded {value.low * factor:.4g} to {value.high * factor:.4g}"
        name = _text(value.name)
        if not _is_gripper(value):
            yield f"    - {{name: {name}, unit: {unit}}}   # GUESS of the unit; {seen}"
            continue
        yield f"    - name: {name}   # {seen}"
        yield f'      unit: {unit}   # GUESS: fraction is 0 to 1; else rad, m or "1"'
        yield "      kind: gripper"
        yield _fill("      low:", f"its value at one end; {seen}")
        yield _fill("      high:", f"its value at the other end; {seen}")


def _is_gripper(value: _Value) -> bool:
    return _GRIPPER.search(value.name) is not None


def _other_lines(topics: Sequence[Topic], used: Sequence[Topic]) -> Iterator[str]:
    for topic in topics:
        for kind in topic.types:
            if kind not in _OTHERS or topic in used:
                continue
            if kind in MESSAGE_TYPES:
                yield f"  # GUESS: {topic.name} ({kind}) is left out: {_OTHERS[kind]}. A piece can say it."
            else:
                yield f"  # CANNOT BE SAID: {topic.name} ({kind}): {_OTHERS[kind]}."


def _alignment_lines(
    cameras: Sequence[_Camera], topics: Sequence[Topic], states: Sequence[Topic], commands: Sequence[Topic]
) -> Iterator[str]:
    scene = [camera for camera in cameras if not re.search("wrist|hand|eye_in|gripper", camera.name)]
    yield "alignment:"
    yield f"  reference: {(scene or cameras)[0].name}   # GUESS: the camera whose frames are the steps"
    for key, rates in (
        ("camera", [camera.rate_hz for camera in cameras]),
        ("state", [topic.rate_hz for topic in states]),
        ("command", [topic.rate_hz for topic in commands or states]),
    ):
        slowest = min((rate for rate in rates if rate), default=None)
        tolerance_s = max(_USUAL_TOLERANCE_S, math.ceil(120 / slowest) / 100 if slowest else 0.0)
        yield f"  {key}_tolerance_s: {tolerance_s:g}   # GUESS: the slowest has {_number(slowest)} Hz"


def _instruction_lines(topics: Sequence[Topic]) -> Iterator[str]:
    texts = [t.name for t in topics if t.types == ("std_msgs/msg/String",) and "instruction" in t.name]
    if texts:
        yield f"instruction_topic: {texts[0]}"
    else:
        yield "# The bag has no instruction: give one when you convert it (--instruction)."


def _values(key: str, feature: dict[str, Any], ranges: dict[str, Any]) -> list[_Value]:
    """The numbers of a feature of a dataset."""
    names = feature.get("names")
    if isinstance(names, dict):
        names = next(iter(names.values()), None)
    width = math.prod(feature["shape"])
    if not isinstance(names, list) or len(set(map(str, names))) != width:
        names = [f"{key.rsplit('.', 1)[-1]}_{i}" for i in range(width)]
    low, high = (ranges.get(bound) or [None] * width for bound in ("min", "max"))
    return [_Value(name=str(n), low=a, high=b) for n, a, b in zip(names, low, high, strict=True)]


def _ranges(root: Path) -> dict[str, Any]:
    file = root / "meta/stats.json"
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except ValueError as error:
        raise IngestError(f"cannot read {file}: {error}") from None
    return found


def _fill(key: str, what: str) -> str:
    return f"{key}   # FILL IN: {what}"


def _number(rate_hz: float | None) -> str:
    return "an unknown rate" if rate_hz is None else f"{rate_hz:.4g}"


def _text(value: str) -> str:
    """A name as YAML reads it back."""
    return dump_yaml([value]).removeprefix("- ").strip()
