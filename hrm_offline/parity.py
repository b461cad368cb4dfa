"""Hold this implementation against numbers that were computed from the published references.

    python -m hrm_offline parity tests/golden/*.json

A case is `FILE.json`, with its tensors in `FILE.safetensors` beside it. The kinds "hrm" and "trm" are whole forward
passes and training steps of the Hierarchical Reasoning Model and of the Tiny Recursive Model, and so is "urm" of the
Universal Reasoning Model. The kind "ops" is single operations, and "data" is encoding, dihedral transforms, decoding
and voting.
`tests/golden/README.md` describes them. Everything runs through the code that trains and predicts, never through a
second copy of it.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from hrm_offline.answers.vote import Vote, choose_attempts, rank
from hrm_offline.common.errors import InputError, shown
from hrm_offline.common.files import read_json
from hrm_offline.config import ModelConfig, Recipe
from hrm_offline.data.augment import View
from hrm_offline.data.grids import DIHEDRAL_INVERSE, decode_grid, encode_grid
from hrm_offline.model.artifact import read_safetensors
from hrm_offline.model.batching import OfferedBatch, fixed_batch
from hrm_offline.model.halting import Carry, Sequences
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.ops.adam_atan2 import adam_atan2_
from hrm_offline.ops.attention import attention
from hrm_offline.ops.muon import muon_
from hrm_offline.ops.rms_norm import rms_norm
from hrm_offline.ops.rope import rope, rope_cos_sin
from hrm_offline.ops.sign_sgd import sign_sgd_
from hrm_offline.ops.stablemax_cross_entropy import stablemax_cross_entropy
from hrm_offline.ops.swiglu import swiglu
from hrm_offline.train.learner import Learner, Part
from hrm_offline.train.optim import Muon

KEY_PREFIX = "model.inner."
_BASE_TOLERANCE = 1e-4
_FLIPPED_SIGNS = 1e-3  # share of puzzle embedding elements whose near-zero gradient may have the other sign


class Comparison:
    """The largest difference by kind of tensor, relative to each tensor's peak magnitude.

    `own_error` is the reference's own difference between float32 and float64, by kind, as the case has it.
    """

    def __init__(self, own_error: dict[str, dict[str, float]] | None = None):
        self.own_error = own_error or {}
        self.worst: dict[str, float] = {}

    def tolerance(self, kind: str) -> float:
        """Return the difference allowed: 1e-4, or 5 times the reference's own from float32 to float64 if more."""
        return max(_BASE_TOLERANCE, 5 * self.own_error.get(kind, {}).get("max_rel_to_peak", 0.0))

    def add(self, kind: str, ours, expected, flip: float | None = None) -> None:
        """Compare a tensor. Integers and booleans must be equal.

        Where `flip` is given, up to 0.1% of the elements may differ by that much: by one step of sign-SGD in the other
        direction.
        """
        ours, expected = torch.as_tensor(ours), torch.as_tensor(expected)
        if expected.numel() == 1:
            ours, expected = ours.reshape(-1), expected.reshape(-1)
        if ours.shape != expected.shape:
            self._note(kind, float("inf"))
        elif expected.dtype.is_floating_point:
            self._note(kind, self._relative_difference(kind, ours.double(), expected.double(), flip))
        else:
            self._note(kind, 0.0 if torch.equal(ours.long(), expected.long()) else float("inf"))

    def _relative_difference(self, kind: str, ours: torch.Tensor, expected: torch.Tensor, flip: float | None) -> float:
        difference = (ours - expected).abs().flatten()
        peak = float(expected.abs().max()) or 1.0
        if flip is not None:
            is_beyond = difference > self.tolerance(kind) * peak
            is_flipped = is_beyond & ((difference - flip).abs() < 1e-3 * flip)
            if is_flipped.sum() <= _FLIPPED_SIGNS * len(difference):
                difference = difference[~is_flipped]
        return float(difference.max()) / peak

    def same(self, kind: str, ours, expected) -> None:
        """Compare two plain values; they must be equal."""
        self._note(kind, 0.0 if ours == expected else float("inf"))

    def _note(self, kind: str, difference: float) -> None:
        if math.isnan(difference):
            difference = float("inf")  # a NaN must fail, and max() would drop it
        self.worst[kind] = max(self.worst.get(kind, 0.0), difference)

    @property
    def passed(self) -> bool:
        """Return whether every kind is within its tolerance."""
        return all(difference <= self.tolerance(kind) for kind, difference in self.worst.items())

    def as_text(self) -> str:
        """Return one line per kind of tensor: largest difference, tolerance, verdict."""
        lines = [f"{'kind of tensor':<32}{'largest':>12}{'tolerance':>12}"]
        for kind, difference in self.worst.items():
            verdict = "ok" if difference <= self.tolerance(kind) else "FAIL"
            lines.append(f"{kind:<32}{difference:>12.3g}{self.tolerance(kind):>12.3g}  {verdict}")
        return "\n".join(lines)


def run_case(path: str | Path) -> Comparison:
    """Compare with one case. Raises `InputError` where its files cannot be used."""
    path = Path(path)
    case = read_json(path)
    kind = case.get("kind") if isinstance(case, dict) else None
    if kind not in (*_NETWORKS, "ops", "data"):
        raise InputError(f"{path}: kind is {kind!r}, expected {', '.join(_NETWORKS)}, ops or data")
    tensors = {} if kind == "data" else read_safetensors(path.with_suffix(".safetensors"))
    try:
        if kind == "data":
            return _compare_data(case)
        if kind == "ops":
            return _compare_muon(case, tensors) if "muon" in case else _compare_ops(case, tensors)
        return _compare_network(case, tensors, model_config(case["config"], kind), recipe_of(case["optim"]))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except KeyError as error:
        raise InputError(f"{path}: {error} is missing or unknown") from None
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: holds no such case ({type(error).__name__}: {error})") from None


def model_config(reference: dict, kind: str) -> ModelConfig:
    """Return a reference's configuration in our terms. Its sequence becomes a canvas of one row.

    Raises `InputError` for what our networks do not have.
    """
    return ModelConfig(
        **_NETWORKS[kind](reference),
        hidden_size=reference["hidden_size"],
        num_heads=reference["num_heads"],
        H_cycles=reference["H_cycles"],
        L_cycles=reference["L_cycles"],
        expansion=float(reference["expansion"]),
        rms_norm_eps=reference.get("rms_norm_eps", 1e-5),
        vocab_size=reference["vocab_size"],
        rope_theta=reference.get("rope_theta", 10000.0),
        canvas_rows=1,
        canvas_cols=reference["seq_len"],
        puzzle_columns=1 if reference["puzzle_emb_ndim"] else 0,
        puzzle_emb_ndim=reference["puzzle_emb_ndim"],
        halt_exploration_prob=reference["halt_exploration_prob"],
    )


def _positions(reference: dict) -> str:
    known = {"rope": "rope-1d", "learned": "learned"}
    if reference["pos_encodings"] not in known:
        raise InputError(f"pos_encodings is {shown(reference['pos_encodings'])}, expected {' or '.join(known)}")
    return known[reference["pos_encodings"]]


def _hrm_settings(reference: dict) -> dict:
    """Return what the Hierarchical Reasoning Model has of its own in our terms."""
    return dict(
        H_layers=reference["H_layers"],
        L_layers=reference["L_layers"],
        positions=_positions(reference),
        halt_max_steps=reference["halt_max_steps"],
    )


def _trm_settings(reference: dict) -> dict:
    """Return what the Tiny Recursive Model has of its own in our terms. Raises `InputError` for its form for Sudoku."""
    if reference.get("mlp_t"):
        raise InputError("mlp_t is true, expected false: only networks with attention are supported")
    return dict(
        architecture="shared",
        H_layers=0,
        L_layers=reference["L_layers"],
        positions=_positions(reference),
        puzzle_tokens=reference["puzzle_emb_len"],
        halting="halt-only" if reference["no_ACT_continue"] else "q-learning",
        halt_max_steps=reference["halt_max_steps"],
    )


def _urm_settings(reference: dict) -> dict:
    """Return what the Universal Reasoning Model has of its own in our terms. Its positions are always rotary."""
    return dict(
        architecture="looped",
        H_layers=reference["num_layers"],
        L_layers=0,
        mlp_convolution=True,
        halting="halt-only",
        halt_max_steps=reference["loops"],
    )


_NETWORKS = {"hrm": _hrm_settings, "trm": _trm_settings, "urm": _urm_settings}


def recipe_of(optim: dict) -> Recipe:
    """Return the recipe of a case's training in our terms. Raises `InputError` for what our optimisers do not have."""
    muon, adam = optim.get("muon"), optim.get("adam", optim)
    if muon is not None:
        _require_our_muon(muon, adam)
        for name in ("lr", "weight_decay"):
            if muon[name] != adam[name]:
                raise InputError(f"{name} of muon is {muon[name]} and that of adam {adam[name]}, expected one for both")
    return Recipe(
        optimizer="adam-atan2" if muon is None else "muon",
        lr=adam["lr"],
        beta1=adam["betas"][0],
        beta2=adam["betas"][1],
        weight_decay=adam["weight_decay"],
        puzzle_emb_lr=optim["puzzle_emb_lr"],
        puzzle_emb_weight_decay=optim["puzzle_emb_weight_decay"],
        warmup_steps=0,
        ema=optim.get("ema_rate", 0.0),
        ema_rises=False,
        loss="stablemax",
        halting_target="look-ahead",
    )


def _require_our_muon(muon: dict, adam: dict) -> None:
    """Raise `InputError` where a case's Muon, or the Adam beside it, has other constants than ours."""
    ours = {"momentum": 0.95, "nesterov": True, "ns_steps": 5, "matched_adamw_rms": 0.2, "eps": 1e-8}
    given = muon | {"eps": adam["eps"]}
    for name, value in ours.items():
        if given[name] != value:
            raise InputError(f"{name} is {shown(given[name])}, expected {value}")


def _compare_network(case: dict, tensors: dict[str, torch.Tensor], config: ModelConfig, recipe: Recipe) -> Comparison:
    compare = Comparison(case["float32_vs_float64"])
    weights = {
        key.removeprefix("weights/" + KEY_PREFIX): value for key, value in tensors.items() if key.startswith("weights/")
    }
    model = RecursiveModel(config, case["config"]["num_puzzle_identifiers"])
    model.load_state_dict(weights)
    _compare_evaluation(compare, model, case, tensors)
    model.load_state_dict(weights)
    _compare_training(compare, model, recipe, tensors)
    return compare


def _case_batch(tensors: dict[str, torch.Tensor], prefix: str, model: RecursiveModel) -> OfferedBatch:
    """Return a batch of the case as the learner takes it."""
    ids = tensors[f"{prefix}/puzzle_identifiers"].long()
    sequences = Sequences(
        tensors[f"{prefix}/inputs"].int(),
        tensors[f"{prefix}/labels"].long(),
        ids[:, None][:, : model.config.puzzle_columns],
    )
    return fixed_batch(sequences, (model.config.canvas_rows, model.config.canvas_cols))


@torch.no_grad()
def _compare_evaluation(
    compare: Comparison, model: RecursiveModel, case: dict, tensors: dict[str, torch.Tensor]
) -> None:
    batch = _case_batch(tensors, "batch", model)
    sequences = batch.sequences(slice(None))
    vectors = model.puzzle_vectors(sequences.puzzle_identifiers)
    z_H, z_L = model.initial_states(batch.size, batch.canvas)
    for step in range(1, case["outer_steps"] + 1):
        z_H, z_L, output = model(z_H, z_L, sequences.inputs, vectors, batch.canvas)
        ours = {
            "logits": output.logits,
            "q_halt_logits": output.q_halt,
            "q_continue_logits": output.q_continue,
            "z_H": z_H,
            "z_L": z_L,
            "current_hidden": z_H,  # its name where it is the only state
        }
        for name in _names(tensors, f"eval/step{step}/"):
            compare.add(f"eval/{name}", ours[name], tensors[f"eval/step{step}/{name}"])


def _compare_training(
    compare: Comparison, model: RecursiveModel, recipe: Recipe, tensors: dict[str, torch.Tensor]
) -> None:
    learner = Learner(model, recipe, total_steps=3, seed=0)
    step = 1
    while f"train/step{step}/loss" in tensors:
        prefix = f"train/step{step}"
        (result,) = learner.learn(_case_batch(tensors, f"{prefix}/batch", model))
        compare.add("train/loss", result.metrics["loss"], tensors[f"{prefix}/loss"])
        for name in _names(tensors, f"{prefix}/metrics/"):
            compare.add(f"train/{name}", result.metrics[name], tensors[f"{prefix}/metrics/{name}"])
        for name, value in _step_tensors(result, learner.carries[0, 0]).items():
            if f"{prefix}/{name}" in tensors:
                compare.add(f"train/{name}", value, tensors[f"{prefix}/{name}"])
        for key in _names(tensors, f"{prefix}/grad/"):
            grad = _gradient(model, result, key.removeprefix(KEY_PREFIX))
            compare.add("train/grad", grad, tensors[f"{prefix}/grad/{key}"])
        for key in _names(tensors, f"{prefix}/weights_after/"):
            name = key.removeprefix(KEY_PREFIX)
            flip = 2 * recipe.puzzle_emb_lr if name == "puzzle_emb.weights" else None
            compare.add("train/weights_after", model.state_dict()[name], tensors[f"{prefix}/weights_after/{key}"], flip)
        averages = _averages(learner)
        for key in _names(tensors, f"{prefix}/ema/"):
            compare.add("train/ema", averages[key.removeprefix(KEY_PREFIX)], tensors[f"{prefix}/ema/{key}"])
        step += 1


def _averages(learner: Learner) -> dict[str, torch.Tensor]:
    """Return the averaged weights by the names of their parameters."""
    names = [name for name, _ in learner.model.named_parameters()]
    return dict(zip(names, learner.ema.average)) if learner.ema else {}


def _names(tensors: dict[str, torch.Tensor], prefix: str) -> list[str]:
    """Return the names of the tensors that begin with a prefix, without it."""
    return [key.removeprefix(prefix) for key in tensors if key.startswith(prefix)]


def _step_tensors(result: Part, carry: Carry) -> dict[str, torch.Tensor]:
    """Return the tensors of a training step by the reference's names."""
    output, continuation = result.step.output, result.step.continuation
    tensors = {
        "logits": output.logits,
        "q_halt_logits": output.q_halt,
        "q_continue_logits": output.q_continue,
        "halted": carry.halted,
        "steps": carry.steps,
    }
    if continuation is not None:
        tensors["target_q_continue"] = continuation.target
    return {name: value.detach() for name, value in tensors.items()}


def _gradient(model: RecursiveModel, result: Part, name: str) -> torch.Tensor:
    """Return the gradient of a parameter by the reference's name."""
    if name == "puzzle_emb.local_weights":  # the reference's copy of the batch's rows
        return result.puzzle_vectors.grad.flatten(1)
    return model.get_parameter(name).grad


def _compare_ops(case: dict, tensors: dict[str, torch.Tensor]) -> Comparison:
    compare = Comparison()
    _compare_rms_norm(compare, case, tensors)
    _compare_rope(compare, case, tensors)
    _compare_attention(compare, tensors)
    _compare_swiglu(compare, tensors)
    _compare_stablemax(compare, tensors)
    _compare_optimisers(compare, case, tensors)
    return compare


def _leaf(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy that collects a gradient."""
    return tensor.clone().requires_grad_()


def _compare_rms_norm(compare: Comparison, case: dict, tensors: dict[str, torch.Tensor]) -> None:
    x = _leaf(tensors["rms_norm/x"])
    y = rms_norm(x, case["rms_norm_eps"])
    y.backward(tensors["rms_norm/grad_y"])
    compare.add("rms_norm", y.detach(), tensors["rms_norm/y"])
    compare.add("rms_norm grad", x.grad, tensors["rms_norm/grad_x"])


def _compare_rope(compare: Comparison, case: dict, tensors: dict[str, torch.Tensor]) -> None:
    q = tensors["rope/q"]  # [B, T, heads, head dimension]
    cos_sin = rope_cos_sin("rope-1d", (1, q.shape[1]), 0, q.shape[1], q.shape[3], case["rope_theta"], q.device)
    # Ours holds each angle once, the reference's twice.
    for name, half in zip(("cos", "sin"), cos_sin.chunk(2, dim=1)):
        compare.add("rope table", torch.cat([half, half], dim=1), tensors[f"rope/{name}"])
    for name in ("q", "k"):
        compare.add("rope", rope(tensors[f"rope/{name}"], cos_sin), tensors[f"rope/{name}_out"])


def _compare_attention(compare: Comparison, tensors: dict[str, torch.Tensor]) -> None:
    leaves = {name: _leaf(tensors[f"attention/{name}"]) for name in "qkv"}
    num_heads = leaves["q"].shape[2]
    qkv = torch.cat(list(leaves.values()), dim=2).flatten(2)  # [B, T, 3 x heads x head dimension]
    out = attention(qkv, num_heads).view(tensors["attention/out"].shape)
    out.backward(tensors["attention/grad_out"])
    compare.add("attention", out.detach(), tensors["attention/out"])
    for name, leaf in leaves.items():
        compare.add("attention grad", leaf.grad, tensors[f"attention/grad_{name}"])


def _compare_swiglu(compare: Comparison, tensors: dict[str, torch.Tensor]) -> None:
    x = _leaf(tensors["swiglu/x"])
    gate_up, down = _leaf(tensors["swiglu/gate_up_weight"]), _leaf(tensors["swiglu/down_weight"])
    y = swiglu(x @ gate_up.T) @ down.T
    y.backward(tensors["swiglu/grad_y"])
    compare.add("swiglu", y.detach(), tensors["swiglu/y"])
    for name, leaf in (("grad_x", x), ("grad_gate_up", gate_up), ("grad_down", down)):
        compare.add("swiglu grad", leaf.grad, tensors[f"swiglu/{name}"])


def _compare_stablemax(compare: Comparison, tensors: dict[str, torch.Tensor]) -> None:
    logits = _leaf(tensors["stablemax/logits"])
    loss = stablemax_cross_entropy(logits, tensors["stablemax/labels"])
    loss.sum().backward()
    compare.add("stablemax", loss.detach(), tensors["stablemax/loss"])
    compare.add("stablemax grad", logits.grad, tensors["stablemax/grad_logits_of_sum"])


def _compare_optimisers(compare: Comparison, case: dict, tensors: dict[str, torch.Tensor]) -> None:
    weights = tensors["sign_sgd/weights"].clone()
    sign_sgd_(weights, tensors["sign_sgd/ids"].long(), tensors["sign_sgd/grad_rows"], **case["sign_sgd"])
    compare.add("sign_sgd", weights, tensors["sign_sgd/weights_after"])

    optim = case["optim"]
    param = tensors["adam_atan2/param"].clone()
    m, v = torch.zeros_like(param), torch.zeros_like(param)
    step = 1
    while f"adam_atan2/grad{step}" in tensors:
        adam_atan2_(
            [param],
            [tensors[f"adam_atan2/grad{step}"]],
            [m],
            [v],
            step=step,
            lr=optim["lr"],
            beta1=optim["betas"][0],
            beta2=optim["betas"][1],
            weight_decay=optim["weight_decay"],
        )
        compare.add("adam_atan2", param, tensors[f"adam_atan2/param_after{step}"])
        step += 1


def _compare_muon(case: dict, tensors: dict[str, torch.Tensor]) -> Comparison:
    """Compare five steps of Muon on matrices, and of the Adam beside it on other parameters."""
    compare, muon, adam = Comparison(case["float32_vs_float64"]), case["muon"], case["adam"]
    _require_our_muon(muon, adam)
    params = {name: _leaf(tensors[f"muon/param/{name}"]) for name in _names(tensors, "muon/param/")}
    unrounded = {name: param.detach().clone() for name, param in params.items() if param.ndim == 2}
    momenta = {name: torch.zeros_like(value) for name, value in unrounded.items()}
    groups = [
        {
            "params": [param for param in params.values() if (param.ndim == 2) is matrices],
            "matrices": matrices,
            "base_lr": given["lr"],
            "weight_decay": given["weight_decay"],
        }
        for matrices, given in ((True, muon), (False, adam))
    ]
    optimizer = Muon(groups, tuple(adam["betas"]))
    step = 1
    while grads := {name: tensors[f"muon/grad{step}/{name}"] for name in _names(tensors, f"muon/grad{step}/")}:
        before = {name: param.detach().clone() for name, param in params.items()}
        for name, param in params.items():
            param.grad = grads[name]
        optimizer.step()
        after = {name: param.detach() for name, param in params.items()}
        _compare_muon_step(compare, "muon", step, before, after, muon, tensors)
        for name in _names(tensors, f"muon/momentum{step}/"):
            momentum = optimizer.state[params[name]]["m"]
            compare.add("muon/momentum", momentum, tensors[f"muon/momentum{step}/{name}"])
        before = {name: value.clone() for name, value in unrounded.items()}
        muon_(
            list(unrounded.values()),
            [grads[name] for name in unrounded],
            list(momenta.values()),
            lr=muon["lr"],
            weight_decay=muon["weight_decay"],
            rounded=False,
        )
        _compare_muon_step(compare, "muon_float32", step, before, unrounded, muon, tensors)
        step += 1
    return compare


def _compare_muon_step(
    compare: Comparison,
    version: str,
    step: int,
    before: dict[str, torch.Tensor],
    after: dict[str, torch.Tensor],
    muon: dict,
    tensors: dict[str, torch.Tensor],
) -> None:
    """Compare parameters after a step, and the directions in which the matrices moved."""
    for name in _names(tensors, f"{version}/param_after{step}/"):
        compare.add(f"{version}/param_after", after[name], tensors[f"{version}/param_after{step}/{name}"])
    for name in _names(tensors, f"{version}/direction{step}/"):
        decayed = before[name].double() * (1 - muon["lr"] * muon["weight_decay"])
        length = muon["lr"] * muon["matched_adamw_rms"] * max(decayed.shape) ** 0.5
        moved = (decayed - after[name].double()) / length
        compare.add(f"{version}/direction", moved, tensors[f"{version}/direction{step}/{name}"])


def _compare_data(case: dict) -> Comparison:
    compare = Comparison()
    _compare_dihedral(compare, case["dihedral"])
    _compare_encoding(compare, case["encoding"], case["crop"])
    _compare_vote(compare, case["vote"])
    return compare


def _compare_dihedral(compare: Comparison, items: list[dict]) -> None:
    for item in items:
        grid = np.array(item["grid"], dtype=np.uint8)
        compare.same("dihedral", [View(e).apply(grid).tolist() for e in range(8)], item["transformed"])
        compare.same("dihedral inverse", list(DIHEDRAL_INVERSE), item["inverse_id"])
        for element in range(8):
            view = View(element)
            compare.same("dihedral inverse", view.invert(view.apply(grid)).tolist(), item["grid"])


def _compare_encoding(compare: Comparison, encoded: list[dict], cropped: list[dict]) -> None:
    for item in encoded:
        canvas, corner = tuple(item["canvas"]), tuple(item["offset"])
        for grid, tokens in (("input", "input_tokens"), ("output", "label_tokens")):
            ours = encode_grid(np.array(item[grid], dtype=np.uint8), canvas, corner)
            compare.same("encoding", ours.tolist(), _tokens(item[tokens]).tolist())
    for item in cropped:
        grid = decode_grid(_tokens(item["tokens"]), (30, 30))
        compare.same("crop", list(grid.shape), item["shape"])
        compare.same("crop", grid.tolist(), item["grid"])


def _compare_vote(compare: Comparison, items: list[dict]) -> None:
    for item in items:
        candidates = [np.array(c, dtype=np.uint8) for c in item["candidates"]]
        ranking = rank([Vote(candidates[i], q) for i, q in item["pool"]])
        expected = [(item["candidates"][r["candidate"]], r["count"]) for r in item["ranking"]]
        compare.same("vote", [(c.grid.tolist(), c.count) for c in ranking], expected)
        for ours, theirs in zip(ranking, item["ranking"]):
            compare.add("vote confidence", ours.confidence, torch.tensor(theirs["mean_q"], dtype=torch.float64))
        compare.same("attempts", [g.tolist() for g in choose_attempts(ranking)], item["attempts"])


def _tokens(text: str) -> np.ndarray:
    """Return the tokens of a string in the cases' alphabet: each character's index in ' .0123456789'."""
    return np.array([" .0123456789".index(character) for character in text], dtype=np.uint8)
