"""Test that no training step lets PyTorch add gradients in an order that may change from run to run.

`torch.use_deterministic_algorithms` lists what adds so on a GPU. On a CPU, indexing does where there are threads. The
autograd graph of a step names what its backward pass calls. Plain PyTorch is walked: kernels of ours replace parts.
"""

import dataclasses

import pytest
import torch
from decoders import make_decoder
from networks import ARCHITECTURES, DECODER

from hrm_offline.data.puzzles import ExampleSource, PuzzleSet
from hrm_offline.model.network import build_network, training_batches
from hrm_offline.presets import PRESETS
from hrm_offline.train.decoder_learner import new_learner

REFUSED = {"Index", "UnsafeIndex", "IndexSelect", "IndexReduce", "Take", "Put", "RepeatInterleave", "EmbeddingBag"}
REFUSED |= {"ScatterReduce", "Cumsum", "Cumprod", "Gather"}
ONE_PER_ROW = {"Gather"}  # in the stablemax loss, which takes one number from each row: nothing meets there

NETWORKS = {name: (config, "factored") for name, config in ARCHITECTURES.items()}
_learned = dataclasses.replace(ARCHITECTURES["hrm"], positions="learned")
NETWORKS |= {"learned positions": (_learned, "factored"), "context": (_learned, "few-shot")}
DECODERS = {
    "two columns": (DECODER, {}),
    "three columns": (dataclasses.replace(DECODER, puzzle_columns=3), {}),
    "passed twice, input learned": (dataclasses.replace(DECODER, H_cycles=2), {"loss_on_input": True, "dropout": 0.1}),
}


def nodes_under(loss):
    """Return the names of the nodes that a loss has come from, without "Backward" and what follows."""
    seen, pending = set(), [loss.grad_fn]
    while pending:
        node = pending.pop()
        if node is not None and node not in seen:
            seen.add(node)
            pending.extend(before for before, _ in node.next_functions)
    return {node.name().rpartition("::")[2].partition("Backward")[0] for node in seen}


def nodes_of_step(network, recipe, puzzles, monkeypatch):
    losses, backward = [], torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss: losses.append(nodes_under(loss)) or backward(loss))
    learner = new_learner(network, recipe, 10, seed=0)
    learner.learn(training_batches(ExampleSource(puzzles, 0), network.device)(0))
    return losses[0]


@pytest.fixture
def tasks(make_task):
    return (make_task("a", [((3, 3), (2, 4)), ((2, 3), (3, 2))], seed=1),)


@pytest.mark.parametrize("name", DECODERS)
def test_no_gradient_of_a_decoder_is_added_in_any_order(name, tasks, monkeypatch):
    config, changes = DECODERS[name]
    model, puzzles, recipe = make_decoder(tasks, config, tokens_per_step=200, **changes)
    nodes = nodes_of_step(model, recipe, puzzles, monkeypatch)
    assert {"_TakeRows", "_TakeEachOnce", "LogSoftmax"} <= nodes
    assert not nodes & (REFUSED | {"Embedding"})


@pytest.mark.parametrize("loss", ["stablemax", "softmax"])
@pytest.mark.parametrize("name", NETWORKS)
def test_no_gradient_of_another_network_is_added_in_any_order(name, loss, tasks, monkeypatch):
    config, conditioning = NETWORKS[name]
    recipe = dataclasses.replace(
        PRESETS["hrm-132k"].adapt, loss=loss, tokens_per_step=200, conditioning=conditioning, context_pairs=1
    )
    config = config.conditioned(recipe)
    puzzles = PuzzleSet(tasks, recipe, config, seed=0)
    nodes = nodes_of_step(build_network(config, puzzles.num_rows, torch.float32), recipe, puzzles, monkeypatch)
    assert not nodes & (REFUSED - (ONE_PER_ROW if loss == "stablemax" else set()))


def test_the_walk_finds_what_it_is_for():
    x, index = torch.ones(3, 2, requires_grad=True), torch.tensor([2, 0])
    found = nodes_under((x[index].sum() + x.index_select(0, index).cumsum(0) + x.gather(0, index[:, None])).sum())
    assert found & REFUSED == {"Index", "IndexSelect", "Cumsum", "Gather"}
