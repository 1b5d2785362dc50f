"""Effects of edits against loops over rows; controls of the same size; a network whose causes are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edit_latents.controls import like_latents, random_directions, same_size, unit
from edit_latents.effects import FIELDS, RATIOS, SUMS, Resamples, effect_sums, interval, loss_sums, ratios
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
        sums = dict.fromkeys(SUMS, 0.0)
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
    found = effect_sums(before, after, torch.full((B,), TARGET), labels)
    rows = by_rows(before, after, labels)
    np.testing.assert_allclose(found, [[sums[name] for name in SUMS] for sums in rows], rtol=1e-6, atol=1e-6)
    right = sum(row["correct_after"] for row in rows) / (labels >= 0).sum().item()
    assert of_images(found)["accuracy_after"] == pytest.approx(right)


def test_each_image_has_its_own_target() -> None:
    before, after = logits(0), logits(1)
    targets = torch.tensor([0, 1, 2, 3, 0])
    together = effect_sums(before, after, targets)
    for image, target in enumerate(targets):
        alone = effect_sums(before[[image]], after[[image]], target[None])
        np.testing.assert_allclose(together[[image]], alone, rtol=1e-12, atol=1e-12)


def test_losses_by_rows() -> None:
    z = logits(0)
    labels = torch.randint(-1, C, (B, R), generator=torch.Generator().manual_seed(2))
    for image, (known, right, loss) in enumerate(loss_sums(z, labels)):
        rows = [(z[image, row].tolist(), int(labels[image, row])) for row in range(R)]
        rows = [(logit, label) for logit, label in rows if label >= 0]
        assert known == len(rows)
        assert right == sum(logit.index(max(logit)) == label for logit, label in rows)
        assert loss == pytest.approx(-sum(math.log(softmax(logit)[label]) for logit, label in rows), rel=1e-6)
    value = torch.randint(0, 3, (B, R, C), generator=torch.Generator().manual_seed(5)).double()
    value[value == 2] = torch.nan
    for image, (known, right, loss) in enumerate(loss_sums(z, value, softmax=False)):
        cells = [(z[image, r, c].item(), value[image, r, c].item()) for r in range(R) for c in range(C)]
        cells = [(logit, label) for logit, label in cells if not math.isnan(label)]
        p = [1 / (1 + math.exp(-logit)) for logit, _ in cells]
        expected = -sum(math.log(q if label else 1 - q) for q, (_, label) in zip(p, cells, strict=True))
        assert (known, right) == (len(cells), sum((logit > 0) == label for logit, label in cells))
        assert loss == pytest.approx(expected, rel=1e-6)


def test_sums_of_traits_by_rows() -> None:
    before, after = logits(3), logits(4)
    value = torch.randint(0, 3, (B, R, C), generator=torch.Generator().manual_seed(5)).double()
    value[value == 2] = torch.nan
    sums = effect_sums(before, after, torch.full((B,), TARGET), value, softmax=False)
    found = dict(zip(SUMS, sums.T, strict=True))
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


def of_images(sums_bf: np.ndarray) -> dict[str, float]:
    """Measures of images {b, SUMS}, of which no patch is edited."""
    total = np.concatenate([sums_bf.sum(0), np.zeros(len(FIELDS) - len(SUMS))])
    return {name: float(value) for name, value in ratios(total).items()}


def test_intervals_draw_images_and_cover() -> None:
    """Of many samples, about 95% of the intervals hold the truth; patches of an image are drawn together."""
    draw, held, trials = np.random.default_rng(6), 0, 300
    for trial in range(trials):
        sums = np.zeros((60, 1, len(FIELDS)))
        rate = np.clip(draw.normal(0.3, 0.2, 60), 0, 1)  # images differ: rows are no independent samples
        sums[:, 0, FIELDS.index("target_before")] = 40
        sums[:, 0, FIELDS.index("target_changed")] = draw.binomial(40, rate)
        drawn = Resamples(200, trial, (1, len(FIELDS)))
        for block in range(4):
            drawn.add(block, sums[15 * block : 15 * (block + 1)])
        np.testing.assert_allclose(drawn.total, sums.sum(0))
        found = ratios(drawn.drawn[:, 0])
        low, high = interval(found["target_changed"])
        held += low <= 0.303 <= high  # the mean of the clipped normal distribution
        assert all(math.isnan(end) for end in interval(found["accuracy_before"]))
    assert 0.90 <= held / trials <= 0.98
    assert set(RATIOS) == set(found)


def test_the_same_seed_draws_the_same_images() -> None:
    sums = np.random.default_rng(0).random((30, 2, 3))

    def drawn(seed: int) -> np.ndarray:
        resamples = Resamples(20, seed, (2, 3))
        resamples.add(0, sums)
        return resamples.drawn

    assert np.array_equal(drawn(1), drawn(1))
    assert not np.array_equal(drawn(1), drawn(2))
    alone = Resamples(20, 1, (3,))
    alone.add(0, sums[:, 1])
    np.testing.assert_allclose(alone.drawn, drawn(1)[:, 1])  # of other edits, the same images


def test_nothing_to_divide_by_is_not_a_number() -> None:
    before = torch.zeros(B, R, C)
    before[:, :, 0] = 1  # the target is never predicted
    never, always = (effect_sums(before, before, torch.full((B,), c)) for c in (TARGET, 0))
    assert math.isnan(of_images(never)["target_changed"])
    assert of_images(always)["target_changed"] == 0
    assert math.isnan(of_images(always)["relative_change"])


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

    labels, f = there.long(), sae.encode(x)
    targets = torch.ones(40, dtype=torch.long)

    def measure(change: torch.Tensor) -> dict[str, float]:
        return of_images(effect_sums(predict(x), predict(x + change), targets, labels))

    measured = {}
    for latent in (0, 1):
        assert (
            float(((f[..., latent] > 1) == (there > 0)).float().mean()) == 1
        )  # as detectors both are perfect
        change = latent_change(sae, f, latent, Operation("scale", 0.0))
        measured[latent] = measure(change)
        control = same_size(change, sae.W_dec[latent], random_directions(1, d, seed=3)[0])
        measured[f"control of {latent}"] = measure(control)
    assert measured[0]["target_changed"] == 1
    assert measured[0]["other_changed"] == 0
    assert measured[1]["target_changed"] == 0
    assert measured["control of 0"]["target_changed"] < 0.5
    assert measured[0]["accuracy_before"] == 1 > measured[0]["accuracy_after"]
