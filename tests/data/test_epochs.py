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


def test_long_examples_are_offered_less_often_from_a_batch_on():
    lengths = np.repeat([50, 100, 400], 100)
    epochs, plain = (Epochs(np.arange(300), lengths, 1000, seed=0) for _ in range(2))
    first = 7
    epochs.favour_short(first, full_length=100, power=1.0)
    for number in range(first):
        assert epochs.batch(number).tolist() == plain.batch(number).tolist()
    per_epoch = round((50 + 100 + 400 / 4) * 100 / 1000)
    dealt = [epochs.batch(first + number) for number in range(8 * per_epoch)]
    assert min(map(len, dealt)) >= 1
    offered = np.bincount(np.concatenate(dealt), minlength=300).reshape(3, 100)
    assert (offered[:2] == 8).all()
    assert offered[2].sum() == pytest.approx(8 * 100 / 4, abs=8)
    assert offered[2].max() <= 8


def test_examples_are_favoured_from_the_first_batch_on():
    lengths = np.repeat([50, 400], 100)
    epochs = Epochs(np.arange(200), lengths, 1000, seed=0)
    epochs.favour_short(0, full_length=50, power=1.0)
    dealt = np.concatenate([epochs.batch(number) for number in range(round((50 + 50) * 100 / 1000))])
    assert np.bincount(dealt // 100).tolist() == pytest.approx([100, 12.5], abs=0.5)


def test_the_length_is_found_with_which_an_epoch_has_so_many_batches():
    lengths = np.random.default_rng(0).integers(20, 600, 2000)
    epochs = Epochs(np.arange(2000), lengths, 2000, seed=0)
    for batches in (50, 100, 200, epochs.batches):
        length = epochs.full_length(batches, power=1.0)
        shorter = Epochs(np.arange(2000), lengths, 2000, seed=0)
        shorter.favour_short(3, length, power=1.0)
        tokens = [lengths[shorter.batch(number)].sum() for number in range(3, 3 + batches)]
        assert sum(np.minimum(1, length / lengths) * lengths) == pytest.approx(batches * 2000, rel=0.02)
        assert np.mean(tokens) == pytest.approx(2000, rel=0.05)
    assert epochs.full_length(1, power=1.0) == 20
    assert epochs.full_length(10_000, power=1.0) == 599


def test_an_epoch_keeps_enough_batches_to_sort_by_length():
    lengths = np.arange(20, 120)
    epochs = Epochs(np.arange(100), lengths, 500, seed=0)
    assert epochs.full_length(0.5, power=1.5) == epochs.full_length(4, power=1.5)
    epochs.favour_short(1, epochs.full_length(0.5, power=1.5), power=1.5)
    first = np.concatenate([epochs.batch(number) for number in range(1, 5)])
    assert len(set(first.tolist())) == len(first)  # an epoch
    assert lengths[first].sum() == pytest.approx(4 * 500, rel=0.2)


def test_favoured_epochs_depend_on_the_calls_alone():
    lengths = np.arange(20, 220)
    one, other = (Epochs(np.arange(200), lengths, 300, seed=1) for _ in range(2))
    numbers = list(range(200))
    for number in numbers:  # asked for on the way
        one.batch(number)
        if number in (20, 90):
            one.favour_short(number, full_length=2 * number, power=1.5)
    for number in (20, 90):
        other.favour_short(number, full_length=2 * number, power=1.5)
    assert [one.batch(n).tolist() for n in numbers] == [other.batch(n).tolist() for n in reversed(numbers)][::-1]
