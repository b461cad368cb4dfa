"""Test the vocabulary of a canvas."""

from hrm_offline.common.tokens import COLOURS, EOS, FIRST_COLOUR, IGNORE, PAD, VOCABULARY


def test_every_token_has_one_meaning():
    """Compare with the published model's vocabulary: padding, the edge, then ten colours."""
    colours = range(FIRST_COLOUR, FIRST_COLOUR + COLOURS)
    assert [PAD, EOS, *colours] == list(range(VOCABULARY))
    assert VOCABULARY == 12
    assert IGNORE not in range(VOCABULARY)
