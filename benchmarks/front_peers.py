"""Trains the SAEs of other libraries, each with its own trainer; the other half of benchmarks/front.py.

    python front_peers.py TRAIN.npy TEST.npy FOLDER PRECISION < configurations.json

Runs in an environment of its own that has the libraries and none of ours. A configuration has library, kind, k, d_sae,
batch_size, lr (null: the library's own), inputs (normalised as the library does it, or raw) and name. Written is
FOLDER/NAME.npz: W_enc {D, S}, b_enc, W_dec {S, D}, b_dec, k or threshold, as the library saves them for use, the
learning rate, and what the library itself makes of the first test tokens, by which the caller checks its reading.

What is not the library's default: schedules made for 100,000 steps are scaled to the steps there are. Warm-up takes
5% of them, as in train-sae; dictionary-learning's rate falls from 80% on and sae-lens' over the last fifth, as
their published recipes have it; the running threshold of dictionary-learning's BatchTopK begins at three quarters.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

N_CHECKED = 256  # test tokens
Config = dict[str, Any]
Weights = dict[str, Any]


class Batches:
    """The stored tokens as float32 batches {batch_size, D}, in their order, from the start each time."""

    def __init__(self, path: str, batch_size: int) -> None:
        self.tokens_nd, self.size = np.load(path, mmap_mode="r"), batch_size

    def __len__(self) -> int:
        return len(self.tokens_nd) // self.size

    def __getitem__(self, index: int) -> torch.Tensor:
        rows = self.tokens_nd[index * self.size : (index + 1) * self.size]
        return torch.from_numpy(rows.astype(np.float32))

    def __iter__(self) -> Iterator[torch.Tensor]:
        for index in range(len(self)):
            yield self[index]

    def again_and_again(self) -> Iterator[torch.Tensor]:
        while True:
            yield from self


def dictionary_learning(config: Config, batches: Batches, test_nd: torch.Tensor) -> Weights:
    """By `trainSAE`, with normalize_activations as in the library's demo, or without."""
    from dictionary_learning.trainers import batch_top_k, matryoshka_batch_top_k, top_k
    from dictionary_learning.training import trainSAE

    steps, d = len(batches), batches[0].shape[1]
    trainer, dictionary, own = {
        "topk": (top_k.TopKTrainer, top_k.AutoEncoderTopK, {}),
        "batchtopk": (batch_top_k.BatchTopKTrainer, batch_top_k.BatchTopKSAE, {}),
        "matryoshka": (
            matryoshka_batch_top_k.MatryoshkaBatchTopKTrainer,
            matryoshka_batch_top_k.MatryoshkaBatchTopKSAE,
            {"group_fractions": [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2 + 1 / 32]},
        ),
    }[config["kind"]]
    settings = {
        "trainer": trainer, "steps": steps, "activation_dim": d, "dict_size": config["d_sae"], "k": config["k"],
        "lr": config["lr"], "warmup_steps": steps // 20, "decay_start": steps * 4 // 5, "seed": 0, "device": "cpu",
        "threshold_start_step": steps * 3 // 4, "threshold_beta": 0.9, "layer": 0, "lm_name": "", **own,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        normalised = config["inputs"] == "normalised"
        trainSAE(batches, [settings], steps, save_dir=folder, normalize_activations=normalised, device="cpu")
        saved = Path(folder, "trainer_0")
        sae = dictionary.from_pretrained(saved / "ae.pt")
        lr = json.loads((saved / "config.json").read_text())["trainer"]["lr"]
    state = sae.state_dict()
    linear = "encoder.weight" in state
    weights = {
        "W_enc": state["encoder.weight"].T if linear else state["W_enc"],
        "b_enc": state["encoder.bias"] if linear else state["b_enc"],
        "W_dec": state["decoder.weight"].T if linear else state["W_dec"],
        "b_dec": state["b_dec"],
        "lr": lr,
        "x_hat": sae(test_nd),
    }
    return weights | ({"k": config["k"]} if config["kind"] == "topk" else {"threshold": state["threshold"]})


def sae_lens(config: Config, batches: Batches, test_nd: torch.Tensor) -> Weights:
    """By `SAETrainer`; "normalised" inputs are "expected_average_only_in"."""
    from sae_lens import SAE
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes import (
        BatchTopKTrainingSAE,
        BatchTopKTrainingSAEConfig,
        TopKTrainingSAE,
        TopKTrainingSAEConfig,
    )
    from sae_lens.training.sae_trainer import SAETrainer

    made = {
        "topk": (TopKTrainingSAE, TopKTrainingSAEConfig),
        "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig),
    }
    sae_class, config_class = made[config["kind"]]
    steps, d = len(batches), batches[0].shape[1]
    normalize = {"normalised": "expected_average_only_in", "raw": "none"}.get(
        config["inputs"], config["inputs"]
    )
    torch.manual_seed(0)
    sae = sae_class(
        config_class(d_in=d, d_sae=config["d_sae"], k=config["k"], normalize_activations=normalize)
    )
    given = {} if config["lr"] is None else {"lr": config["lr"]}
    settings = SAETrainerConfig(
        total_training_samples=steps * batches.size,
        train_batch_size_samples=batches.size,
        lr_warm_up_steps=steps // 20,
        lr_decay_steps=steps // 5,
        lr_end=0.0,  # it wants one; with a constant rate before the decay it is not used
        n_batches_for_norm_estimate=min(steps, 1000),
        **given,
    )
    SAETrainer(cfg=settings, sae=sae, data_provider=batches.again_and_again()).fit()
    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        used = SAE.load_from_disk(folder)
    state = used.state_dict()
    weights = {name: state[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    weights |= {"lr": settings.lr, "x_hat": used(test_nd)}
    return weights | ({"k": config["k"]} if config["kind"] == "topk" else {"threshold": state["threshold"]})


class StoredTokens(torch.nn.Module):
    """What sparsify's trainer takes for a model: its only layer gives the stored tokens of the ids it is asked for."""

    device = torch.device("cpu")

    def __init__(self, batches: Batches) -> None:
        super().__init__()
        self.layer = torch.nn.Module()
        self.layer.forward = lambda ids: torch.from_numpy(batches.tokens_nd[ids].astype(np.float32))  # type: ignore[method-assign]
        self.dummy_inputs = {"input_ids": torch.zeros(1, 1, dtype=torch.int64)}

    @property
    def base_model(self) -> StoredTokens:
        return self

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.layer(input_ids)


def sparsify(config: Config, batches: Batches, test_nd: torch.Tensor) -> Weights:
    """By `Trainer` on a model that is nothing but the tokens; kind: topk with one of its optimisers, topk-signum."""
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # installed with torch, of no use without a GPU
    from sparsify import SparseCoder, SparseCoderConfig, TrainConfig, Trainer

    ids = torch.arange(len(batches) * batches.size).view(len(batches), batches.size)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainConfig(
            SparseCoderConfig(num_latents=config["d_sae"], k=config["k"]),
            batch_size=1,  # sequences, each of a batch of tokens
            optimizer=config["kind"].partition("-")[2],
            lr=config["lr"],
            lr_warmup_steps=len(batches) // 20,
            hookpoints=["layer"],
            save_every=10**9,
            save_dir=folder,
            log_to_wandb=False,
        )
        trainer = Trainer(settings, [{"input_ids": row} for row in ids], StoredTokens(batches))
        optimiser = trainer.optimizers[0]
        lr = getattr(trainer, "lr_schedulers", None) and trainer.lr_schedulers[0].base_lrs[0]
        lr = lr or optimiser.param_groups[0]["lr"]
        trainer.fit()
        coder = SparseCoder.load_from_disk(Path(folder, "unnamed", "layer"))
    return {
        "W_enc": coder.encoder.weight.T,
        "b_enc": coder.encoder.bias,
        "W_dec": coder.W_dec,
        "b_dec": coder.b_dec,
        "k": config["k"],
        "lr": lr,
        "x_hat": coder(test_nd).sae_out,
    }


LIBRARIES = {"dictionary-learning": dictionary_learning, "sae-lens": sae_lens, "eai-sparsify": sparsify}


def main() -> None:
    train, test, folder, precision = sys.argv[1:]
    torch.set_float32_matmul_precision(precision)
    test_nd = torch.from_numpy(np.load(test)[:N_CHECKED].astype(np.float32))
    for config in json.load(sys.stdin):
        start = time.monotonic()
        batches = Batches(train, config["batch_size"])
        weights = LIBRARIES[config["library"]](config, batches, test_nd)
        weights["seconds"] = time.monotonic() - start
        arrays = {
            name: value.detach().numpy() if isinstance(value, torch.Tensor) else np.array(value)
            for name, value in weights.items()
        }
        np.savez(Path(folder, config["name"] + ".npz"), **arrays)


if __name__ == "__main__":
    main()
