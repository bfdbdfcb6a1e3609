"""What a log line looks like, and what it never holds."""

import io
import json
import os
import pty
import subprocess
import sys
import threading

import pytest

from pointsman.host.logs import Lines

FAILS = """
import structlog
from pointsman.host.logs import configure_logs
from pointsman.sections import Log

def answer(prompt, authorization):
    raise ValueError("boom")

configure_logs(Log(format={format!r}))
try:
    answer("my " + "IBAN", "Bearer " + "pm_" + "secret")
except ValueError as error:
    structlog.get_logger().error("http.failed", exc_info=error)
"""


@pytest.mark.parametrize("style", ["pretty", "json"])
def test_a_traceback_shows_where_and_no_local_variable(style: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FAILS.format(format=style)], capture_output=True, text=True, check=True
    )
    assert "boom" in ran.stderr
    assert "http.failed" in ran.stderr
    assert "in answer" in ran.stderr
    assert "my IBAN" not in ran.stderr
    assert "pm_secret" not in ran.stderr
    assert ran.stdout == ""


SAYS = """
import structlog
from pointsman.host.logs import configure_logs
from pointsman.sections import Log
configure_logs(Log())
structlog.get_logger().info("server.ready", port=50051)
"""


def test_by_default_a_pipe_gets_one_json_object_a_line() -> None:
    ran = subprocess.run([sys.executable, "-c", SAYS], capture_output=True, text=True, check=True)
    (line,) = ran.stderr.splitlines()
    told = json.loads(line)
    assert (told["event"], told["port"], told["level"]) == ("server.ready", 50051, "info")
    assert ran.stdout == ""


def test_by_default_a_terminal_gets_lines_for_people() -> None:
    terminal, side = pty.openpty()
    try:
        outside = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
        subprocess.run([sys.executable, "-c", SAYS], stderr=side, env=outside | {"TERM": "xterm"}, check=True)
        shown = os.read(terminal, 4096).decode()
    finally:
        os.close(side)
        os.close(terminal)
    assert "server.ready" in shown
    assert "\x1b[" in shown  # colours
    assert "{" not in shown


class Stream(io.StringIO):
    """Counts the times it is written to."""

    writes = flushes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        return super().write(text)

    def flush(self) -> None:
        self.flushes += 1


def test_lines_of_a_moment_are_written_in_one_go_whoever_says_them() -> None:
    stream = Stream()
    lines = Lines(stream)
    lines.write("before\n")
    with lines.together():
        lines.write("one\n")
        other = threading.Thread(target=lambda: (lines.write("two\n"), lines.flush()))
        other.start()
        other.join()
        assert stream.getvalue() == "before\n"
    assert (stream.getvalue(), stream.writes, stream.flushes) == ("before\none\ntwo\n", 2, 1)
    lines.write("after\n")
    assert stream.getvalue().endswith("two\nafter\n")


def test_lines_of_a_moment_that_fails_are_written_too() -> None:
    stream = Stream()
    lines = Lines(stream)
    with pytest.raises(ValueError, match="boom"), lines.together():
        lines.write("one\n")
        raise ValueError("boom")
    assert stream.getvalue() == "one\n"
