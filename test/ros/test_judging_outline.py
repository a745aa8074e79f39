"""A stain's outline is clicked in the picture, before and after it was wiped: the picture's own share is scored.

The page and the rollout's console are real; the pictures are drawn, and the stack's services answer without a stack.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from console_harness import NEEDS_CHROMIUM, PATIENCE_MS, sync_api
from ros_harness import World, wait_until
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger

from lavla_ros import topics
from lavla_ros.console.access import Access, address_of, listening_at
from lavla_ros.contract import load_contract
from lavla_ros.defaults import BUNDLED_POLICY
from lavla_ros.ros.messages import IMAGE_QOS, ImageBuffer
from lavla_ros.yaml_text import dump_yaml
from sim_bridges.judging.folder import JudgingFolder
from sim_bridges.judging.overlay import read_picture

page_of = pytest.importorskip("sim_bridges.judging.page", reason="NiceGUI is not installed")
uvicorn = pytest.importorskip("uvicorn")
pytestmark = NEEDS_CHROMIUM

STAIN = [(52, 60), (150, 48), (171, 120), (118, 160), (60, 131)]
LEFT = [(118, 160), (75, 138), (90, 105), (140, 120)]
"""Corners of the stain before and after, px."""
TABLE, DARK = (196, 178, 150), (40, 30, 25)


def picture_of(corners: list[tuple[int, int]]) -> Any:
    """(H, W, 3) uint8: a dark stain on a table, as the reference camera sees it."""
    picture = np.full((224, 224, 3), TABLE, np.uint8)
    return cv2.fillPoly(picture, [np.array(corners, np.int32)], DARK)


def stained_px(picture: Any) -> int:
    return int((np.abs(picture.astype(int) - DARK).sum(axis=2) < 30).sum())


class Stack:
    """What a rollout asks of its stack, and the reference camera's pictures."""

    def __init__(self, world: World) -> None:
        self.asked: list[str] = []
        self.shows = picture_of(STAIN)
        contract = load_contract("jaka_minicobo")
        spec = next(each for each in contract.cameras if each.name == contract.alignment.reference)
        self._buffer = ImageBuffer(spec.name)
        self._publisher = world.publisher(Image, contract.wire(spec.observation_topic), IMAGE_QOS, subscribers=0)
        names = (topics.EXECUTOR_HOLD, topics.EXECUTOR_RESUME, topics.EPISODE_START, topics.EPISODE_STOP)
        for name in names:
            world.node.create_service(Trigger, name, lambda _, answer, name=name: self._answer(name, answer))
        marking = topics.EPISODE_MARK
        world.node.create_service(SetBool, marking, lambda asked, answer: self._answer(f"mark {asked.data}", answer))
        world.node.create_timer(0.1, self._show)

    def _answer(self, name: str, answer: Any) -> Any:
        self.asked.append(name)
        answer.success, answer.message = True, "bag"
        return answer

    def _show(self) -> None:
        self._publisher.publish(self._buffer.fill(self.shows, time.time_ns()))


@pytest.fixture
def address(world: World, tmp_path: Path) -> Iterator[str]:
    """Of the page of one rollout of a wiping task."""
    task = {"rubric": "wipe", "instruction": "wipe the dark stain from the table", "rollouts": 1}
    protocol = tmp_path / "protocol.yaml"
    models = {"bundled": {"policy": BUNDLED_POLICY}}
    protocol.write_text(dump_yaml({"models": models, "tasks": {"wipe_stain": task}, "idle_s": 600.0}))
    with JudgingFolder.open(protocol, tmp_path / "out") as folder:
        words = ["sim_bridges.judging.console", "--folder", str(folder.path), "--rollout", "0"]
        command = page_of.Command(words)
        listening = listening_at("localhost", 0)
        web = Access(page_of.application(command, folder.path, title="wiping"), host="localhost")
        server = uvicorn.Server(uvicorn.Config(web, log_level="warning", ws="websockets-sansio"))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])), daemon=True)
        thread.start()
        yield address_of(listening, "localhost", "")
        server.should_exit = True
        thread.join(20.0)
        command.close()


def test_the_share_is_that_of_the_outlines_that_were_clicked(
    browser: Any, address: str, world: World, tmp_path: Path
) -> None:
    stack = Stack(world)
    page = browser.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(address)
    picture, text = page.locator(".judged img").first, page.get_by_label("Note, what went wrong")

    def presses(button: str) -> None:
        found = page.get_by_role("button", name=button, exact=True)
        sync_api.expect(found).to_be_enabled(timeout=PATIENCE_MS)
        found.click()

    def says(what: str) -> None:
        sync_api.expect(page.locator(".screen")).to_contain_text(what, timeout=PATIENCE_MS)

    def clicks_around(corners: list[tuple[int, int]]) -> None:
        for number, (x, y) in enumerate(corners, start=1):
            picture.scroll_into_view_if_needed()
            box = picture.bounding_box()
            assert box is not None
            page.mouse.click(box["x"] + (x + 0.5) * box["width"] / 224, box["y"] + (y + 0.5) * box["height"] / 224)
            wait_until(lambda number=number: len(text.input_value().split()) == number, "a corner")
        sync_api.expect(page.locator("polygon.outline")).to_have_count(1)  # it is drawn

    says("Enter: begin")
    wait_until(lambda: picture.evaluate("i => i.naturalWidth") == 224, "what the camera sees")
    clicks_around(STAIN)
    page.screenshot(path=tmp_path / "outline.png")
    presses("Outline (o)")
    says("outline before: kept")
    sync_api.expect(page.locator("polygon.outline")).to_have_count(0)
    presses("Begin")
    says("RUNNING")
    page.wait_for_timeout(1000 * page_of.AGAIN_S)  # the same button so soon would be the second of a double click
    presses("Over")
    stack.shows = picture_of(LEFT)
    says("u: undo    n: note    e: error    Enter: these scores count")

    # an outline whose sides cross is none, and nothing is scored
    clicks_around([LEFT[0], LEFT[2], LEFT[1], LEFT[3]])
    presses("Outline (o)")
    says("of an outline cross")
    sync_api.expect(page.locator(".scores")).to_have_text("wiped share: –")
    page.wait_for_timeout(1000 * page_of.AGAIN_S)
    clicks_around(LEFT)
    presses("Outline (o)")
    says("wiped share: 0.")
    presses("These scores count")
    sync_api.expect(page.locator(".said")).to_contain_text("Judging has ended", timeout=PATIENCE_MS)

    folder = JudgingFolder.read(tmp_path / "out")
    sheet = folder.scored(folder.rollouts[0])
    assert sheet is not None and set(sheet.outlines) == {"before", "after"}
    (share,) = sheet.values(folder.protocol.tasks["wipe_stain"].scored_by)
    truly = 1.0 - stained_px(picture_of(LEFT)) / stained_px(picture_of(STAIN))
    assert 0.7 < truly < 0.9 and share == pytest.approx(truly, abs=0.02)
    assert stained_px(read_picture(folder.picture(folder.rollouts[0], "initial"))) == stained_px(picture_of(STAIN))
    assert stack.asked[-2:] == ["mark False", topics.EPISODE_STOP], "less than 95% is no success"
