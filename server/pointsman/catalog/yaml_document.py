"""YAML text to plain data with the line of every field. Knows nothing of what the fields mean.

Anchors, aliases and tags are refused: exemplar files need none, and aliases are how a small file
becomes a huge one ("billion laughs").
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

MAX_BYTES = 1 << 20
MAX_DEPTH = 8

Path = tuple[str | int, ...]


class YamlError(Exception):
    """Text that is not acceptable YAML. Expected; the author's fault. `line` is 1-based."""

    def __init__(self, line: int, message: str, value: str = "") -> None:
        super().__init__(message)
        self.line = line
        self.message = message
        self.value = value


@dataclass(frozen=True, slots=True)
class Document:
    """Parsed data, and where each part of it stands."""

    data: Any
    lines: dict[Path, int]

    def line(self, path: Path) -> int:
        """Return the 1-based line of a field, or of the nearest field around it."""
        while path not in self.lines and path:
            path = path[:-1]
        return self.lines.get(path, 1)


def parse(content: bytes) -> Document:
    """Parse one YAML document.

    Raises:
        YamlError: not UTF-8, not YAML, over 1 MiB or 8 levels, with anchors, tags or duplicate keys.

    """
    if len(content) > MAX_BYTES:
        raise too_large(len(content))
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise YamlError(line, "not UTF-8", repr(content[error.start : error.end])) from None
    try:
        _refuse_unsafe(text)
        loader = yaml.CSafeLoader(text)
        try:
            node = loader.get_single_node()
            lines: dict[Path, int] = {}
            data = None if node is None else _build(loader, node, (), lines)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlError(mark.line + 1 if mark else 1, f"not YAML: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        # A character that YAML forbids; libyaml counts in bytes.
        line = content[: error.position].count(b"\n") + 1
        raise YamlError(line, f"not YAML: {error.reason}") from None
    except yaml.YAMLError as error:
        raise YamlError(1, f"not YAML: {error}") from None
    return Document(data, lines)


def too_large(size: int) -> YamlError:
    """Return the error of a file of that many bytes."""
    return YamlError(0, f"file is {size} bytes, the limit is {MAX_BYTES}")


def _refuse_unsafe(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        anchor = getattr(event, "anchor", "")
        if isinstance(event, yaml.AliasEvent):
            raise YamlError(line, "YAML aliases are not allowed", f"*{anchor}")
        if anchor:
            raise YamlError(line, "YAML anchors are not allowed", f"&{anchor}")
        tag = getattr(event, "tag", None)
        if tag:
            raise YamlError(line, "YAML tags are not allowed", tag)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise YamlError(line, f"nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _build(loader: Any, node: yaml.Node, path: Path, lines: dict[Path, int]) -> Any:
    lines[path] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        return {key: _build(loader, value, (*path, key), lines) for key, value in _unique_pairs(loader, node)}
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, child, (*path, i), lines) for i, child in enumerate(node.value)]
    return _construct(loader, node)


def _construct(loader: Any, node: yaml.Node) -> Any:
    try:
        return loader.construct_object(node)
    except ValueError as error:  # a timestamp such as 2026-99-99, a number too long to convert
        raise YamlError(node.start_mark.line + 1, f"not YAML: {error}", node.value) from None


def _unique_pairs(loader: Any, node: yaml.MappingNode) -> Iterator[tuple[str, yaml.Node]]:
    seen: set[str] = set()
    for key_node, value in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise YamlError(line, "a key must be plain text")
        key = str(_construct(loader, key_node))
        if key in seen:
            raise YamlError(line, "key given twice", key)
        seen.add(key)
        yield key, value
