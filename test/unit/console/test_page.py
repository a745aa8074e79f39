"""What a click on the console's page says when it cannot be done."""

from __future__ import annotations

import asyncio
import errno

import pytest

page_of = pytest.importorskip("lavla_ros.console.page", reason="NiceGUI is not installed")


class Clicked(page_of.Page):  # type: ignore[misc]
    """A page of which only the line at its end is there."""

    def __init__(self) -> None:
        self._busy, self._clicked, self.said = False, ("", 0.0), list[tuple[str, bool]]()

    def _say(self, text: str, *, bad: bool = False) -> None:
        self.said.append((text, bad))

    async def _refresh(self) -> None:
        pass


def click(error: Exception) -> Clicked:
    page = Clicked()

    async def action() -> str:
        raise error

    asyncio.run(page._do("Note", action))
    return page


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "label.json"), "No space left on device: 'label.json'"),
        (PermissionError(errno.EACCES, "Permission denied", "label.json"), "Permission denied: 'label.json'"),
        (page_of.UserErrorText("the instruction is empty"), "the instruction is empty"),
    ],
)
def test_what_a_person_can_put_right_is_told_and_the_next_click_counts(error: Exception, words: str) -> None:
    page = click(error)
    ((said, bad),) = page.said
    assert said.startswith("Refused: ") and words in said and bad

    async def action() -> str:
        return "done"

    asyncio.run(page._do("Success", action))
    assert page.said[-1] == ("done", False)


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        click(ZeroDivisionError())
