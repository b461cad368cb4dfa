"""Make broken challenges files for tools/stress/fuzz_challenges.py, as a strategy of hypothesis.

A file starts as one to three small tasks. Then its structure is broken (keys, types, shapes, numbers, sizes), its text
(equal keys, depth, digits) and its bytes (encoding, truncation, flips). Some files stay valid.
"""

from __future__ import annotations

import copy
import json
import math

from hypothesis import strategies as st

# ----- the material

_TASKS = (
    {
        "train": [
            {"input": [[1, 0], [0, 2]], "output": [[2, 0], [0, 1]]},
            {"input": [[3, 0], [5, 2]], "output": [[2, 0], [5, 3]]},
            {"input": [[0]], "output": [[0]]},
        ],
        "test": [{"input": [[4, 0], [0, 2]]}],
    },
    {
        "train": [{"input": [[7, 7, 7]], "output": [[7], [7], [7]]}, {"input": [[1, 2]], "output": [[1], [2]]}],
        "test": [{"input": [[3, 4, 5]]}, {"input": [[6, 6]]}],
    },
    {
        "train": [{"input": [[0, 8, 0], [8, 0, 8]], "output": [[8]]}, {"input": [[9, 9], [9, 0]], "output": [[9]]}],
        "test": [{"input": [[1, 1, 1, 1]], "output": [[1]]}],
    },
)
_IDS = ("007bbfb7", "00d62c1b", "017c7c7b")

# Texts that stand for values which Python's JSON writer refuses to write, and the characters that replace them.
_STAND_INS = {
    "<digits>": "9" * 5000,
    "<depth>": "[" * 100 + "]" * 100,
    "<too deep>": "[" * 100_000 + "]" * 100_000,
    "<deep object>": '{"input":' * 100 + "1" + "}" * 100,
    "<float>": "1e999",
    "<tiny>": "1e-999",
    "<minus zero>": "-0",
    "<leading zero>": "01",
    "<comment>": "/* */",
    "<raw control>": '"\x01"',
    "<half escape>": '"\\ud83d"',
}
_NUMBERS = (
    -1,
    0,
    1,
    9,
    10,
    11,
    255,
    256,
    257,
    2**31,
    2**63,
    2**64 + 1,
    -(2**63) - 1,
    10**400,
    -(10**400),
    1.0,
    2.5,
    -0.0,
    1e308,
    math.nan,
    math.inf,
    -math.inf,
)
_TEXTS = (
    "",
    "3",
    "input",
    "\0",
    "\n",
    "ü",
    "\u2028",
    "\ud800",
    "\udfff\ud800",
    "🧩",
    "x" * 50_000,
    "__proto__",
    "../../x",
    "arc1",
    "NaN",
)
_GRIDS = (
    [[9]],
    [[0] * 30],
    [[0]] * 30,
    [[5] * 30] * 30,
    [[0] * 31],
    [[0]] * 31,
    [[0] * 300] * 300,
    [[]],
    [[], []],
    [[[]]],
    [[[0]]],
    [[0], [0, 0]],
    [[0, 0], [0]],
    [0],
    [[None]],
    [[True]],
    [["0"]],
    [list(range(10))],
)
_OTHERS = (
    None,
    True,
    False,
    [],
    {},
    {"input": [[1]]},
    {"input": [[1]], "output": [[1]]},
    {"train": [], "test": []},
    {"input": None, "output": None},
    {"a": {"b": {"c": []}}},
)

# Values that are seldom right where they stand.
_STRANGE = st.one_of(
    st.sampled_from(_NUMBERS),
    st.sampled_from(_TEXTS),
    st.sampled_from(_GRIDS),
    st.sampled_from(_OTHERS),
    st.sampled_from([name for name in _STAND_INS if name != "<too deep>"]),
    st.sampled_from(_TASKS),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=8,
    ),
)
_MAX_KEYS, _MAX_DEPTH = 8, 8  # places that are changed; deeper and later ones are alike
_VALID_GRID = st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(0, 9)).map(
    lambda size: [[(r * c + size[2]) % 10 for c in range(size[1])] for r in range(size[0])]
)


def _seldom(times: int):
    """Return a strategy that draws True once in `times` times."""
    # The number is in the middle of the range, because hypothesis tries the ends more often.
    return st.integers(0, times - 1).map(lambda number: number == times // 2)


def _strange(draw):
    """Return a strange value of its own, which may be changed further."""
    return copy.deepcopy(draw(_STRANGE))


# ----- files


@st.composite
def challenges_files(draw) -> bytes:
    """Draw the bytes of a challenges file that is broken in some way, or strange but valid."""
    count = draw(st.integers(1, 3))
    value = {_IDS[i]: copy.deepcopy(_TASKS[i]) for i in range(count)}
    for _ in range(draw(st.integers(0, 4))):
        value = _break_structure(draw, value)
    text = _break_text(draw, _to_text(draw, value))
    return _break_bytes(draw, text)


def _break_structure(draw, value):
    """Change one place of a JSON value, and return the value.

    The depth is drawn first, so that every depth (task, part, pair, grid, row, cell) is hit equally often.
    """
    by_depth = {}
    for depth, place in _places(value):
        by_depth.setdefault(depth, []).append(place)
    if not by_depth or draw(_seldom(40)):
        return _strange(draw)
    container, key = draw(st.sampled_from(by_depth[draw(st.sampled_from(sorted(by_depth)))]))
    change = draw(st.sampled_from(_CHANGES))
    change(draw, container, key)
    return value


def _places(value, depth: int = 0):
    """Yield (depth, (container, key)) for the places of a JSON value, of each container at most the first 8."""
    keys = ()
    if isinstance(value, dict):
        keys = list(value)[:_MAX_KEYS]
    elif isinstance(value, list):
        keys = range(min(_MAX_KEYS, len(value)))
    for key in keys:
        yield depth, (value, key)
        if depth < _MAX_DEPTH:
            yield from _places(value[key], depth + 1)


def _replace(draw, container, key):
    container[key] = _strange(draw)


def _replace_by_a_grid(draw, container, key):
    container[key] = draw(_VALID_GRID)


def _drop(draw, container, key):
    del container[key]


def _rename(draw, container, key):
    """Give another name to the key of an object; in a list, insert a strange neighbour."""
    if isinstance(container, dict):
        container[draw(st.sampled_from(_TEXTS) | st.text(max_size=8))] = container.pop(key)
    else:
        container.insert(key, _strange(draw))


def _add_key(draw, container, key):
    """Add a strange value to an object; in a list, repeat an item at the end."""
    if isinstance(container, dict):
        container[draw(st.sampled_from(("test", "train", "input", "output", "name", *_TEXTS)))] = _strange(draw)
    else:
        container.append(copy.deepcopy(container[key]))


def _wrap(draw, container, key):
    container[key] = draw(st.sampled_from(([container[key]], {"input": container[key]}, {"": container[key]})))


def _repeat(draw, container, key):
    """Make a list many times as long. A list of pairs may become a thousand times as long, a grid may not."""
    if isinstance(container[key], list) and len(container[key]) < 10:
        many_times = (300, 1000) if key in ("train", "test") else ()
        container[key] = container[key] * draw(st.sampled_from((2, 3, 11, 31, *many_times)))


_CHANGES = (_replace, _replace, _replace_by_a_grid, _drop, _rename, _add_key, _wrap, _repeat)


def _to_text(draw, value) -> str:
    """Write a value as JSON, in one of several layouts, and put the characters behind the stand-ins."""
    text = json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from((None, None, 1))))
    for name, stands_for in _STAND_INS.items():
        text = text.replace(json.dumps(name), stands_for)
    return text


def _break_text(draw, text: str) -> str:
    """Break the text once in eight times: make keys equal, cut, put a wrong sign somewhere, or nest extremely deep."""
    if not draw(_seldom(8)):
        return text
    kind = draw(st.sampled_from(("word", "word", "equal task", "cut", "sign", "deep")))
    if kind == "word":
        old, new = draw(st.permutations(("train", "test", "input", "output")))[:2]
        return text.replace(f'"{old}"', f'"{new}"', draw(st.integers(1, 3)))
    if kind == "equal task":
        first = json.dumps({_IDS[0]: draw(st.sampled_from(_TASKS) | _STRANGE)})
        return first[:-1] + "," + text.lstrip()[1:] if draw(st.booleans()) else text.rstrip()[:-1] + "," + first[1:]
    if kind == "deep":
        return text.replace("[[", _STAND_INS["<too deep>"] + ",[", 1)
    start = draw(st.integers(0, max(0, len(text) - 1)))
    return text[:start] if kind == "cut" else text[:start] + draw(st.sampled_from(',:[]{}"\\0-eN ')) + text[start + 1 :]


def _break_bytes(draw, text: str) -> bytes:
    """Encode the text, mostly as UTF-8, and once in ten times replace some bytes."""
    encoding = draw(st.sampled_from(("utf-8",) * 12 + ("utf-8-sig", "utf-16", "utf-16-be", "utf-32", "latin-1")))
    content = text.encode(encoding, "replace" if encoding == "latin-1" else "surrogatepass")
    if not draw(_seldom(10)):
        return content
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 20)))
        content = content[:start] + draw(st.binary(max_size=8)) + content[end:]
    return content
