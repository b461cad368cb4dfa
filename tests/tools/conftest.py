"""A barely pretrained artifact for the tests of studies, and workers that start quickly."""

import pytest
import warm

from hrm_offline.cli import main
from tools.study import compare_learning, study


@pytest.fixture
def warm_pools(monkeypatch):
    """Have the studies' workers start with PyTorch loaded."""
    for tool in (compare_learning, study):
        monkeypatch.setattr(tool, "get_context", lambda _: warm.server)
        monkeypatch.setattr(tool, "end_with_parent", warm.begin_nothing)


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
