"""Effects of edits against loops over rows; controls of the same size; a network whose causes are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edit_latents.controls import like_latents, random_directions, same_size, unit
from edit_latents.effects import FIELDS, RATIOS, Labels, effect_sums, intervals, ratios
from saetools.errors import UserError
from saetools.scorers.sae import SAE, SAEConfig
from saetools.vision.edits import Operation, latent_change

B, R, C, TARGET = 5, 7, 4, 2


def logits(seed: int) -> torch.Tensor:
    return torch.randn(B, R, C, generator=torch.Generator().manual_seed(seed)) * 2


def softmax(z: list[float]) -> list[float]:
    top = max(z)
    e = [math.exp(v - top) for v in z]
    return [v / sum(e) for v in e]


def by_rows(before: torch.Tensor, after: torch.Tensor, labels: torch.Tensor) -> list[dict[str, float]]:
    """One image, one row, one class after another."""
    found = []
    for image in range(B):
        sums = dict.fromkeys(FIELDS, 0.0)
        for row in range(R):
            z, w, label = before[image, row].tolist(), after[image, row].tolist(), int(labels[image, row])
            was, now = z.index(max(z)), w.index(max(w))
            sums["rows"] += 1
            kind = "target" if was == TARGET else "other"
            sums[f"{kind}_before"] += 1
            sums[f"{kind}_changed"] += was != now
            sums["target_logit"] += w[TARGET] - z[TARGET]
            sums["other_logits"] += sum(w[c] - z[c] for c in range(C) if c != TARGET) / (C - 1)
            p, q = softmax(z), softmax(w)
            sums["kl"] += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            if label >= 0:
                sums["labelled"] += 1
                sums["correct_before"] += was == label
                sums["correct_after"] += now == label
        found.append(sums)
    return found


def test_sums_of_classes_by_rows() -> None:
    before, after = logits(0), logits(1)
    labels = torch.randint(-1, C, (B, R), generator=torch.Generator().manual_seed(2))
    found = effect_sums(before, after, TARGET, Labels(labels))
    expected = [[sums[name] for name in FIELDS] for sums in by_rows(before, after, labels)]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert ratios(found)["accuracy_after"] == pytest.approx(
        sum(row[FIELDS.index("correct_after")] for row in expected) / (labels >= 0).sum().item()
    )


def test_sums_of_traits_by_rows() -> None:
    before, after = logits(3), logits(4)
    value = torch.randint(0, 3, (B, R, C), generator=torch.Generator().manual_seed(5)).double()
    value[value == 2] = torch.nan
    found = dict(zip(FIELDS, effect_sums(before, after, TARGET, Labels(value, False), False).T, strict=True))
    for image in range(B):
        said, changed, flipped, kl, right = 0, 0, 0, 0.0, 0
        for row in range(R):
            for c in range(C):
                z, w = before[image, row, c].item(), after[image, row, c].item()
                p, q = 1 / (1 + math.exp(-z)), 1 / (1 + math.exp(-w))
                kl += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
                if c == TARGET:
                    said += z > 0
                    changed += z > 0 >= w
                else:
                    flipped += (z > 0) != (w > 0)
                label = value[image, row, c].item()
                right += not math.isnan(label) and (w > 0) == (label == 1)
        assert found["target_before"][image] == said
        assert found["target_changed"][image] == changed
        assert found["other_changed"][image] == flipped
        assert found["other_before"][image] == R * (C - 1)
        assert found["correct_after"][image] == right
        assert found["kl"][image] == pytest.approx(kl, rel=1e-6)
    assert found["labelled"].sum() == (~value.isnan()).sum()


def test_intervals_draw_images_and_cover() -> None:
    """Of many samples, about 95% of the intervals hold the truth; patches of an image are drawn together."""
    draw, held, trials = np.random.default_rng(6), 0, 300
    for _ in range(trials):
        sums = np.zeros((60, len(FIELDS)))
        rate = np.clip(draw.normal(0.3, 0.2, 60), 0, 1)  # images differ: rows are no independent samples
        sums[:, FIELDS.index("target_before")] = 40
        sums[:, FIELDS.index("target_changed")] = draw.binomial(40, rate)
        low, high = intervals(sums, 200, seed=1)["target_changed"]
        held += low <= 0.303 <= high  # the mean of the clipped normal distribution
        nan_low, _ = intervals(sums[:3], 5, seed=1)["accuracy_before"]
        assert math.isnan(nan_low)
    assert 0.90 <= held / trials <= 0.98
    again = intervals(sums, 200, seed=1)["target_changed"]
    assert again == (low, high) != intervals(sums, 200, seed=2)["target_changed"]
    assert set(RATIOS) == set(ratios(sums))


def test_nothing_to_divide_by_is_not_a_number() -> None:
    before = torch.zeros(B, R, C)
    before[:, :, 0] = 1  # the target is never predicted
    assert math.isnan(ratios(effect_sums(before, before, TARGET))["target_changed"])
    assert ratios(effect_sums(before, before, 0))["target_changed"] == 0


def test_controls_have_the_latents_size_in_every_patch() -> None:
    draw = torch.Generator().manual_seed(7)
    own = unit(torch.randn(32, generator=draw))
    size = torch.randn(3, 11, generator=draw) * 5
    size[0, :4] = 0  # patches that are not edited
    change = size[..., None] * own
    for direction in (*random_directions(3, 32, seed=0), torch.randn(32, generator=draw) * 100):
        found = same_size(change, own * 3, direction)
        torch.testing.assert_close(found.norm(dim=2), change.norm(dim=2), rtol=1e-5, atol=1e-6)
        assert torch.equal(torch.sign(found @ direction) * (size != 0), torch.sign(size))
    assert torch.equal(random_directions(3, 32, seed=0), random_directions(3, 32, seed=0))
    assert not torch.equal(random_directions(1, 32, seed=0), random_directions(1, 32, seed=1))
    with pytest.raises(UserError, match="zero or not finite"):
        unit(torch.zeros(3))


def test_latents_of_like_frequency() -> None:
    frequency = np.concatenate([np.full(100, 1e-3), np.full(100, 1e-1), np.zeros(100)])
    chosen = like_latents(frequency, 5, 20, seed=0, not_these=[6])
    assert len(set(chosen)) == 20
    assert all(k < 100 and k not in (5, 6) for k in chosen)
    assert (
        chosen
        == like_latents(frequency, 5, 20, seed=0, not_these=[6])
        != like_latents(frequency, 5, 20, seed=1)
    )
    assert like_latents(frequency, 250, 3, seed=0) == []


def test_a_network_whose_cause_is_known() -> None:
    """Two latents fire in the same patches, and the head reads one direction: maps say the same, edits do not."""
    d, draw = 8, torch.Generator().manual_seed(8)
    eye = torch.eye(d)
    sae = SAE(SAEConfig(d, d, "relu"), eye.clone(), torch.zeros(d), eye.clone(), torch.zeros(d))
    there = (torch.rand(40, 9, generator=draw) < 0.3).float()
    x = torch.rand(40, 9, d, generator=draw) * 0.1
    x[..., 0] += 2 * there  # the cause
    x[..., 1] += 3 * there  # goes with it, and nothing reads it
    head = torch.zeros(d, 2)
    head[0, 1], head[2, 0] = 4.0, 4.0

    def predict(state: torch.Tensor) -> torch.Tensor:
        return state @ head - torch.tensor([0.0, 4.0])

    labels, f = Labels(there.long()), sae.encode(x)
    measured = {}
    for latent in (0, 1):
        assert (
            float(((f[..., latent] > 1) == (there > 0)).float().mean()) == 1
        )  # as detectors both are perfect
        change = latent_change(sae, f, latent, Operation("scale", 0.0))
        measured[latent] = ratios(effect_sums(predict(x), predict(x + change), 1, labels))
        control = same_size(change, sae.W_dec[latent], random_directions(1, d, seed=3)[0])
        measured[f"control of {latent}"] = ratios(effect_sums(predict(x), predict(x + control), 1, labels))
    assert measured[0]["target_changed"] == 1
    assert measured[0]["other_changed"] == 0
    assert measured[1]["target_changed"] == 0
    assert measured["control of 0"]["target_changed"] < 0.5
    assert measured[0]["accuracy_before"] == 1 > measured[0]["accuracy_after"]
