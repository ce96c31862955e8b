"""Training data that are drawn anew in every epoch: other bits each time, and the same training again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from training_cases import FAST, Rows, equal, pair, weights

from flowvae.data.batch import Batch
from flowvae.data.images.pixels import Pixels
from flowvae.data.images.preprocessing import Preprocessing
from flowvae.inference import Fitted, fit

IMAGES = torch.randint(0, 256, (50, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
X = Pixels(IMAGES, Preprocessing(values="dynamic"), seed=0)
V = X[torch.arange(20)]


def trained(
    train: Pixels | Batch, epochs: int = 3, seed: int = 0, checkpoint: Path | None = None, condition: int = 0
) -> tuple[nn.ModuleDict, Fitted]:
    parts = pair(3, condition=condition)
    valid = V if condition == 0 else Batch(V, torch.ones(20, condition))
    settings = replace(FAST, epochs=epochs)
    fitted = fit(
        parts["model"], parts["guide"], train, valid, settings, seed=seed, checkpoint=checkpoint, progress=False
    )
    return parts, fitted


def seen(parts: nn.ModuleDict, epoch: int) -> Tensor:
    """The training data of an epoch, four batches of 16 or less, in sorted order."""
    batches = [x for (x, *_) in parts["model"].seen if len(x) != 20]
    rows = torch.cat(batches[4 * epoch : 4 * epoch + 4])
    assert len(rows) == 50
    return torch.stack(sorted(rows, key=lambda row: row.tolist()))


def test_epochs_see_other_draws_of_the_same_images() -> None:
    parts, _ = trained(X)
    first, second = seen(parts, 0), seen(parts, 1)
    assert ((first == 0) | (first == 1)).all()
    assert not torch.equal(first, second)
    fixed, _ = trained(Pixels(IMAGES, Preprocessing(values="fixed"), seed=0))
    assert torch.equal(seen(fixed, 0), seen(fixed, 1))


def test_every_pixel_is_drawn_with_its_shade_over_the_epochs() -> None:
    """The mean over 40 epochs of a pixel's sum over images: within four standard errors."""
    parts, _ = trained(X, epochs=40)
    p = IMAGES.double() / 255
    found = torch.stack([seen(parts, epoch).double().sum(0) for epoch in range(40)]).mean(0)
    error = ((p * (1 - p)).sum(0) / 40).sqrt()
    assert ((found - p.sum(0)).abs() < 4 * error).all()


def test_an_interrupted_training_sees_the_same_draws(tmp_path: Path) -> None:
    whole, fitted = trained(X, epochs=4)
    trained(X, epochs=2, checkpoint=tmp_path / "c")
    parts, again = trained(X, epochs=4, checkpoint=tmp_path / "c")
    assert equal(weights(parts), weights(whole))
    assert list(again.history["train_elbo"]) == list(fitted.history["train_elbo"])
    assert not equal(weights(trained(X, epochs=4, seed=1)[0]), weights(whole))


class Ahead(Rows):
    """A source that reads all batches before it gives the first one."""

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        return iter([self[index] for index in order])


def test_reading_ahead_does_not_change_the_draws() -> None:
    plain, fitted = trained(X)
    ahead, again = trained(replace(X, intensities=Ahead(IMAGES)))
    assert equal(weights(ahead), weights(plain))
    assert list(again.history["train_elbo"]) == list(fitted.history["train_elbo"])


def test_conditions_stay_with_their_images() -> None:
    """c is the number of an image whose bits are certain."""
    number = torch.arange(50)
    images = ((number[:, None] >> torch.arange(6)) & 1).to(torch.uint8) * 255
    how = Preprocessing(values="dynamic")
    batch = Batch(Pixels(images, how, seed=0), number[:, None].float())
    for rows in batch.redrawn(3).batches(torch.randperm(50).split(16)):
        x, c = rows.args
        assert torch.equal((x * 2.0 ** torch.arange(6)).sum(1), c[:, 0])
    parts, _ = trained(Batch(X, torch.ones(50, 2)), condition=2)
    assert {tuple(c.shape[1:]) for _, c in parts["model"].seen} == {(2,)}


def test_other_data_train_as_before() -> None:
    """Nothing is drawn for data that are not random: a source of the same bits trains as the tensor does."""
    still = X[torch.arange(50)]
    parts, _ = trained(still)  # type: ignore[arg-type]
    fixed, _ = trained(Rows(still))  # type: ignore[arg-type]
    assert equal(weights(parts), weights(fixed))
