"""Check Kaggle's metadata files against Kaggle's rules, before an upload. Imports the standard library only.

The rules come from Kaggle's command line, github.com/Kaggle/kaggle-cli, in July and September 2026. Its pages
docs/kernels_metadata.md, docs/kernels.md and docs/datasets_metadata.md state them. Its functions `kernels_push` and
`dataset_create_new` are stricter in some places and accept further keys.
"""

from __future__ import annotations

import re

from hrm_offline.common.errors import InputError

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
# The GPUs in docs/kernels.md, "Accelerators available as of Sep 2026". The TPUs are left out: solve cannot use them.
_MACHINES = (
    "NvidiaTeslaT4",
    "NvidiaTeslaT4Highmem",
    "NvidiaTeslaA100",
    "NvidiaL4",
    "NvidiaL4X1",
    "NvidiaH100",
    "NvidiaRtxPro6000",
)
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
    if not _SLUG.fullmatch(text):
        raise InputError(
            f"{what} '{text}' is not a Kaggle slug, expected lower-case letters and digits, joined by "
            "single hyphens, as in its web address"
        )


def check_kernel(metadata: dict, where: object) -> None:
    """Raise `InputError` for the first rule that a kernel-metadata.json breaks. `where` is the file in the error."""
    needed = {
        "id": str,
        "title": str,
        "code_file": str,
        "machine_shape": str,
        "is_private": bool,
        "dataset_sources": list,
        "competition_sources": list,
    }
    _require_keys(metadata, _KERNEL_KEYS, needed, where)
    slug = _check_id(metadata["id"], where)
    _require_length(metadata["title"], _KERNEL_TITLE, "title", where)
    if slugify(metadata["title"]) != slug:
        raise InputError(
            f"{where}: the title '{metadata['title']}' makes the slug '{slugify(metadata['title'])}', "
            f"the id ends in '{slug}', expected the same"
        )
    # enable_internet must always be given: it defaults to false on the page, but to true in `kernels_push`.
    fixed = {"language": "python", "kernel_type": "notebook", "enable_gpu": True, "enable_internet": False}
    for key, value in fixed.items():
        if metadata.get(key) != value:
            raise InputError(f"{where}: {key} is {metadata.get(key)!r}, expected {value!r}")
    if metadata["machine_shape"] not in _MACHINES:
        raise InputError(
            f"{where}: machine_shape is {metadata['machine_shape']!r}, expected one of {', '.join(_MACHINES)}"
        )
    for competition in metadata["competition_sources"]:
        check_slug(competition, f"{where}: competition")
    for source in metadata["dataset_sources"]:
        _check_id(source, where)


def check_dataset(metadata: dict, where: object) -> None:
    """Raise `InputError` for the first rule that a dataset-metadata.json breaks. `where` is the file in the error."""
    _require_keys(metadata, _DATASET_KEYS, {"id": str, "title": str, "licenses": list}, where)
    _require_length(_check_id(metadata["id"], where), _DATASET_SLUG, "slug of the id", where)
    _require_length(metadata["title"], _DATASET_TITLE, "title", where)
    if "subtitle" in metadata:
        _require_length(metadata["subtitle"], _DATASET_SUBTITLE, "subtitle", where)
    licences = [licence.get("name") for licence in metadata["licenses"]]
    if len(licences) != 1 or licences[0] not in _LICENCES:
        raise InputError(
            f"{where}: licenses is {metadata['licenses']!r}, expected exactly one, whose name is one of "
            f"{', '.join(sorted(_LICENCES, key=str.lower))}"
        )


def slugify(title: str) -> str:
    """Return the slug that Kaggle makes from a title, for example "hrm-offline" from "hrm offline"."""
    return "-".join(re.findall(r"[a-z0-9]+", title.lower()))


def _check_id(text: str, where: object) -> str:
    """Return the slug of an id of the form USER/SLUG, both checked."""
    owner, slash, slug = text.partition("/")
    if not slash:
        raise InputError(f"{where}: '{text}' is not USER/SLUG")
    check_slug(owner, f"{where}: user name")
    check_slug(slug, f"{where}: slug")
    return slug


def _require_keys(metadata: dict, allowed: set[str], needed: dict[str, type], where: object) -> None:
    """Raise `InputError` unless every key is allowed, and every needed key has a value of its type."""
    if not isinstance(metadata, dict):
        raise InputError(f"{where}: expected an object")
    for key in metadata:
        if key not in allowed:
            raise InputError(
                f"{where}: '{key}' is not a key that Kaggle reads, expected one of {', '.join(sorted(allowed))}"
            )
    for key, kind in needed.items():
        if not isinstance(metadata.get(key), kind):
            raise InputError(f"{where}: {key} is {metadata.get(key)!r}, expected a {kind.__name__}")


def _require_length(text: str, limits: tuple[int, int], what: str, where: object) -> None:
    """Raise `InputError` unless the text's number of characters is within the limits, both included."""
    shortest, longest = limits
    if not shortest <= len(text) <= longest:
        raise InputError(
            f"{where}: the {what} '{text}' has {len(text)} characters, Kaggle takes {shortest} to {longest}"
        )
