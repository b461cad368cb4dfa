"""Test that docs/configuration.md is what the settings' fields say."""

import dataclasses

import pytest

from hrm_offline.config import AdaptConfig, ModelConfig, PretrainConfig
from tools.write_configuration import PAGE, page


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python tools/write_configuration.py"


@pytest.mark.parametrize("cls", [ModelConfig, AdaptConfig, PretrainConfig])
def test_every_setting_is_on_the_page(cls):
    for field in dataclasses.fields(cls):
        assert f"| `{field.name}` |" in page() or f"| `--{field.name.replace('_', '-')}` |" in page()
