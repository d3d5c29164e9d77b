"""A library's own lines on the error stream: held back, and told when it fails."""

import os

import pytest

from students.exporters.quiet import quiet_natively


def test_lines_are_held_back_and_the_stream_is_the_old_one_after(
    capfd: pytest.CaptureFixture,
) -> None:
    with quiet_natively():
        os.write(2, b"looking for a processor\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_lines_are_told_when_it_fails(capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(ValueError, match="no such method"), quiet_natively():
        os.write(2, b"what was wrong\n")
        raise ValueError("no such method")
    assert capfd.readouterr().err == "what was wrong\n"
