"""What a Foxglove that is connected is told: the messages themselves, in the schemas that our bags have."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_harness import World, fails_to_start, image_message, picture, running
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from lavla_ros.contract import load_contract
from lavla_ros.ros.messages import IMAGE_QOS, LATCHED_QOS, STATE_QOS, joint_state, recorded_topics

pytest.importorskip("foxglove", reason="pip install lavla_ros[foxglove]")
from websockets.sync.client import ClientConnection, connect

MODULE = "lavla_ros.nodes.viewer_node"
CONTRACT = load_contract("jaka_minicobo")
WRIST = CONTRACT.camera("wrist")


class Foxglove:
    """Foxglove's side of its protocol: a server says what there is, a client which channels it wants."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.channels: dict[str, dict[str, Any]] = {}
        self.info: dict[str, Any] = {}
        while not self.info or not self.channels:
            told = json.loads(socket.recv(timeout=15.0))
            if told["op"] == "serverInfo":
                self.info = told
            if told["op"] == "advertise":
                self.channels |= {channel["topic"]: channel for channel in told["channels"]}

    def subscribe(self, topic: str) -> None:
        wanted = {"id": self.channels[topic]["id"], "channelId": self.channels[topic]["id"]}
        self._socket.send(json.dumps({"op": "subscribe", "subscriptions": [wanted]}))

    def read(self, topic: str) -> Any:
        """The next message on ``topic``, deserialised by the schema that the server told."""
        channel = self.channels[topic]
        while True:
            data = self._socket.recv(timeout=15.0)
            if isinstance(data, bytes) and struct.unpack_from("<BI", data) == (1, channel["id"]):
                store = get_typestore(Stores.EMPTY)
                store.register(get_types_from_msg(channel["schema"], channel["schemaName"]))
                return store.deserialize_cdr(data[13:], channel["schemaName"])


@contextmanager
def foxglove(port: int) -> Iterator[Foxglove]:
    with connect(f"ws://127.0.0.1:{port}", subprotocols=["foxglove.sdk.v1"], max_size=None) as socket:  # type: ignore[list-item]
        yield Foxglove(socket)


def test_foxglove_sees_what_would_be_recorded(world: World, tmp_path: Path) -> None:
    with running(MODULE, "viewer", tmp_path, port=0) as node:
        (port,) = re.findall(r"ws://127\.0\.0\.1:(\d+)", node.output)
        instruction = world.publisher(String, "/instruction", LATCHED_QOS)
        instruction.publish(String(data="Put the mango into the bowl."))
        images = world.publisher(Image, WRIST.observation_topic, IMAGE_QOS)
        states = world.publisher(JointState, "/joint_states", STATE_QOS)
        with foxglove(int(port)) as first:
            assert set(first.channels) == set(recorded_topics(CONTRACT, "observation"))
            assert first.info["capabilities"] == [], "it only tells: nothing can be published or called through it"
            for topic in (WRIST.observation_topic, "/joint_states", "/instruction"):
                first.subscribe(topic)
            # taken in order: when it is told what was said before, it hears the others
            assert first.read("/instruction").data == "Put the mango into the bowl."
            pixels = picture(7, WRIST.height, WRIST.width)
            state = joint_state(CONTRACT.state.names)
            state.position = [0.1 * i for i in range(CONTRACT.state_dim)]
            images.publish(image_message(pixels, 1_000_000_000))
            states.publish(state)
            shown = first.read(WRIST.observation_topic)
            assert np.array_equal(shown.data.reshape(pixels.shape), pixels)
            heard = first.read("/joint_states")
            assert heard.name == list(CONTRACT.state.names) and heard.position.tolist() == list(state.position)
        with foxglove(int(port)) as second:
            second.subscribe("/instruction")
            assert second.read("/instruction").data == "Put the mango into the bowl."
        again = fails_to_start(MODULE, "second", tmp_path, port=int(port))
        assert f"127.0.0.1:{port}" in again and "choose another port" in again
