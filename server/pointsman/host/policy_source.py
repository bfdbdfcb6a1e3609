"""A gate that follows the policy file. Without one, the gate is open."""

from collections.abc import Callable
from pathlib import Path

from pointsman.catalog.policy_file import read_policy
from pointsman.host.last_good import LastGood
from pointsman.policy.detect import Detector
from pointsman.policy.gate import Gate


class PolicySource(LastGood):
    """The policy file. One that breaks or goes leaves the gate as it was: never open."""

    def __init__(
        self, path: Path, cache: Path, known: Callable[[], bool] = lambda: True, *, required: bool = False
    ) -> None:
        """Read the file, and load what finds what it is about.

        known: whether callers show who they are

        Raises:
            ConfigError: it is there, and cannot be used, or the extra `policy` is missing; or it must be there.

        """
        self.gate = Gate(known=known)
        self._cache = cache
        super().__init__("policy", path, self._apply, required="policy.required" if required else "")

    def _apply(self, path: Path) -> int:
        policy = read_policy(path)
        self.gate.replace(policy, Detector(policy, self._cache))
        return len(policy.kinds)
