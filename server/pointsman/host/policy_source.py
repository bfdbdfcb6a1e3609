"""A gate that follows the policy file. Without one, the gate is open."""

from collections.abc import Callable
from pathlib import Path

from pointsman.catalog.policy_file import read_policy
from pointsman.errors import ConfigError
from pointsman.host.last_good import LastGood
from pointsman.policy.detect import Detector
from pointsman.policy.gate import Gate
from pointsman.values.kinds import PRESIDIO
from pointsman.values.policy import SECRET, Action, Policy


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

    def redact_stored(self, why: str) -> None:
        """While there is no policy, take every kind that needs no language model out of texts that are stored.

        Raises:
            ConfigError: the extra `policy` is missing; `why` names the setting that wants it.

        """
        policy = Policy(actions=dict.fromkeys((*PRESIDIO, SECRET), Action.REDACT))
        try:
            self.gate.redact_stored(policy, Detector(policy, self._cache))
        except ConfigError as error:
            raise ConfigError(f"{why}: texts are stored redacted, and {error}") from None

    def _apply(self, path: Path) -> int:
        policy = read_policy(path)
        self.gate.replace(policy, Detector(policy, self._cache))
        return len(policy.kinds)
