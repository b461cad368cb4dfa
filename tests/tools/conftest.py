"""A barely pretrained artifact for the tests of studies."""

import pytest

from hrm_offline.cli import main


@pytest.fixture(scope="session")
def artifact(tmp_path_factory):
    """Pretrain an artifact on some small real tasks, for three steps."""
    out = tmp_path_factory.mktemp("artifact")
    assert (
        main(
            [
                "pretrain",
                "--preset",
                "hrm-132k",
                "--data",
                "arc1-train",
                "--max-side",
                "6",
                "--limit",
                "6",
                "--tokens-per-step",
                "200",
                "--steps",
                "3",
                "--threads",
                "1",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    return out
