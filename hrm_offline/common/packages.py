"""Say in one line which packages are missing and how to install them."""

from __future__ import annotations

import importlib.util

from hrm_offline.common.errors import InputError


def require_packages(*names: str) -> None:
    """Raise `InputError` saying what to install unless all packages of these names are there. Loads none of them."""
    missing = [name for name in names if not _is_there(name)]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise InputError(f"{', '.join(missing)} {verb} not installed (pip install {' '.join(missing)})")


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # a finder that refuses, or a module without a spec
        return False
