"""The VAE of `training_step.py` in JAX: networks, flow prior, loss, and NumPyro's model and guide.

Only the JAX worker imports it. `case` is the dictionary that `jax_peer.JaxWorker` sends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import flowjax.bijections as fb
import flowjax.distributions as fd
import flowjax.flows as ff
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import paramax
from flowjax.experimental.numpyro import distribution_to_numpyro
from jax import Array
from numpyro.contrib.module import eqx_module

__all__ = ["VAE", "Decoder", "Encoder", "build", "log_likelihood", "loss", "numpyro_pair"]

Case = dict[str, Any]


class Layer(eqx.Module):
    """A hidden layer: ReLU of W x + b."""

    value: eqx.nn.Linear

    def __call__(self, x: Array) -> Array:
        return jax.nn.relu(self.value(x))


class Gated(eqx.Module):
    """A layer whose outputs are gated: (W x + b) ⊙ σ(V x + c)."""

    value: eqx.nn.Linear
    gate: eqx.nn.Linear

    def __call__(self, x: Array) -> Array:
        return self.value(x) * jax.nn.sigmoid(self.gate(x))


class Encoder(eqx.Module):
    """Map one data point (D,) to mean and log σ of its code."""

    hidden: list[Layer | Gated]
    loc: eqx.nn.Linear
    log_scale: eqx.nn.Linear

    def __call__(self, x: Array) -> tuple[Array, Array]:
        for layer in self.hidden:
            x = layer(x)
        return self.loc(x), self.log_scale(x)


class Decoder(eqx.Module):
    """Map one code to logits (D,)."""

    hidden: list[Layer | Gated]
    logits: eqx.nn.Linear

    def __call__(self, z: Array) -> Array:
        for layer in self.hidden:
            z = layer(z)
        return self.logits(z)


class VAE(eqx.Module):
    """Encoder, decoder and prior."""

    encoder: Encoder
    decoder: Decoder
    prior: fd.AbstractDistribution


def linear(weight: Any, bias: Any) -> eqx.nn.Linear:
    """Build a linear layer with these weights."""
    made = eqx.nn.Linear(weight.shape[1], weight.shape[0], key=jax.random.key(0))
    return eqx.tree_at(lambda layer: (layer.weight, layer.bias), made, (jnp.asarray(weight), jnp.asarray(bias)))


def hidden_layers(given: Iterator[eqx.nn.Linear], gated: bool) -> list[Layer | Gated]:
    """Return two hidden layers."""
    return [Gated(next(given), next(given)) if gated else Layer(next(given)) for _ in range(2)]


def flow_prior(flow: dict[str, Any] | None, latent: int) -> fd.AbstractDistribution:
    """Build a masked autoregressive flow whose density takes one pass; it is initialized as N(0, I)."""
    base = paramax.non_trainable(fd.Normal(jnp.zeros(latent)))
    if flow is None:
        return base
    settings: dict[str, Any] = {}
    if flow["bins"] is not None:
        settings["transformer"] = fb.RationalQuadraticSpline(knots=flow["bins"] - 1, interval=5)
    made = ff.masked_autoregressive_flow(
        jax.random.key(1),
        base_dist=base,
        flow_layers=flow["transforms"],
        nn_width=flow["hidden"][0],
        nn_depth=len(flow["hidden"]),
        invert=True,
        **settings,
    )

    def last(one: fd.Transformed) -> tuple[Array, Array]:
        layer = one.bijection.bijection.bijection.bijections[0].masked_autoregressive_mlp.layers[-1]
        return layer.weight.args[1], layer.bias

    return eqx.tree_at(last, made, tuple(map(jnp.zeros_like, last(made))))


def build(case: Case) -> VAE:
    """Build the networks with the given weights."""
    encoder, (loc, log_scale) = (iter([linear(*pair) for pair in case[part]]) for part in ("encoder", "gaussian"))
    decoder = iter([linear(*pair) for pair in case["decoder"]])
    return VAE(
        Encoder(hidden_layers(encoder, case["gated"]), loc, log_scale),
        Decoder(hidden_layers(decoder, case["gated"]), next(decoder)),
        flow_prior(case["flow"], case["latent"]),
    )


def log_likelihood(case: Case, logits: Array, x: Array) -> Array:
    """Return log p(x | z) of one data point without the binomial coefficients, which depend on x alone."""
    return jnp.sum(x * logits - (case["total"] or 1) * jax.nn.softplus(logits))


def loss(case: Case) -> Callable[[VAE, Array, Array], Array]:
    """Return the hand-written mean of −ELBO, without the coefficients, for batch (B, D) and noise (B, latent)."""
    center, unit = jnp.asarray(case["center"]), jnp.asarray(case["unit"])

    def mean_loss(wrapped: VAE, x: Array, noise: Array) -> Array:
        vae = paramax.unwrap(wrapped)

        def one(x: Array, noise: Array) -> Array:
            loc, log_scale = vae.encoder((x - center) / unit)
            z = loc + jnp.exp(log_scale) * noise
            log_q = jnp.sum(-0.5 * noise**2 - log_scale - 0.5 * jnp.log(2 * jnp.pi))
            return log_q - log_likelihood(case, vae.decoder(z), x) - vae.prior.log_prob(z)

        return jnp.mean(jax.vmap(one)(x, noise))

    return mean_loss


def numpyro_pair(case: Case, vae: VAE) -> tuple[Callable[[Array], None], Callable[[Array], None]]:
    """Return NumPyro's model and guide of a batch, both scaled to the mean over the batch."""
    center, unit, rows, total = jnp.asarray(case["center"]), jnp.asarray(case["unit"]), case["batch"], case["total"]

    def model(x: Array) -> None:
        decoder = eqx_module("decoder", vae.decoder)
        prior = paramax.unwrap(eqx_module("prior", vae.prior))
        with numpyro.plate("data", rows), numpyro.handlers.scale(scale=1 / rows):
            z = numpyro.sample("z", distribution_to_numpyro(prior))
            logits = jax.vmap(decoder)(z)
            p = dist.Bernoulli(logits=logits) if total is None else dist.Binomial(total, logits=logits)
            numpyro.sample("x", p.to_event(1), obs=x)

    def guide(x: Array) -> None:
        encoder = eqx_module("encoder", vae.encoder)
        loc, log_scale = jax.vmap(encoder)((x - center) / unit)
        with numpyro.plate("data", rows), numpyro.handlers.scale(scale=1 / rows):
            numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    return model, guide
