"""Folders that tests look into."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PACKAGE = REPOSITORY / "hrm_offline"
GOLDEN = REPOSITORY / "tests" / "golden"
