"""Publishers of any quality of service are heard, or named with the reason."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_harness import World, image_message, picture, wait_until
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from lavla_ros.ros.diagnostics import Report
from lavla_ros.ros.inputs import Inputs
from lavla_ros.ros.lifecycle import wall_ns
from lavla_ros.ros.messages import LATCHED_QOS, joint_state
from lavla_ros.ros.scope import Scope

RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT
VOLATILE, LATCHED = DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL


@pytest.fixture
def talker() -> Iterator[World]:
    """Somebody else's process, as far as DDS is concerned."""
    made = World()
    try:
        yield made
    finally:
        made.close()


def qos(reliability: Any = RELIABLE, durability: Any = VOLATILE) -> QoSProfile:
    return QoSProfile(depth=10, reliability=reliability, durability=durability)


def test_every_stream_and_latched_topic_hears_every_quality_of_service(world: World, talker: World) -> None:
    """The matrix: reliability x durability x (image, joint state, instruction, episode state), each alone and once."""
    topics: dict[str, tuple[Any, Any, bool]] = {
        "/observation/front": (Image, image_message(picture(0, 480, 640), 1), False),
        "/joint_states": (JointState, joint_state(["joint_1"]), False),
        "/instruction": (String, String(data="Put the mango into the bowl."), True),
        "/episode/state": (String, String(data="{}"), True),
    }
    heard: dict[str, list[Any]] = {topic: [] for topic in topics}
    inputs = Inputs(Scope(world.node))
    for topic, (kind, _, latched) in topics.items():
        inputs.add(kind, topic, heard[topic].append, latched=latched)
    for reliability, durability in itertools.product((RELIABLE, BEST_EFFORT), (VOLATILE, LATCHED)):
        what = f"{reliability.name}, {durability.name}"
        publishers = {
            topic: talker.publisher(kind, topic, qos(reliability, durability)) for topic, (kind, *_) in topics.items()
        }
        for topic, (_, message, _) in topics.items():
            publishers[topic].publish(message)
            wait_until(lambda topic=topic: heard[topic], f"{topic} from a publisher that is {what}")
        for topic, publisher in publishers.items():
            assert len(heard[topic]) == 1, f"{topic} was taken twice from a publisher that is {what}"
            heard[topic].clear()
            talker.node.destroy_publisher(publisher)
        wait_until(lambda: not inputs["/joint_states"].publishers, "the graph forgets them")


def test_a_best_effort_publisher_beside_a_reliable_one_is_heard_too(world: World, talker: World) -> None:
    heard: list[float] = []
    inputs = Inputs(Scope(world.node))
    inputs.add(JointState, "/joint_states", lambda m: heard.append(m.position[0]))

    def state(value: float) -> JointState:
        return JointState(name=["joint_1"], position=[value])

    reliable = talker.publisher(JointState, "/joint_states", qos(RELIABLE))
    reliable.publish(state(1.0))
    wait_until(lambda: heard == [1.0], "the reliable one")
    best_effort = talker.publisher(JointState, "/joint_states", qos(BEST_EFFORT))
    best_effort.publish(state(2.0))
    wait_until(lambda: 2.0 in heard, "the best-effort one")
    wait_until(lambda: reliable.get_subscription_count() == 1, "the reliable one has found the new subscription")
    reliable.publish(state(3.0))
    wait_until(lambda: 3.0 in heard, "the reliable one, still")


def test_the_last_word_counts_whoever_says_it(world: World, talker: World) -> None:
    """A volatile instruction follows a latched one, a latched one follows that; nothing is heard twice or undone."""
    latched = talker.node.create_publisher(String, "/instruction", LATCHED_QOS)
    latched.publish(String(data="A"))
    heard: list[str] = []
    inputs = Inputs(Scope(world.node))
    inputs.add(String, "/instruction", lambda m: heard.append(m.data), latched=True)
    wait_until(lambda: heard == ["A"], "what was said before somebody listened")
    wait_until(lambda: latched.get_subscription_count() == 3, "every subscription")
    volatile = talker.publisher(String, "/instruction", qos(), subscribers=2)
    for publisher, text in ((volatile, "B"), (latched, "C"), (volatile, "B")):
        publisher.publish(String(data=text))
        wait_until(lambda text=text: heard[-1] == text, text)
    assert heard == ["A", "B", "C", "B"]


def test_publishers_are_named_that_are_there_absent_silent_or_of_another_type(world: World, talker: World) -> None:
    inputs = Inputs(Scope(world.node))
    front = inputs.add(Image, "/camera/front/image_raw", lambda _: None)
    talker.publisher(Image, "/camera/camera/color/image_raw", subscribers=0)
    wait_until(lambda: "/camera/camera/color/image_raw" in front.absence(wall_ns()), "the topic that was meant")
    assert front.absence(wall_ns()).startswith("no node publishes /camera/front/image_raw; topics with sensor_msgs")
    another = World()
    another.publisher(String, "/camera/front/image_raw", subscribers=0)
    wait_until(lambda: "/world publishes it as std_msgs/msg/String" in front.absence(wall_ns()), "the wrong type")
    another.close()
    talker.publisher(Image, "/camera/front/image_raw", qos(BEST_EFFORT))
    silent = "/world (best effort) publishes /camera/front/image_raw, but nothing has arrived so far"
    wait_until(lambda: front.absence(wall_ns()) == silent, "the silent one")
    report = Report("camera: lavla", "/camera")
    inputs.report(report)
    values = {pair.key: pair.value for pair in report.finish("").values}
    assert values["/camera/front/image_raw.publishers"] == "/world (best effort)"


def test_a_stream_that_loses_messages_says_how_many(world: World, talker: World) -> None:
    """A subscriber that is too slow for what is sent at once keeps the newest and counts the rest."""
    inputs = Inputs(Scope(world.node))
    blocked = threading.Event()
    states = inputs.add(JointState, "/joint_states", lambda _: blocked.wait(10.0), depth=4)
    publisher = talker.publisher(JointState, "/joint_states", qos(BEST_EFFORT))
    wait_until(lambda: len(states.publishers) == 1 and not states.publishers[0].reliable, "the publisher")
    wait_until(lambda: publisher.get_subscription_count() == 1, "the subscription that suits it")
    publisher.publish(joint_state(["joint_1"]))
    wait_until(lambda: states.received == 1, "the message that it is busy with")
    for _ in range(29):
        publisher.publish(joint_state(["joint_1"]))
    blocked.set()
    wait_until(lambda: states.received + states.lost == 30, "the newest")
    assert states.lost == 25
    report = Report("camera: lavla", "/camera")
    inputs.report(report)
    assert f"{states.lost} of" in report.finish("").message


def test_what_is_asked_for_wakes_nobody_and_is_the_newest(world: World, talker: World) -> None:
    """As a page looks at an arm that says where it is at 125 Hz: whatever the publisher's quality of service."""
    inputs = Inputs(Scope(world.node))
    states = inputs.add(JointState, "/joint_states", None, depth=1)
    said = []
    world.node.create_subscription(String, "/last", lambda m: said.append(m.data), 1)
    last = talker.publisher(String, "/last", qos())
    for reliability in (RELIABLE, BEST_EFFORT):
        publisher = talker.publisher(JointState, "/joint_states", qos(reliability), subscribers=0)
        suits = reliability is RELIABLE
        wait_until(
            lambda suits=suits: [p.reliable for p in states.publishers] == [suits], f"{reliability.name} is seen"
        )
        wait_until(lambda publisher=publisher: publisher.get_subscription_count() == 1, "what suits it")
        for number in range(30):
            publisher.publish(JointState(name=["joint_1"], position=[float(number)]))
        last.publish(String(data=reliability.name))
        wait_until(lambda reliability=reliability: said[-1:] == [reliability.name], "the executor, after all of them")
        taken = states.received
        time.sleep(0.3)
        assert states.received == taken, "nobody has asked"
        count, message = states.newest()
        assert (count, message.position[0], states.lost) == (taken + 1, 29.0, 0)
        assert 0.3 <= states.silent_for_s(wall_ns()) < 5.0, "it is as old as when it arrived, not as when it was taken"
        assert states.newest() == (count, message), "nothing has come since"
        talker.node.destroy_publisher(publisher)
        wait_until(lambda: not states.publishers, "the graph forgets it")
