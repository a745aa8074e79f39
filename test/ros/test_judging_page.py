"""The judging room in a real browser: a rollout on the simulated tabletop is begun, scored and noted on the page."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from console_harness import NEEDS_CHROMIUM, PATIENCE_MS, chromium, served, sync_api
from ros_harness import wait_until
from test_judge import PROTOCOL

from lavla_ros.yaml_text import dump_yaml
from sim_bridges.evaluation.results import Results
from sim_bridges.judging.folder import JudgingFolder
from sim_bridges.judging.page import AGAIN_S, PLAIN, WAITING, WRITTEN

pytestmark = [pytest.mark.alone, NEEDS_CHROMIUM]


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Of the page of a comparison in the folder ``out``."""
    (tmp_path / "protocol.yaml").write_text(dump_yaml(PROTOCOL | {"idle_s": 10.0}))
    words = ["judge", "protocol.yaml", "--out", "out", "--page", "--port", "0"]
    with served(words, tmp_path, tmp_path / "judge.log") as found:
        yield found


def test_what_is_wrong_with_a_protocol_is_told_instead_of_a_page(tmp_path: Path) -> None:
    (tmp_path / "protocol.yaml").write_text(dump_yaml(PROTOCOL | {"models": {"gone": {"policy": "nowhere"}}}))
    command = [sys.executable, "-m", "lavla_ros.cli", "judge", "protocol.yaml", "--out", "out", "--page", "--port", "0"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200.0, check=False)
    assert ended.returncode == 1 and "nowhere" in ended.stdout and "judging: open" not in ended.stdout


def test_a_rollout_is_begun_scored_and_noted_on_the_page(address: str, tmp_path: Path) -> None:
    with urllib.request.urlopen(address) as sent:
        first = sent.read().decode()
    for button in (WAITING, *PLAIN.values(), *WRITTEN.values(), "Quit"):  # before it is known what they would do
        found = re.search(rf'\{{[^{{}}]*"label":"{re.escape(button)}"[^{{}}]*\}}', first)
        assert found is not None and '"disable":true' in found[0], button
    with chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(address)

        def presses(button: str, clicks: int = 1) -> None:
            found = page.get_by_role("button", name=button, exact=True)
            sync_api.expect(found).to_be_enabled(timeout=400_000)
            found.click(click_count=clicks)

        def sees(what: str, text: str) -> None:
            sync_api.expect(page.locator(f".{what}")).to_contain_text(text, timeout=PATIENCE_MS)

        sees("progress", "0 of 1 rollouts have a score")
        sees("task", "pick_place, layout 1")
        sync_api.expect(page.get_by_role("button", name="1: 1", exact=True)).to_be_disabled()
        presses("Start the arm", clicks=2)  # the second is not the beginning of the rollout
        # another browser watches, and a page that is opened again goes on
        watching = browser.new_page()
        watching.goto(address)
        sync_api.expect(watching.locator(".role")).to_have_text("You watch")
        watching.close()
        presses("Begin", clicks=2)  # nor its end
        page.get_by_label("Note, what went wrong").fill("it slipped")
        presses("Note (n)")
        sees("screen", "noted: it slipped")
        page.locator("h1").click()
        page.keyboard.press("1")  # the rubric's own key
        sees("scores", "pick: 1, place: –")
        page.reload()
        presses("0: 0")
        sees("scores", "pick: 1, place: 0")
        presses("Undo (u)")
        sees("scores", "pick: 1, place: –")
        presses("0: 0")
        presses("Over")
        picture = page.locator("img").first
        wait_until(lambda: picture.evaluate("i => i.naturalWidth") == 224, "the last picture")
        page.wait_for_timeout(1000 * AGAIN_S)  # the same button sooner is the second of a double click
        presses("These scores count")
        sees("progress", "1 of 1 rollouts have a score")
        sees("said", "Judging has ended")
        sees("screen", "0/1 succeeded")
    folder = JudgingFolder.read(tmp_path / "out")
    sheet = folder.scored(folder.rollouts[0])
    assert sheet is not None and sheet.notes == ("it slipped",) and sheet.ended == "ended by the judge"
    (episode,) = Results.read(tmp_path / "out" / "results" / "bundled").episodes
    assert (episode.score, episode.success) == (0.5, False)
