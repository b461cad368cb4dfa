"""Test that the broken files are of all kinds: most can be parsed, some are valid, and some are no text at all."""

import json

import hypothesis

from tools.stress.broken_files import challenges_files


def kind_of(content: bytes) -> str:
    try:
        value = json.loads(content.decode())
    except UnicodeDecodeError:
        return "no text"
    except (ValueError, RecursionError):
        return "no JSON"
    return "object" if isinstance(value, dict) else "other JSON"


def test_files_of_every_kind_are_made():
    files = []

    @hypothesis.settings(
        max_examples=300, derandomize=True, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(challenges_files())
    def collect(content: bytes) -> None:
        files.append(content)

    collect()
    kinds = [kind_of(content) for content in files]
    assert kinds.count("object") > len(files) / 2
    assert {"object", "no text", "no JSON"} <= set(kinds)
    assert len(set(files)) > len(files) / 2
