"""YAML of strangers costs bounded time and memory, and is refused in words."""

import re
import subprocess
import sys

import pytest

from soapworks.tasks.plan.bounded_yaml import MAX_NODES, MAX_SCALAR, load_yaml
from soapworks.tasks.plan.models import MAX_LIST_BYTES

MERGES = "- &a0 {k: v}\n" + "".join(
    f"- &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)
)
LAUGHS = "- &a0 [v]\n" + "".join(
    f"- &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
DEEP = "- &a0 {k: v}\n" + "".join(f"- &a{n} {{<<: *a{n - 1}, k{n}: v}}\n" for n in range(1, 3000))


@pytest.mark.parametrize("bomb", [MERGES, LAUGHS, DEEP], ids=["merges", "laughs", "deep"])
def test_a_bomb_costs_a_second_and_little_memory(bomb: str) -> None:
    """In a process of its own, as without the limit it would neither end nor fit."""
    code = (
        "import resource, sys; from soapworks.tasks.plan.bounded_yaml import load_yaml\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n"
        "try: load_yaml(sys.stdin.buffer.read())\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=bomb,
        text=True,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert "more than" in done.stdout or "recursion" in done.stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- &a [*a]", "inside of what it refers to"),
        ("- &a {<<: *a}", "inside of what it refers to"),
        ("- " + "x" * (MAX_SCALAR + 1), f"limit {MAX_SCALAR}"),
        ("- " + "1:" * 100_000 + "1", f"limit {MAX_SCALAR}"),
        ("[" * 100_000, "recursion"),
        ("- !!bool x", "x"),
        ('- !!int ""', "index"),
        ("- !!timestamp x", "NoneType"),
        ("- !!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("a: b\n--- c", "single document"),
        ("\xff\xfe\xfd", "unacceptable character"),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        load_yaml(text.encode("latin-1"))
    assert str(caught.value)
    assert "\n" not in str(caught.value)


def test_ordinary_aliases_and_merge_keys_are_read() -> None:
    text = "- &common {layers: norm}\n- {<<: *common, checkpoint: a}\n- [*common, *common]"
    common = {"layers": "norm"}
    assert load_yaml(text.encode()) == [common, {"checkpoint": "a", **common}, [common] * 2]
    assert load_yaml(b"") is None


def test_a_long_list_is_read() -> None:
    assert len(load_yaml(b"- a\n" * 20_000)) == 20_000
    assert MAX_LIST_BYTES / len("- a\n") < MAX_NODES
