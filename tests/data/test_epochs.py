"""Test how a decoder's examples are dealt into batches."""

import numpy as np
import pytest

from hrm_offline.data.epochs import Epochs


@pytest.mark.parametrize(
    ("lengths", "tokens"),
    [
        ([7], 100),
        ([1800, 1800, 1800], 2),  # each longer than a batch
        ([1800, 5, 5, 5, 5, 5], 100),
        (list(range(20, 400)), 2000),
        ([50] * 64, 50),
    ],
)
def test_each_epoch_offers_every_example_once(lengths, tokens):
    examples = 100 + np.arange(len(lengths))
    epochs = Epochs(examples, np.array(lengths), tokens, seed=3)
    for number in range(3):
        dealt = [epochs.batch(number * epochs.batches + place) for place in range(epochs.batches)]
        assert min(map(len, dealt)) >= 1
        assert sorted(np.concatenate(dealt).tolist()) == examples.tolist()


def test_batches_hold_about_as_many_tokens_as_asked_for():
    lengths = np.random.default_rng(0).integers(20, 600, 500)
    epochs = Epochs(np.arange(500), lengths, 2000, seed=0)
    tokens = [lengths[epochs.batch(number)].sum() for number in range(epochs.batches)]
    assert np.mean(tokens) == pytest.approx(2000, rel=0.02)
    assert max(tokens) < 3000


def test_a_batch_has_near_equal_lengths_and_no_epoch_repeats_it():
    lengths = np.random.default_rng(0).integers(20, 600, 2000)
    epochs = Epochs(np.arange(2000), lengths, 2000, seed=0)
    first, second = (
        [epochs.batch(number) for number in range(begin, begin + epochs.batches)] for begin in (0, epochs.batches)
    )
    padded = sum(len(batch) * lengths[batch].max() for batch in first)
    assert padded < 1.3 * lengths.sum()  # without sorting it would be more than 1.6
    assert {frozenset(batch.tolist()) for batch in first}.isdisjoint(frozenset(batch.tolist()) for batch in second)


def test_a_batch_depends_on_its_number_and_the_seed_alone():
    lengths = np.arange(20, 60)
    forwards, backwards = (Epochs(np.arange(40), lengths, 300, seed=1) for _ in range(2))
    numbers = list(range(3 * forwards.batches))
    first = [forwards.batch(number).tolist() for number in numbers]
    last = [backwards.batch(number).tolist() for number in reversed(numbers)]
    assert first == last[::-1]
    assert first != [Epochs(np.arange(40), lengths, 300, seed=2).batch(number).tolist() for number in numbers]
