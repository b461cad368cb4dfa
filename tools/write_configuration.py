"""Write docs/configuration.md from the fields of the settings.

    python tools/write_configuration.py

A test compares the page with the fields, so run this tool after every change of a setting.
"""

from __future__ import annotations

import script_setup

import dataclasses
import inspect
import sys
import typing
from pathlib import Path

from hrm_offline.common.files import write_bytes
from hrm_offline.common.flags import default_in_words, flag_of, in_words
from hrm_offline.common.settings import choices_of, help_of, kinds_of, limits_of
from hrm_offline.config import AdaptConfig, ModelConfig, PretrainConfig, PretrainOptions, Recipe
from hrm_offline.presets import PRESETS
from hrm_offline.solve.options import SolveOptions
from tools.support import environment
from tools.support.command_line import parser_of

PAGE = environment.REPOSITORY / "docs" / "configuration.md"

_KINDS = {int: "integer", float: "number", bool: "yes or no", str: "text", Path: "path"}

_INTRODUCTION = """# Configuration

<!-- Made by `python tools/write_configuration.py` from the fields of the settings. Do not edit. -->

`python tools/write_configuration.py` makes this page from the fields in `hrm_offline/config.py` and
`hrm_offline/solve/options.py`. A [preset](#presets) sets the network and the recipe. Your own settings override it:

| you want to change | in `solve` | in `pretrain` |
| --- | --- | --- |
| the preset | `--preset NAME` | `--preset NAME` |
| a number, such as `lr` | `--set lr=3e-4` | `--lr 3e-4` |
| a yes or no, such as `flips` | `--set flips=no` | `--no-flips` |
| a list | `--set vote_augmentations=rotations,flips` | `--data arc1-train synthetic-240` |

`pretrain --config FILE` also reads settings from a JSON object, such as `{"lr": 3e-4, "data": ["arc1-train"]}`. Flags
override the file. An unknown name, a wrong type or a value beyond its limits is an error that names the setting.
"""


def page() -> str:
    """Return the whole page as Markdown."""
    sections = [
        _INTRODUCTION,
        _section("Solve", SolveOptions, "More flags are `--budget`, `--artifact`, `--visits` and `--members`."),
        _section("Adaptation and prediction", AdaptConfig, "`solve --set` takes these and those of [Recipe](#recipe)."),
        _section("Recipe", Recipe, "`solve --set` takes these, and `pretrain` has a flag for each."),
        _section(
            "Pretraining", PretrainConfig, "`pretrain` has a flag for each of these, and for each of [Recipe](#recipe)."
        ),
        _section("Pretraining run", PretrainOptions, "More flags of `pretrain`."),
        _section("Network", ModelConfig, "Set by the preset, or by the artifact that is adapted."),
        _presets(),
    ]
    return "\n".join(sections)


def _section(title: str, cls: type, where: str) -> str:
    """Return a heading, the class' docstring, and a table of the fields that the class does not inherit."""
    kinds = kinds_of(cls)
    own = cls.__dict__["__annotations__"]
    has_flags = cls in (SolveOptions, PretrainOptions, PretrainConfig)
    rows = [
        (
            f"`{flag_of(field)}`" if has_flags else f"`{field.name}`",
            _default(field),
            _values(field, kinds[field.name]),
            help_of(field),
        )
        for field in dataclasses.fields(cls)
        if field.name in own and (field.metadata["flag"] or not has_flags)
    ]
    heading = f"## {title}\n\n{where} Declared in `{cls.__module__}.{cls.__name__}`.\n\n{inspect.getdoc(cls)}\n"
    return heading + "\n" + _table(("flag" if has_flags else "setting", "default", "values", "meaning"), rows)


def _default(field: dataclasses.Field) -> str:
    is_required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    return "must be given" if is_required else default_in_words(field) or "none"


def _values(field: dataclasses.Field, kind) -> str:
    """Return which values a field takes, in words."""
    if field.metadata["overrides"]:
        return "NAME=VALUE, several"
    choices = ", ".join(f"`{choice}`" for choice in choices_of(field))
    if typing.get_origin(kind) is tuple:
        return f"some of {choices}" if choices else "a list"
    return choices or ", ".join(filter(None, (_KINDS[kind], limits_of(field))))


def _presets() -> str:
    """Return tables of the settings in which presets differ from the defaults."""
    sections = [
        "## Presets\n\nThe tables have the settings in which a preset differs from the defaults above. They are set in "
        "`hrm_offline/presets.py`. `solve` takes a preset's recipe for pretrained weights where it adapts "
        "an artifact, else the one for random weights. On a GPU the recipes of the small decoders have "
        "[larger steps and batches and more members](adaptation.md#presets). A recipe with `colour_permutations` gives "
        "the network a third "
        "embedding per sequence (`puzzle_columns`).\n"
    ]
    for title, configs in (
        ("Network", {name: preset.model for name, preset in PRESETS.items()}),
        ("Adaptation of random weights", {name: preset.adapt for name, preset in PRESETS.items()}),
        ("Adaptation of pretrained weights", {name: preset.recipe(True) for name, preset in PRESETS.items()}),
        ("Pretraining", {name: preset.pretrain for name, preset in PRESETS.items()}),
    ):
        rows = []
        for field in dataclasses.fields(next(iter(configs.values()))):
            row = [in_words(getattr(config, field.name)) for config in configs.values()]
            if field.name != "preset" and set(row) != {default_in_words(field)}:
                rows.append((f"`{field.name}`", *row))
        sections.append(f"### {title}\n\n" + _table(("setting", *(f"`{name}`" for name in configs)), rows))
    return "\n".join(sections)


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def main() -> int:
    parser_of(__doc__).parse_args()
    write_bytes(PAGE, page().encode())
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
