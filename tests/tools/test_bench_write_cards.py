"""Test that docs/cards.md is what the package chooses."""

import torch

from tools.bench.write_cards import PAGE, page
from tools.support.cards import CARDS, faked


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python tools/bench/write_cards.py"


def test_a_faked_card_is_there_only_within():
    before = torch.cuda.is_available(), torch.cuda.device_count()
    with faked(CARDS[1]):
        assert torch.cuda.device_count() == 2 and torch.cuda.get_device_capability("cuda:1") == (7, 5)
    assert (torch.cuda.is_available(), torch.cuda.device_count()) == before
