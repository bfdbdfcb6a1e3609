"""What a log line looks like, and what it never holds."""

import subprocess
import sys

import pytest

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
