"""Load YAML from an untrusted file in bounded time and memory.

Aliases and merge keys let a few hundred bytes stand for billions of nodes, so the nodes of a
document are counted as if all of them were written out, before any of them is constructed.
"""

from typing import Any

import yaml

MAX_NODES = 500_000
"""Nodes of a document above which it is refused, with every alias and merge key written out."""

MAX_SCALAR = 8192
"""Characters of one value above which a document is refused: the longest path is half of that."""

_INVALID = (
    *(yaml.YAMLError, ValueError, RecursionError),
    *(AttributeError, LookupError, TypeError, ArithmeticError),  # values unlike their !!tag
)


def load_yaml(data: bytes) -> Any:
    """Return the one document in YAML: plain types only.

    Raises
    ------
    ValueError
        Invalid YAML, or a document above ``MAX_NODES`` or ``MAX_SCALAR``; the message is the
        reason alone.
    """
    try:
        loader = yaml.SafeLoader(data)
        try:
            root = loader.get_single_node()
            if root is None:
                return None
            _count(root, {}, set())
            return loader.construct_document(root)
        finally:
            loader.dispose()
    except _INVALID as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(reason) from error


def _count(node: yaml.Node, counted: dict[int, int], above: set[int]) -> int:
    """Return the number of nodes at and below a node, repeated ones each time they occur."""
    if isinstance(node, yaml.ScalarNode):
        if len(node.value) > MAX_SCALAR:
            raise ValueError(f"a value has {len(node.value)} characters, limit {MAX_SCALAR}")
        return 1
    known = counted.get(id(node))
    if known is not None:
        return known
    if id(node) in above:
        raise ValueError("an alias stands inside of what it refers to")
    above.add(id(node))
    pairs = isinstance(node, yaml.MappingNode)
    below = [part for pair in node.value for part in pair] if pairs else node.value
    n = 1 + sum(_count(part, counted, above) for part in below)
    if n > MAX_NODES:
        raise ValueError(f"its aliases stand for more than {MAX_NODES} nodes")
    above.discard(id(node))
    counted[id(node)] = n
    return n
