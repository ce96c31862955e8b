"""Two levels of latent variables: jointly, or as the second VAE of Dai & Wipf (2019)."""

from flowvae import MAF, Experiment, LatentVariablePrior, SecondStage


def experiment() -> Experiment:
    """p(x given z) p(z given z2) p(z2), the upper prior a flow; all trained together."""
    return Experiment(prior=LatentVariablePrior(latent=4, prior=MAF()))


def second_vae() -> Experiment:
    """The same upper level, fitted to the codes of a VAE that has been trained before."""
    return Experiment(second_stage=SecondStage(LatentVariablePrior(latent=8)))
