"""A self-supervised VAE (Gatopoulos & Tomczak 2021): a flow prior for a small digit y, then the digit x given y."""

import torch
from torch import Size

from flowvae import MAF, MLP, Digits, RealNVP, Training
from flowvae.evaluation import measure_likelihoods
from flowvae.guides import AmortizedGuide, Gaussian, SelfSupervisedGuide
from flowvae.inference import fit
from flowvae.models import VAE, Downscale, SelfSupervisedVAE
from flowvae.networks import Standardize, Standardized


def pair(
    data, small: int = 4, latent: int = 8, hidden: tuple[int, ...] = (128, 128)
) -> tuple[SelfSupervisedVAE, SelfSupervisedGuide]:
    """Build model and guide for images of counts; y has half their height and width."""
    halved, network, spec = Downscale(2), MLP(hidden), data.likelihood
    y = halved(data.train)
    shape, shape_y = Size(data.train.shape[1:]), Size(y.shape[1:])
    units, units_y = spec.units(data.train), spec.units(y)

    decoder_y = network.build(Size((small,)), spec.parameter_shape(shape_y))
    upper = VAE(MAF().build(small), decoder_y, spec.build(shape_y, units_y))
    prior = RealNVP().build(latent, context=shape_y.numel() + small)
    decoder = network.build(Size((latent,)), spec.parameter_shape(shape), context=shape_y.numel())
    scale = (units_y.center.mean().item(), units_y.unit.mean().item())
    model = SelfSupervisedVAE(upper, prior, decoder, spec.build(shape, units), halved, scale)

    def guide(shape: Size, units, features: int) -> AmortizedGuide:
        encoder = Standardized(Standardize(*units), network.build(shape))
        return AmortizedGuide(encoder, Gaussian().build(features, hidden[-1]))

    return model, SelfSupervisedGuide(guide(shape_y, units_y, small), guide(shape, units, latent), halved)


if __name__ == "__main__":
    torch.manual_seed(0)
    data = Digits().load(seed=0)
    model, guide = pair(data)
    fit(model, guide, data.train, data.valid, Training(epochs=200, patience=30))
    found = measure_likelihoods(model, guide, data.test, draws=1000)
    # −log p(x, y) is an upper bound of −log p(x)
    print(f"NLL of test images with their small versions: {-found.log_evidence.mean():.2f} nats")
    images = model(size=16)  # draws of x
