"""Arms with equally many parameters: hidden layers are widened until the counts agree."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from flowvae.core.errors import FlowvaeError
from flowvae.experiments.experiment import Experiment
from flowvae.models import FlowDecoder
from flowvae.networks import MLP

__all__ = ["count_parameters", "scaled", "widen_decoder", "widen_encoder"]

UNMATCHED = 0.01  # share of the parameters by which arms that are called equally large may differ


def count_parameters(experiment: Experiment) -> int:
    """Trained numbers of model and guide; a likelihood's own scale is not counted."""
    features, latent = experiment.data.features, experiment.latent
    trunk, width = experiment.encoder.trunk(features)
    prior = experiment.second_stage.prior if experiment.second_stage else experiment.prior
    parts: list[nn.Module] = [
        trunk,
        experiment.guide.build(latent, width),
        experiment.decoder.network(latent, features),
        prior.build(latent),
    ]
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


def scaled(mlp: MLP, factor: float) -> MLP:
    """The network with all hidden layers so many times as wide."""
    return replace(mlp, hidden_features=tuple(max(1, round(factor * width)) for width in mlp.hidden_features))


def widen_encoder(experiment: Experiment, parameters: int) -> Experiment:
    """The experiment with the encoder whose width brings it nearest to so many parameters.

    Raises:
        FlowvaeError: if no width comes within 1 %.
    """
    return _nearest([replace(experiment, encoder=mlp) for mlp in _wider(experiment.encoder)], parameters)


def widen_decoder(experiment: Experiment, parameters: int) -> Experiment:
    """The experiment with the decoder whose width brings it nearest to so many parameters.

    Raises:
        FlowvaeError: if no width comes within 1 %.
    """
    decoder = experiment.decoder
    if isinstance(decoder, FlowDecoder):
        wider = [replace(experiment, decoder=replace(decoder, mlp=mlp)) for mlp in _wider(decoder.mlp)]
    else:
        wider = [replace(experiment, decoder=mlp) for mlp in _wider(decoder)]
    return _nearest(wider, parameters)


def _wider(mlp: MLP) -> list[MLP]:
    """Ever wider networks, one unit of the first hidden layer at a time, to four times the width."""
    first = mlp.hidden_features[0]
    return [scaled(mlp, width / first) for width in range(first, 4 * first + 1)]


def _nearest(wider: list[Experiment], parameters: int) -> Experiment:
    """The one whose count is nearest; counts grow along the list, so it is halved until two are left."""
    low, high = 0, len(wider) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if count_parameters(wider[middle]) < parameters:
            low = middle
        else:
            high = middle
    found = min(wider[low : high + 1], key=lambda experiment: abs(count_parameters(experiment) - parameters))
    count = count_parameters(found)
    if abs(count - parameters) > UNMATCHED * parameters:
        raise FlowvaeError(
            f"{parameters} parameters: the nearest network, four times as wide at most, has {count}; start from a "
            "wider one, or from a smaller flow."
        )
    return found
