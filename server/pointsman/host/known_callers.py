"""Doors that follow the file of known callers. Without one, everybody comes in."""

from pathlib import Path

from pointsman.catalog.callers_file import read_callers
from pointsman.host.last_good import LastGood
from pointsman.service.doors import Doors


class KnownCallers(LastGood):
    """The file of known callers. One that breaks or goes leaves the doors as they were: never open."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            ConfigError: it is there, and cannot be used.

        """
        self.doors = Doors()
        super().__init__("callers", path, self._let_in)

    def _let_in(self, path: Path) -> int:
        callers = read_callers(path)
        self.doors.replace(callers)
        return len(callers)
