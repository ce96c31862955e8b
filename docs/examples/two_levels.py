"""Two levels of latent variables, trained jointly or as the second VAE of Dai & Wipf (2019)."""

from flowvae import MAF, Experiment, LatentVariablePrior, SecondStage


def experiment() -> Experiment:
    """p(x | z) p(z | z2) p(z2) with a flow as upper prior; all parts are trained together."""
    return Experiment(prior=LatentVariablePrior(latent=4, prior=MAF()))


def second_vae() -> Experiment:
    """An upper level that is fitted to the codes of a trained VAE."""
    return Experiment(second_stage=SecondStage(LatentVariablePrior(latent=8)))
