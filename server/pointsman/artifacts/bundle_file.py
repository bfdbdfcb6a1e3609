"""One file of named members, each pinned by its sha256: a zip with a manifest, the same bytes for the same content.

The version is a hash over the manifest's table of members, so two bundles of one version hold the same
bytes. Nothing in it is executed or unpickled.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointsman.artifacts.whole_file import whole_file
from pointsman.errors import ArtifactError

FORMAT = 2
"""Of 1, the projection always counts half; who reads that alone would take 2 for it, and score it wrongly."""
_READ = (1, FORMAT)
_MANIFEST = "manifest.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold: no clock in the bytes
_MOST_BYTES = 4 << 30
_MOST_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class BundleFile:
    """What a bundle holds. `version` is 12 hex digits; `facts` are for people, and not hashed."""

    version: str
    facts: dict[str, Any]
    members: dict[str, bytes]


def write_bundle_file(path: Path, facts: Mapping[str, Any], members: Mapping[str, bytes]) -> str:
    """Write a bundle whole or not at all; return its version.

    Raises:
        ArtifactError: the file cannot be written.

    """
    table = {name: _entry(content) for name, content in sorted(members.items())}
    version = _version(table)
    manifest = {"format": FORMAT, "version": version, "facts": dict(facts), "members": table}
    try:
        with whole_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            _add(archive, _MANIFEST, json.dumps(manifest, indent=2).encode())
            for name in table:
                _add(archive, name, members[name])
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written: {error.strerror}") from error
    return version


def read_bundle_file(path: Path) -> BundleFile:
    """Read and verify a bundle.

    Raises:
        ArtifactError: unreadable, of another format, or a member is not the promised one; names the member.

    """
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = _manifest(path, archive)
            table = manifest["members"]
            _check_names(path, archive, table)
            members = {name: _read(path, archive, name, entry) for name, entry in table.items()}
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        raise ArtifactError(f"{path}: not a bundle, or a damaged one: {error}") from error
    if _version(table) != manifest["version"]:
        raise ArtifactError(f"{path}: tampered with: the members do not make version {manifest['version']}")
    return BundleFile(manifest["version"], manifest["facts"], members)


def _manifest(path: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    try:
        info = archive.getinfo(_MANIFEST)
    except KeyError:
        raise ArtifactError(f"{path}: not a bundle: no {_MANIFEST}") from None
    if info.file_size > _MOST_MANIFEST_BYTES:
        raise ArtifactError(f"{path}: {_MANIFEST} is {info.file_size} bytes, more than any bundle's")
    try:
        manifest = json.loads(archive.read(info))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: {_MANIFEST}: not JSON: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format") not in _READ:
        stated = manifest.get("format") if isinstance(manifest, dict) else None
        raise ArtifactError(
            f"{path}: bundle format {stated!r}; this version reads {' and '.join(map(str, _READ))}"
        )
    table = manifest.get("members")
    sound = isinstance(table, dict) and all(
        isinstance(e, dict) and isinstance(e.get("sha256"), str) and isinstance(e.get("bytes"), int)
        for e in table.values()
    )
    if (
        not sound
        or not isinstance(manifest.get("version"), str)
        or not isinstance(manifest.get("facts"), dict)
    ):
        raise ArtifactError(
            f"{path}: {_MANIFEST}: fields version, facts and members are not as they should be"
        )
    return manifest


def _check_names(path: Path, archive: zipfile.ZipFile, table: Mapping[str, Any]) -> None:
    there = archive.namelist()
    strangers = sorted(set(there) - set(table) - {_MANIFEST})
    if strangers:
        raise ArtifactError(f"{path}: tampered with: {strangers[0]} is not in the manifest")
    if len(there) != len(set(there)):
        raise ArtifactError(f"{path}: tampered with: a member stands in it twice")
    if sum(entry["bytes"] for entry in table.values()) > _MOST_BYTES:
        raise ArtifactError(f"{path}: more than {_MOST_BYTES >> 30} GiB")


def _read(path: Path, archive: zipfile.ZipFile, name: str, entry: Mapping[str, Any]) -> bytes:
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise ArtifactError(f"{path}: {name} is missing") from None
    if info.file_size != entry["bytes"]:
        raise ArtifactError(f"{path}: {name} is {info.file_size} bytes, not {entry['bytes']}")
    content = archive.read(info)
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise ArtifactError(f"{path}: tampered with: {name} does not have sha256 {entry['sha256']}")
    return content


def _entry(content: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def _version(table: Mapping[str, Any]) -> str:
    pinned = {name: entry["sha256"] for name, entry in table.items()}
    return hashlib.sha256(json.dumps(pinned, sort_keys=True).encode()).hexdigest()[:12]


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, _EPOCH), content)
