"""Check Kaggle's metadata files against Kaggle's rules, before an upload. Imports the standard library only.

The rules come from Kaggle's command line, github.com/Kaggle/kaggle-cli, in July and September 2026. Its pages
docs/kernels_metadata.md, docs/kernels.md and docs/datasets_metadata.md state them. Its functions `kernels_push` and
`dataset_create_new` are stricter in some places and accept further keys.
"""

from __future__ import annotations

import json
import re

from hrm_offline.common.errors import InputError, shown

_LONGEST_JSON = 60  # characters of a value that an error quotes
KERNEL_FILE, DATASET_FILE = "kernel-metadata.json", "dataset-metadata.json"

# A slug is the part of a web address that names a user, notebook or dataset. Kaggle makes a notebook's from its title.
_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

# From docs/kernels_metadata.md. That page does not list the last four, but `kernels_push` reads them.
_KERNEL_KEYS = {
    "id",
    "id_no",
    "title",
    "code_file",
    "language",
    "kernel_type",
    "is_private",
    "enable_gpu",
    "enable_internet",
    "machine_shape",
    "dataset_sources",
    "competition_sources",
    "kernel_sources",
    "model_sources",
    "enable_tpu",
    "keywords",
    "docker_image",
    "docker_image_pinning_type",
}
_KERNEL_TYPES = {
    "id": str,
    "title": str,
    "code_file": str,
    "machine_shape": str,
    "is_private": bool,
    "dataset_sources": list,
    "competition_sources": list,
}
_KERNEL_OPTIONAL_TYPES = {
    "id_no": int,
    "enable_tpu": bool,
    "keywords": list,
    "kernel_sources": list,
    "model_sources": list,
    "docker_image": str,
    "docker_image_pinning_type": str,
}
_PINNING = ("original", "latest")
_MIN_KERNEL_SLUG = 5  # `validate_kernel_string`
# The GPUs in docs/kernels.md, "Accelerators available as of Sep 2026". The TPUs are left out: solve cannot use them.
_MACHINES = (
    "NvidiaTeslaT4",
    "NvidiaTeslaA100",
    "NvidiaL4",
    "NvidiaL4X1",
    "NvidiaH100",
    "NvidiaRtxPro6000",
)
# Ids that older pages list, and why they serve no more.
_FORMER_MACHINES = {
    "NvidiaTeslaP100": "Kaggle retired it in September 2026",
    "NvidiaTeslaT4Highmem": "only Kaggle's administrators may use it (pull request 1198)",
}
# `kernels_push` wants at least 5 characters. Above 50, Kaggle's server answers with an error (pull request 179).
_KERNEL_TITLE = (5, 50)

# From docs/datasets_metadata.md.
_DATASET_KEYS = {
    "title",
    "subtitle",
    "description",
    "id",
    "id_no",
    "licenses",
    "resources",
    "keywords",
    "expectedUpdateFrequency",
    "userSpecifiedSources",
    "image",
}
_DATASET_TYPES = {"id": str, "title": str, "licenses": list}
_DATASET_OPTIONAL_TYPES = {
    "subtitle": str,
    "description": str,
    "id_no": int,
    "resources": list,
    "keywords": list,
    "expectedUpdateFrequency": str,
    "userSpecifiedSources": str,
    "image": str,
}
_UPDATES = ("not specified", "never", "annually", "quarterly", "monthly", "weekly", "daily", "hourly")
_DATASET_TITLE, _DATASET_SUBTITLE = (6, 50), (20, 80)
_DATASET_SLUG = (6, 50)  # the page says 3 to 50, but `dataset_create_new` refuses fewer than 6
_LICENCES = {
    "CC0-1.0",
    "CC-BY-SA-3.0",
    "CC-BY-SA-4.0",
    "CC-BY-NC-SA-4.0",
    "GPL-2.0",
    "ODbL-1.0",
    "DbCL-1.0",
    "copyright-authors",
    "other",
    "unknown",
    "CC-BY-4.0",
    "CC-BY-NC-4.0",
    "PDDL",
    "CC-BY-3.0",
    "CC-BY-3.0-IGO",
    "US-Government-Works",
    "CC-BY-NC-SA-3.0-IGO",
    "CDLA-Permissive-1.0",
    "CDLA-Sharing-1.0",
    "CC-BY-ND-4.0",
    "CC-BY-NC-ND-4.0",
    "ODC-BY-1.0",
    "LGPL-3.0",
    "AGPL-3.0",
    "FDL-1.3",
    "EU-ODP-Legal-Notice",
    "apache-2.0",
    "GPL-3.0",
}


def check_slug(text: str, what: str) -> None:
    """Raise `InputError` unless `text` is a Kaggle slug. `what` names it in the error, for example "user name"."""
    if not isinstance(text, str) or not _SLUG.fullmatch(text):
        raise InputError(
            f"{what} {shown(text)} is not a Kaggle slug, expected lower-case letters and digits, joined by "
            "single hyphens, as in its web address"
        )


def check_kernel(metadata: dict, where: object) -> None:
    """Raise `InputError` for the first rule that a kernel-metadata.json breaks. `where` is the file in the error."""
    _require_keys(metadata, _KERNEL_KEYS, _KERNEL_TYPES, _KERNEL_OPTIONAL_TYPES, where)
    slug = _check_id(metadata["id"], where)
    _require_length(metadata["title"], _KERNEL_TITLE, "title", where)
    if slugify(metadata["title"]) != slug:
        raise InputError(
            f"{where}: the title {shown(metadata['title'])} makes the slug '{slugify(metadata['title'])}', "
            f"the id ends in '{slug}', expected the same"
        )
    # enable_internet must always be given: it defaults to false on the page, but to true in `kernels_push`.
    fixed = {"language": "python", "kernel_type": "notebook", "enable_gpu": True, "enable_internet": False}
    for key, value in fixed.items():
        if metadata.get(key) is not value and (isinstance(value, bool) or metadata.get(key) != value):
            raise InputError(f"{where}: {key} is {shown(metadata.get(key))}, expected {value!r}")
    code_file = metadata["code_file"]
    if not code_file.endswith(".ipynb") or set(code_file) & set("/\\\0"):
        raise InputError(f"{where}: code_file is {shown(code_file)}, expected the name of a notebook beside it")
    if metadata.get("enable_tpu"):
        raise InputError(f"{where}: enable_tpu is True, expected False: solve cannot use a TPU")
    _check_machine(metadata["machine_shape"], where)
    _require_choice(metadata, "docker_image_pinning_type", _PINNING, where)
    _check_sources(metadata, where)


def _check_machine(machine: str, where: object) -> None:
    if machine not in _MACHINES:
        reason = f" ({_FORMER_MACHINES[machine]})" if machine in _FORMER_MACHINES else ""
        raise InputError(f"{where}: machine_shape is {shown(machine)}{reason}, expected one of {', '.join(_MACHINES)}")


def _check_sources(metadata: dict, where: object) -> None:
    """Check what the notebook takes as input, as the client's `validate_..._string` functions do, and a bit more."""
    for competition in metadata["competition_sources"]:
        check_slug(competition, f"{where}: competition")
    for source in metadata["dataset_sources"]:
        _check_id(source, f"{where}: dataset_sources")
    for source in metadata.get("kernel_sources") or []:
        slug = _check_id(source, f"{where}: kernel_sources")
        if len(slug) < _MIN_KERNEL_SLUG:
            raise InputError(
                f"{where}: kernel_sources has '{source}', expected a slug of {_MIN_KERNEL_SLUG} characters"
            )
    for source in metadata.get("model_sources") or []:
        _check_model(source, where)
    for keyword in metadata.get("keywords") or []:
        if not isinstance(keyword, str):
            raise InputError(f"{where}: keywords has {shown(keyword)}, expected a str")


def _check_model(source: str, where: object) -> None:
    """Raise `InputError` unless a model source names one version of one variation of a model."""
    parts = source.split("/") if isinstance(source, str) else []
    if len(parts) != 5 or not all(parts) or not re.fullmatch("[0-9]+", parts[4]) or parts[4].startswith("0"):
        raise InputError(
            f"{where}: model_sources has {shown(source)}, expected OWNER/MODEL/FRAMEWORK/VARIATION/VERSION, such as "
            "'google/gemma/pyTorch/2b/1'"
        )
    check_slug(parts[0], f"{where}: model_sources: owner")
    for name in parts[1:4]:
        if not re.fullmatch(r"[A-Za-z0-9]+([-_.][A-Za-z0-9]+)*", name):
            raise InputError(f"{where}: model_sources has {shown(source)}, of which {shown(name)} is no name")


def check_dataset(metadata: dict, where: object) -> None:
    """Raise `InputError` for the first rule that a dataset-metadata.json breaks. `where` is the file in the error."""
    _require_keys(metadata, _DATASET_KEYS, _DATASET_TYPES, _DATASET_OPTIONAL_TYPES, where)
    _require_length(_check_id(metadata["id"], where), _DATASET_SLUG, "slug of the id", where)
    _require_length(metadata["title"], _DATASET_TITLE, "title", where)
    if metadata.get("subtitle") is not None:
        _require_length(metadata["subtitle"], _DATASET_SUBTITLE, "subtitle", where)
    _require_choice(metadata, "expectedUpdateFrequency", _UPDATES, where)
    names = [licence.get("name") if isinstance(licence, dict) else None for licence in metadata["licenses"]]
    if len(names) != 1 or not isinstance(names[0], str) or names[0] not in _LICENCES:
        raise InputError(
            f"{where}: licenses is {_short(metadata['licenses'])}, expected exactly one of the form "
            f'[{{"name": "CC0-1.0"}}], with a name of {", ".join(sorted(_LICENCES, key=str.lower))}'
        )


def slugify(title: str) -> str:
    """Return the slug that Kaggle makes from a title, for example "hrm-offline" from "hrm offline"."""
    return "-".join(re.findall(r"[a-z0-9]+", title.lower()))


def _check_id(text: str, where: object) -> str:
    """Return the slug of an id of the form USER/SLUG, both checked."""
    owner, slash, slug = text.partition("/") if isinstance(text, str) else ("", "", "")
    if not slash or "/" in slug:
        raise InputError(f"{where}: {shown(text)} is not USER/SLUG")
    check_slug(owner, f"{where}: user name")
    check_slug(slug, f"{where}: slug")
    return slug


def _require_keys(
    metadata: dict, allowed: set[str], needed: dict[str, type], optional: dict[str, type], where: object
) -> None:
    """Raise `InputError` unless every key is allowed, and has a value of its type. An optional one may be null."""
    if not isinstance(metadata, dict):
        raise InputError(f"{where}: expected an object, found {shown(metadata)}")
    for key in metadata:
        if key not in allowed:
            raise InputError(
                f"{where}: {shown(key)} is not a key that Kaggle reads, expected one of {', '.join(sorted(allowed))}"
            )
    found = {key: kind for key, kind in optional.items() if metadata.get(key) is not None}
    for key, kind in (needed | found).items():
        value = metadata.get(key)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise InputError(f"{where}: {key} is {shown(value)}, expected a {kind.__name__}")


def _require_choice(metadata: dict, key: str, choices: tuple[str, ...], where: object) -> None:
    """Raise `InputError` unless the value of an optional key is missing, null or one of the choices."""
    if metadata.get(key) is not None and metadata[key] not in choices:
        raise InputError(f"{where}: {key} is {shown(metadata[key])}, expected one of {', '.join(choices)}")


def _require_length(text: str, limits: tuple[int, int], what: str, where: object) -> None:
    """Raise `InputError` unless the text's number of characters is within the limits, both included."""
    shortest, longest = limits
    if not shortest <= len(text) <= longest:
        raise InputError(
            f"{where}: the {what} {shown(text)} has {len(text)} characters, Kaggle takes {shortest} to {longest}"
        )


def _short(value) -> str:
    """Return a value of parsed JSON as JSON, or in words where that is long."""
    text = json.dumps(value)
    return text if len(text) <= _LONGEST_JSON else shown(value)
