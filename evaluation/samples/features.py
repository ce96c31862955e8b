"""Feature maps for comparing data: a small classifier of the data set, trained once and cached, or whitening."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Size, Tensor, nn
from torch.nn import functional as F

from flowvae.core.errors import FlowvaeError, check_int, check_number
from flowvae.core.files import as_path
from flowvae.core.progress import bar
from flowvae.core.seeds import derive, seeded
from flowvae.data import Batch, Dataset, Source, to_tensor
from flowvae.data.dataset import SPLITS
from flowvae.evaluation.figures.images import is_image
from flowvae.inference.checkpoint import load_checkpoint, save_checkpoint
from flowvae.networks import Standardize

__all__ = ["Classifier", "Features", "cache_directory", "load_features", "train_features", "whiten"]

BLOCK = 1000  # data points in memory at a time
COMPONENTS = 32  # largest number of components of whitened data
VERSION = 1  # version of the training procedure; increase it when that changes
HELD_OUT = 0.1  # share of the training data, if only they have labels


class Features(nn.Module):
    """A fixed map (N, *shape) → (N, d) whose features have mean 0 and standard deviation 1 over the training data.

    FID depends on the scale of the features and is then in units of their variance over the data.

    Args:
        network: the map, without standardization.
        scale: mean and standard deviation of its outputs over the training data.
        facts: description of the features, for the protocol of measures that use them.
    """

    def __init__(self, network: nn.Module, scale: Standardize, facts: dict[str, Any]) -> None:
        super().__init__()
        self.network = network
        self.scale = scale
        self.facts = facts

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.scale(self.network(x))

    def of(self, x: Tensor | Source) -> Tensor:
        """Compute the features of data (N, *shape) in blocks, shape (N, d), float64."""
        home = self.scale.center
        return torch.cat([self(few.args[0].to(home)).double() for few in Batch(x).split(BLOCK)])


class _Part(NamedTuple):
    x: Tensor
    y: Tensor  # class indices
    factors: Tensor  # standardized, (N, F); F = 0 if none are known

    def at(self, places: Tensor) -> _Part:
        return _Part(*(column[places] for column in self))

    def blocks(self) -> list[_Part]:
        return [_Part(*few) for few in zip(*(column.split(BLOCK) for column in self), strict=True)]


@dataclass(frozen=True)
class Classifier:
    """A convolutional classifier of labelled images, whose last hidden layer provides the features.

    It also predicts the factors of simulated images, so that the features contain more than the label.

    Args:
        features: d, width of the last hidden layer.
        channels: channels of the first convolution; they double whenever the image size is halved.
        epochs: largest number of epochs.
        patience: epochs without a better validation loss until training stops.
        batch: data points per step.
        rate: learning rate of Adam.
    """

    features: int = 32
    channels: int = 16
    epochs: int = 60
    patience: int = 6
    batch: int = 64
    rate: float = 2e-3

    def __post_init__(self) -> None:
        for name in ("features", "channels", "epochs", "patience", "batch"):
            check_int(self, name)
        check_number(self, "rate")

    def network(self, shape: Size, outputs: int) -> tuple[nn.Sequential, nn.Sequential]:
        """Build the map from images (N, C, H, W) to features, and that from features to predictions (N, outputs)."""
        colours, height, width = shape
        channels = self.channels
        stride = 1 if max(height, width) <= 8 else 2
        height, width = -(-height // stride), -(-width // stride)
        layers: list[nn.Module] = [nn.Conv2d(colours, channels, 3, stride, 1), nn.ReLU()]
        while max(height, width) > 7:
            layers += [nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1), nn.ReLU()]
            height, width, channels = (height + 1) // 2, (width + 1) // 2, 2 * channels
        layers += [nn.Flatten(), nn.Linear(channels * height * width, self.features)]
        return nn.Sequential(*layers), nn.Sequential(nn.ReLU(), nn.Linear(self.features, outputs))


def load_features(
    data: Dataset,
    settings: Classifier | None = None,
    *,
    seed: int = 0,
    cache: Path | None = None,
    progress: bool = False,
) -> Features:
    """Load the features of a data set: those of its classifier for labelled images, otherwise the whitened data.

    A classifier is trained on first use and cached under the identity of data and labels, the settings and the seed. A
    damaged file is replaced.

    Args:
        data: the data set.
        settings: settings of the classifier.
        seed: random seed of the classifier's weights and batches.
        cache: directory; None: `cache_directory()`.
        progress: whether to show a progress bar.

    Raises:
        FlowvaeError: if the cache cannot be written.
    """
    settings = settings or Classifier()
    if not is_image(data.shape) or "train" not in (data.labels or {}):
        return whiten(data)
    directory = cache_directory() if cache is None else as_path(cache)
    key = _key(data, settings, seed)
    path = directory / f"features-{key}.safetensors"
    if path.exists():
        try:
            return _read(path, data, settings, key)
        except FlowvaeError as error:
            warnings.warn(f"{error} The classifier is trained again.", UserWarning, stacklevel=2)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        writable = os.access(directory, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise FlowvaeError(f"{directory}: the classifier cannot be kept there; set FLOWVAE_CACHE to another directory.")
    features = train_features(data, settings, seed, progress)
    save_checkpoint(path, features.state_dict(), {"key": key, "features": features.facts})
    return features


def train_features(
    data: Dataset, settings: Classifier | None = None, seed: int = 0, progress: bool = False
) -> Features:
    """Train a classifier on the training split, with early stopping on the validation split.

    If only the training data have labels, a tenth of them is held out for early stopping. The accuracy is measured on
    the test data if they have labels, otherwise on the data for early stopping; `facts` states which.

    Args:
        data: labelled images.
        settings: settings of the classifier.
        seed: random seed of weights and batches.
        progress: whether to show a progress bar.

    Raises:
        FlowvaeError: for data that are not labelled images, or labels that are not classes.
    """
    settings = settings or Classifier()
    parts, classes, judge = _labelled(data, seed)
    train, valid = parts["train"], parts["valid"]
    outputs = classes + train.factors.shape[1]
    with seeded(derive(seed, "classifier", "weights")):
        network, head = _networks(data, settings, outputs)
    whole_net = nn.Sequential(network, head)
    optimizer = torch.optim.Adam(whole_net.parameters(), settings.rate)
    best, best_loss, since, epoch = deepcopy(whole_net.state_dict()), float("inf"), 0, 0
    epochs = bar("classifier", "epoch", settings.epochs, range(settings.epochs), progress)
    for epoch in epochs:
        generator = torch.Generator().manual_seed(derive(seed, "classifier", epoch))
        for places in torch.randperm(len(train.x), generator=generator).to(train.x.device).split(settings.batch):
            loss = _loss(whole_net, train.at(places))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            now = sum(float(_loss(whole_net, few)) * len(few.x) for few in valid.blocks()) / len(valid.x)
        since += 1
        if now < best_loss:
            best, best_loss, since = deepcopy(whole_net.state_dict()), now, 0
        if since >= settings.patience:
            break
    epochs.close()
    whole_net.load_state_dict(best)
    with torch.no_grad():
        right = [whole_net(few.x)[:, :classes].argmax(1) == few.y for few in parts[judge].blocks()]
    facts = {
        "kind": "last hidden layer of a classifier of the data set",
        "dimension": settings.features,
        "predicts": f"{classes} classes" + (f", {outputs - classes} factors" if outputs > classes else ""),
        "accuracy": torch.cat(right).double().mean().item(),
        "accuracy_on": f"{judge}, {len(parts[judge].x)} data",
        "epochs": epoch + 1,
        "seed": seed,
        "trained_on": data.identity.sha256,
    }
    return _standardized(network, to_tensor(data.train, f"features of {data.name}"), facts)


def whiten(data: Dataset) -> Features:
    """Compute features of data without labels: at most 32 principal components, scaled to variance 1.

    Directions with a variance below 10⁻⁶ of the largest are left out.

    Raises:
        FlowvaeError: if all data points are equal.
    """
    from sklearn.decomposition import PCA  # slow to import

    x = to_tensor(data.train, f"features of {data.name}").double().flatten(1)
    if not (x != x[0]).any():
        raise FlowvaeError(f"{data.name}: all training data are equal and have no principal components; check them.")
    # centre first, since the fast solver subtracts the squared mean from the second moments
    found = PCA(min(COMPONENTS, *x.shape), svd_solver="covariance_eigh").fit((x - x.mean(0)).numpy(force=True))
    variance = found.explained_variance_
    kept = variance > 1e-6 * variance[0]
    share = float(found.explained_variance_ratio_[kept].sum())
    components = torch.from_numpy(found.components_[kept] / variance[kept, None] ** 0.5)
    with seeded(0):  # initial weights, replaced by the components
        linear = nn.Linear(data.features, len(components), bias=False).requires_grad_(False).to(x)
    linear.weight.copy_(components)
    facts = {
        "kind": "whitened principal components of the data",
        "dimension": len(components),
        "share_of_variance": share,
        "trained_on": data.identity.sha256,
    }
    return _standardized(nn.Sequential(nn.Flatten(), linear), x, facts)


def cache_directory() -> Path:
    """`$FLOWVAE_CACHE`, else `flowvae` in `$XDG_CACHE_HOME`, else `~/.cache/flowvae`."""
    own = os.environ.get("FLOWVAE_CACHE")
    return as_path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flowvae"


def _networks(data: Dataset, settings: Classifier, outputs: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Build the maps from data (N, *shape) to features and from features to predictions."""
    if not is_image(data.shape):
        raise FlowvaeError(f"{data.name}: data points of shape {tuple(data.shape)} are not images; use whiten(data).")
    body, head = settings.network(data.shape, outputs)
    train = to_tensor(data.train, f"a classifier of {data.name}")
    scale = Standardize(train.mean(), train.std().clamp_min(1e-6))
    return nn.Sequential(scale, body).to(train), head.to(train)


def _labelled(data: Dataset, seed: int) -> tuple[dict[str, _Part], int, str]:
    """Labelled parts, always train and valid; number of classes; name of the part on which accuracy is measured."""
    labels = data.labels or {}
    if "train" not in labels:
        raise FlowvaeError(f"{data.name}: its training data lack the labels for a classifier; use whiten(data).")
    known = {split: labels[split] for split in SPLITS if split in labels}
    names, numbers = torch.unique(torch.cat(list(known.values())), return_inverse=True)
    if not 2 <= len(names) <= len(data.train) / 2:
        raise FlowvaeError(
            f"{data.name}: {len(names)} different labels of {len(data.train)} training data; a classifier needs two "
            "classes or more, with two data each or more on average. Use whiten(data)."
        )
    factors = _factors(data)
    parts = {
        split: _Part(to_tensor(getattr(data, split), f"a classifier of {data.name}"), y, factors[split])
        for split, y in zip(known, numbers.split([len(part) for part in known.values()]), strict=True)
    }
    judge = "test" if "test" in parts else "valid"
    if "valid" not in parts:
        generator = torch.Generator().manual_seed(derive(seed, "classifier", "held out"))
        order = torch.randperm(len(data.train), generator=generator)
        held_out, rest = order.tensor_split([max(1, round(HELD_OUT * len(order)))])
        parts |= {"valid": parts["train"].at(held_out), "train": parts["train"].at(rest)}
    return parts, len(names), judge


def _factors(data: Dataset) -> dict[str, Tensor]:
    """Factors of each split, standardized over the training data, (N, F)."""
    if data.factors is None:
        return {split: torch.zeros(len(getattr(data, split)), 0, dtype=data.train.dtype) for split in SPLITS}
    center, unit = data.factors["train"].mean(0), data.factors["train"].std(0).clamp_min(1e-6)
    return {split: ((values - center) / unit).to(data.train.dtype) for split, values in data.factors.items()}


def _loss(network: nn.Module, part: _Part) -> Tensor:
    """Cross-entropy of the class, plus the squared error of each factor."""
    outputs = network(part.x)
    logits, predicted = outputs.tensor_split([outputs.shape[1] - part.factors.shape[1]], 1)
    return F.cross_entropy(logits, part.y) + (predicted - part.factors).square().sum(1).mean()


def _standardized(network: nn.Module, train: Tensor, facts: dict[str, Any]) -> Features:
    plain = Features(network, Standardize(train.new_zeros(()), train.new_ones(())), facts)
    values = plain.of(train)
    scale = Standardize(values.mean(0).to(train), values.std(0).clamp_min(1e-6).to(train))
    return Features(network, scale, facts).requires_grad_(False)


def _key(data: Dataset, settings: Classifier, seed: int) -> str:
    """Hash of everything that the classifier depends on, 16 hexadecimal digits."""
    # the printed network too, so that files of older versions of this code do not match
    with seeded(0):
        network = repr(_networks(data, settings, 1))
    facts = [VERSION, data.identity.sha256, list(data.shape), asdict(settings), network, seed]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for kind, of_split in (("labels", data.labels), ("factors", data.factors)):
        for split, values in sorted((of_split or {}).items()):
            digest.update(f"{kind} {split} {values.dtype} {tuple(values.shape)}".encode())
            digest.update(values.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _read(path: Path, data: Dataset, settings: Classifier, key: str) -> Features:
    """Read features from a cache file.

    Raises:
        FlowvaeError: if the file is damaged or belongs to other data.
    """
    tensors, facts = load_checkpoint(path)
    if facts.get("key") != key:
        raise FlowvaeError(f"{path}: holds the features of {facts.get('key')}, not of {key}.")
    with seeded(0):  # initial weights, replaced by those of the file
        network, _ = _networks(data, settings, 1)
    wide = next(network.parameters()).new_zeros(settings.features)
    features = Features(network, Standardize(wide, wide + 1), facts["features"])
    features.load_state_dict(tensors)
    return features.requires_grad_(False)
