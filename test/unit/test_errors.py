"""Which errors are shown as one line, and which keep their traceback."""

import errno

import pytest

from lavla_ros.errors import DIVERGED, UserError, is_users, one_line_errors
from training.loop import DivergedError


class RecipeError(UserError, ValueError):
    """As the classes of the project are."""


@pytest.mark.parametrize(
    "error",
    [
        RecipeError("steps is -1; expected at least 1"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "bags"),
        FileNotFoundError("config/contracts/arm.yaml does not exist; available: jaka_minicobo"),
        PermissionError(errno.EACCES, "Permission denied", "bags"),
        OSError(errno.ENOSPC, "No space left on device", "bags/0.mcap"),
        OSError(errno.EADDRINUSE, "Address already in use"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_status_1(error, capfd):
    with pytest.raises(SystemExit) as ended, one_line_errors("lavla"):
        raise error
    assert ended.value.code == 1
    assert capfd.readouterr().err == f"lavla: {error}\n"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("shapes (3, 4) and (5, 6) not aligned"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        OSError(errno.EBADF, "Bad file descriptor"),
        OSError("cannot allocate"),
        KeyError("gripper"),
    ],
)
def test_a_fault_of_the_program_keeps_its_traceback(error):
    assert not is_users(error)
    with pytest.raises(type(error)) as passed, one_line_errors("lavla"):
        raise error
    assert passed.value is error


def test_a_training_that_diverged_is_told_by_its_status(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, one_line_errors("lavla train"):
        raise DivergedError("step 3: the loss is nan")
    assert ended.value.code == DIVERGED == 3
    assert capfd.readouterr().err == "lavla train: step 3: the loss is nan\n"


def test_an_error_can_still_be_handled_as_what_it_was():
    with pytest.raises(ValueError, match="steps"):
        raise RecipeError("steps is -1")
