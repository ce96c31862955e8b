"""Building of model and guide from an experiment and its data."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

from torch import Size, Tensor, nn

from flowvae.core.errors import FlowvaeError, shown
from flowvae.core.parts import Units
from flowvae.core.seeds import derive, seeded
from flowvae.data import Dataset, DataSpec, Source, condition_units
from flowvae.experiments.experiment import Experiment
from flowvae.experiments.signature import Signature
from flowvae.flows.check import check_own_flows
from flowvae.flows.spec import warn_if_slow
from flowvae.guides import AmortizedGuide
from flowvae.inference import log_joint
from flowvae.models import VAE, warn_if_improper
from flowvae.networks import Reference, Standardize, StandardizeCounts, Standardized, check_network

__all__ = ["ModelGuide", "assemble", "build"]


class ModelGuide(NamedTuple):
    """A Pyro model and its guide: torch modules that are called with a batch, (x) or (x, c)."""

    model: VAE
    guide: AmortizedGuide


def build(experiment: Experiment, data: Dataset) -> ModelGuide:
    """Build model and guide of the last stage, with initial weights, for a data set.

    Raises:
        FlowvaeError: for data that are not a `Dataset`, a part that cannot be built at this size, and a network that
            `check_network` rejects.
    """
    if not isinstance(data, Dataset):
        how = "data.load(seed=0)" if isinstance(data, DataSpec) else "as_data(x, likelihood).load(seed=0)"
        raise FlowvaeError(f"build: data = {shown(data)}; must be a loaded data set: {how} gives one.")
    conditional = experiment.condition is not None and experiment.condition.prior
    size = math.prod(experiment.latent_shape)
    experiment.last_training.objective.check_parts(experiment.last_prior, experiment.guide, size, conditional)
    signature, units = Signature.of(data, experiment.condition), data.likelihood.units(data.train)
    return assemble(experiment, signature, units, data.train, condition_units(data, experiment.condition))


def assemble(
    experiment: Experiment,
    signature: Signature,
    units: Units,
    train: Tensor | Source,
    covariates: Units | None = None,
) -> ModelGuide:
    """Build model and guide of the last stage, with initial weights, from a description of the data.

    Args:
        experiment: the parts.
        signature: description of the data.
        units: center and unit of the data, by which the encoder's inputs are standardized.
        train: training data, for priors that depend on them.
        covariates: center and unit of a condition on covariates, (C,), by which it is standardized; None: it is not.

    Raises:
        FlowvaeError: for a part that cannot be built at this size, and a network that `check_network` rejects.
    """
    seed, condition = experiment.seed, experiment.condition
    shape, latent = Size(signature.shape), experiment.latent_shape
    features = math.prod(latent)

    def context(part: str) -> int:
        return signature.condition if condition is not None and getattr(condition, part) else 0

    def check(part: str, network: nn.Module, inputs: Size, outputs: Size | None) -> Size:
        size = context(part)
        remedy = f"a condition is {f'left out by Condition({part}=False)' if size else 'given by Experiment.condition'}"
        return check_network(f"Experiment.{part}", network, inputs, outputs, size, remedy)

    last = experiment.last_prior
    warn_if_improper(last, features)
    if not (experiment.second_stage and experiment.second_stage.distill):  # a distilled prior is made for sampling
        warn_if_slow(last, features, "as a prior")
    if last.follows_guide:
        guide_spec = experiment.guide
        warn_if_slow(getattr(guide_spec, guide_spec.wraps, guide_spec), features, "in a prior")
    for part in (experiment, experiment.second_stage):
        check_own_flows(part, features)
    likelihood_spec = signature.spec
    outputs = likelihood_spec.parameter_shape(shape)  # first, since it raises an error for data of another shape
    with seeded(derive(seed, "likelihood")):
        likelihood = likelihood_spec.build(shape, units)
    with seeded(derive(seed, "prior")):
        prior = last.build(latent if last.shaped else features, context("prior"))  # type: ignore[arg-type]
    with seeded(derive(seed, "decoder")):
        decoder = experiment.decoder.build(latent, outputs, context("decoder"))
    check("decoder", decoder, latent, outputs)
    with seeded(derive(seed, "encoder")):
        network = experiment.encoder.build(shape, None, context("encoder"))
    width = math.prod(check("encoder", network, shape, None))
    of_data = StandardizeCounts if likelihood_spec.logarithmic else Standardize
    encoder = Standardized(of_data(*units), network)
    encoder.inputs = shape  # type: ignore[assignment]  # the input shape, which other modules read
    standardize = None if covariates is None else Standardize(*covariates)
    model = VAE(prior, decoder, likelihood, condition, latent, standardize=standardize)
    with seeded(derive(seed, "guide")):
        head = experiment.guide.build(features, width + context("guide"))
        guide = AmortizedGuide(encoder, head, condition, standardize=standardize)
        guide = experiment.guide.improve(guide, features, partial(log_joint, model))
    if hasattr(prior, "guide_statements"):
        guide.prior = Reference(prior)
    if hasattr(prior, "bind"):
        prior.bind(guide, train)
        if not set(guide.parameters()).isdisjoint(prior.parameters()):  # they would be trained and counted twice
            raise FlowvaeError(
                f"{shown(last)}: its bind keeps the guide as a module of the prior, whose parameters would be the "
                "guide's too; keep flowvae.networks.Reference(guide)."
            )
    return ModelGuide(model, guide)
