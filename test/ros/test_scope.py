"""What a lifecycle node has made is given back by itself, in the reverse order, also after half a start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from rclpy.context import Context
from rclpy.lifecycle import TransitionCallbackReturn
from std_msgs.msg import String
from std_srvs.srv import Trigger

from lavla_ros.ros.lifecycle import LavlaNode


class Made(LavlaNode):
    """A publisher while configured, a service and a subscription while active; ``fails`` names a hook that raises."""

    fails = ""

    def __init__(self, **options: Any) -> None:
        super().__init__("made", **options)
        self.log: list[str] = []

    def _do(self, hook: str) -> None:
        self.log.append(hook)
        if self.fails == hook:
            raise RuntimeError(hook)

    def setup(self) -> None:
        self.configured.publisher(String, "words", 1)
        self.configured.callback(self.log.append, "configured closed")
        self._do("setup")

    def start(self) -> None:
        self.activated.service(Trigger, "ask", lambda _, response: response)
        self.activated.subscription(String, "words", lambda _: None, 1)
        self.activated.callback(self.log.append, "activated closed")
        self._do("start")

    def stop(self) -> None:
        self._do("stop")

    def teardown(self) -> None:
        self._do("teardown")

    @property
    def present(self) -> set[str]:
        made = [p.topic_name for p in self.publishers] + [s.topic_name for s in self.subscriptions]
        made += [s.srv_name for s in self.services]
        return {name for name in made if name.endswith(("words", "ask"))}


@pytest.fixture
def node() -> Iterator[Made]:
    context = Context()
    context.init()
    made = Made(context=context)
    yield made
    made.destroy_node()
    context.shutdown()


def test_it_goes_in_the_reverse_order_and_can_be_made_again(node: Made) -> None:
    for _ in range(2):
        node.log.clear()
        assert node.bring_up() and len(node.present) == 2
        node.trigger_deactivate()
        assert node.present == {"/words"}
        node.trigger_cleanup()
        assert node.present == set()
        closed = ["stop", "activated closed", "teardown", "configured closed"]
        assert node.log == ["setup", "start", *closed]


@pytest.mark.parametrize("hook", ["setup", "start"])
def test_half_a_start_leaves_nothing(node: Made, hook: str) -> None:
    node.fails = hook
    assert not node.bring_up()
    assert node.present == (set() if hook == "setup" else {"/words"})
    node.bring_down()
    assert node.present == set() and node.log[-1] == "configured closed"


def test_a_node_that_cannot_stop_stays_active_with_all_it_has_until_the_process_ends(node: Made) -> None:
    assert node.bring_up()
    node.fails = "stop"
    assert node.trigger_deactivate() != TransitionCallbackReturn.SUCCESS and node.active
    assert len(node.present) == 2 and "activated closed" not in node.log
    node.bring_down()
    assert node.present == set() and node.log[-1] == "configured closed"
