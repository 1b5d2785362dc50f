"""Trains the SAEs of other libraries for benchmarks/front.py, each with its own trainer.

    python front_peers.py FOLDER PRECISION < configurations

Runs in a separate environment that has these libraries and none of ours. A configuration is a line of JSON with
trainer (a library and, for eai-sparsify, its optimiser), kind (topk or batchtopk), k, d_sae, batch_size, lr, warmup
(fraction of the steps), seed, tokens (.npy, in the order of training), check (.npy) and name. It writes
FOLDER/NAME.npz: W_enc {D, S}, b_enc, W_dec {S, D}, b_dec, k or threshold, as the library saves them for use; the wall
and CPU seconds; and the library's own output for the first tokens of `check`, with which the caller verifies its
reading. Then it prints NAME.

Settings are the defaults of each library, except: the learning rate has linear warm-up over `warmup` and linear decay
to 0; signum of eai-sparsify is schedule-free and has neither. dictionary-learning's inputs are scaled to unit mean
square norm, as in its published runs; sae-lens and eai-sparsify do not scale them, which is their default. The running
threshold of dictionary-learning's BatchTopK, designed for 100,000 steps, starts at three quarters of the steps.
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

N_CHECKED = 256  # tokens
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


def dictionary_learning(config: Config, batches: Batches, check_nd: torch.Tensor) -> Weights:
    """By `trainSAE`, with normalize_activations as in the library's demo."""
    from dictionary_learning.trainers import batch_top_k, top_k
    from dictionary_learning.training import trainSAE

    steps, d = len(batches), batches[0].shape[1]
    warmup = round(config["warmup"] * steps)
    trainer, dictionary = {
        "topk": (top_k.TopKTrainer, top_k.AutoEncoderTopK),
        "batchtopk": (batch_top_k.BatchTopKTrainer, batch_top_k.BatchTopKSAE),
    }[config["kind"]]
    settings = {
        "trainer": trainer, "steps": steps, "activation_dim": d, "dict_size": config["d_sae"], "k": config["k"],
        "lr": config["lr"], "warmup_steps": warmup, "decay_start": warmup + 1, "seed": config["seed"], "device": "cpu",
        "threshold_start_step": steps * 3 // 4, "threshold_beta": 0.9, "layer": 0, "lm_name": "",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        trainSAE(batches, [settings], steps, save_dir=folder, normalize_activations=True, device="cpu")
        sae = dictionary.from_pretrained(Path(folder, "trainer_0", "ae.pt"))
    state = sae.state_dict()
    linear = "encoder.weight" in state
    weights = {
        "W_enc": state["encoder.weight"].T if linear else state["W_enc"],
        "b_enc": state["encoder.bias"] if linear else state["b_enc"],
        "W_dec": state["decoder.weight"].T if linear else state["W_dec"],
        "b_dec": state["b_dec"],
        "x_hat": sae(check_nd),
    }
    return weights | ({"k": config["k"]} if config["kind"] == "topk" else {"threshold": state["threshold"]})


def sae_lens(config: Config, batches: Batches, check_nd: torch.Tensor) -> Weights:
    """By `SAETrainer`."""
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
    warmup = round(config["warmup"] * steps)
    torch.manual_seed(config["seed"])
    sae = sae_class(config_class(d_in=d, d_sae=config["d_sae"], k=config["k"]))
    settings = SAETrainerConfig(
        total_training_samples=steps * batches.size,
        train_batch_size_samples=batches.size,
        lr=config["lr"],
        lr_warm_up_steps=warmup,
        lr_decay_steps=steps - warmup - 1,
        lr_end=config["lr"],  # of the constant part, a step long
    )
    SAETrainer(cfg=settings, sae=sae, data_provider=batches.again_and_again()).fit()
    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        used = SAE.load_from_disk(folder)
    state = used.state_dict()
    weights = {name: state[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    weights["x_hat"] = used(check_nd)
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


def sparsify(config: Config, batches: Batches, check_nd: torch.Tensor) -> Weights:
    """By `Trainer` on a model that is nothing but the tokens."""
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # installed with torch, of no use without a GPU
    from sparsify import SparseCoder, SparseCoderConfig, TrainConfig, Trainer

    ids = torch.arange(len(batches) * batches.size).view(len(batches), batches.size)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainConfig(
            SparseCoderConfig(num_latents=config["d_sae"], k=config["k"]),
            batch_size=1,  # sequences, each of a batch of tokens
            optimizer=config["trainer"].split()[1],
            lr=config["lr"],
            lr_warmup_steps=round(config["warmup"] * len(batches)),
            init_seeds=[config["seed"]],
            hookpoints=["layer"],
            save_every=10**9,
            save_dir=folder,
            log_to_wandb=False,
        )
        trainer = Trainer(settings, [{"input_ids": row} for row in ids], StoredTokens(batches))
        trainer.fit()
        coder = SparseCoder.load_from_disk(Path(folder, "unnamed", "layer"))
    return {
        "W_enc": coder.encoder.weight.T,
        "b_enc": coder.encoder.bias,
        "W_dec": coder.W_dec,
        "b_dec": coder.b_dec,
        "k": config["k"],
        "x_hat": coder(check_nd).sae_out,
    }


LIBRARIES = {"dictionary-learning": dictionary_learning, "sae-lens": sae_lens, "eai-sparsify": sparsify}


def main() -> None:
    folder, precision = sys.argv[1:]
    replies, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        config = json.loads(line)
        torch.set_float32_matmul_precision(precision)  # sparsify changes it
        start, cpu_start = time.monotonic(), time.process_time()
        check_nd = torch.from_numpy(np.load(config["check"], mmap_mode="r")[:N_CHECKED].astype(np.float32))
        batches = Batches(config["tokens"], config["batch_size"])
        weights = LIBRARIES[config["trainer"].split()[0]](config, batches, check_nd)
        weights |= {"seconds": time.monotonic() - start, "cpu_seconds": time.process_time() - cpu_start}
        arrays = {
            name: value.detach().numpy() if isinstance(value, torch.Tensor) else np.array(value)
            for name, value in weights.items()
        }
        unfinished = Path(folder, config["name"] + ".unfinished.npz")
        np.savez(unfinished, **arrays)
        unfinished.rename(Path(folder, config["name"] + ".npz"))
        print(config["name"], file=replies, flush=True)


if __name__ == "__main__":
    main()
