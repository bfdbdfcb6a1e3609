"""Addresses of e-mail in a text: by form, and a host that could exist. Knows no policy."""

import re
from collections.abc import Callable, Iterator

_LOCAL = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,128}\Z")
_HOST = re.compile(r"[^\W_]+(?:-+[^\W_]+)*(?:\.[^\W_]+(?:-+[^\W_]+)*){1,12}")
_BEFORE = 128
"""Characters before an @ that are looked at: twice what RFC 5321 allows."""
_INTERNAL = frozenset(
    ("corp", "home", "internal", "intranet", "intra", "lan", "local", "localdomain", "private")
)
"""Last labels of hosts that no registry knows and companies use (RFC 6762, appendix G; ICANN's .internal)."""


def email_finder() -> Callable[[str], Iterator[tuple[int, int]]]:
    """Return what yields the start and end of each address.

    The list of public suffixes is the one in tldextract's package: a newer one would be fetched from the network,
    in the middle of a request.

    Raises:
        ModuleNotFoundError: the extra `policy` is not installed.

    """
    import tldextract

    extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)

    def length(host: str) -> int:
        """Return how much of a host could exist: behind it may stand the next sentence without a space."""
        labels = host.split(".")
        for count in range(len(labels), 1, -1):
            part = ".".join(labels[:count])
            if labels[count - 1].casefold() in _INTERNAL or extract(part).fqdn:
                return len(part)
        return 0

    def find(text: str) -> Iterator[tuple[int, int]]:
        at = text.find("@")
        while at >= 0:
            name = _LOCAL.search(text, max(0, at - _BEFORE), at)
            host = _HOST.match(text, at + 1)
            if name is not None and host is not None and (long := length(host.group())):
                yield name.start(), at + 1 + long
            at = text.find("@", at + 1)

    return find
