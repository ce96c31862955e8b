"""The process that runs the JAX training steps for `jax_peer.py`, which describes them.

With `--versions` it prints the versions of the libraries as JSON, and fails if one is missing.
"""

from __future__ import annotations

import json
import math
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from cores import bind

LIBRARIES = ("jax", "flowjax", "equinox", "optax", "numpyro")
LEARNING_RATE = 1e-3
CLIP = 10.0


class Program:
    """An arm: a state, and a jitted function (state, data) → (next state, losses).

    Args:
        state: the initial state.
        step: (state, batch) → (state, loss), not yet compiled.
        batches: batches (n, B, D), used in turn.
        scanned: number of steps in one call with `lax.scan`; None: single steps without a scan.
    """

    def __init__(self, state: Any, step: Callable[[Any, Any], Any], batches: Any, scanned: int | None) -> None:
        import jax
        import jax.numpy as jnp

        self.state = jax.tree.map(jnp.copy, state)  # each call donates its buffers
        self.steps_a_call = scanned or 1
        self.taken = 0
        self.stride = math.gcd(self.steps_a_call, len(batches))
        starts = range(0, len(batches), self.stride)
        if scanned is None:
            self.run = jax.jit(step, donate_argnums=0)
            self.data = [jnp.array(batch) for batch in batches]
        else:
            self.run = jax.jit(lambda state, some: jax.lax.scan(step, state, some), donate_argnums=0)
            self.data = [jnp.array(batches[np.arange(start, start + scanned) % len(batches)]) for start in starts]
        jax.block_until_ready((self.state, self.data))

    def block(self, steps: int) -> tuple[float, float]:
        """Take a number of steps; return seconds per step and the last loss."""
        import jax
        import jax.numpy as jnp

        started = time.perf_counter()
        for _ in range(steps // self.steps_a_call):
            self.state, losses = self.run(self.state, self.data[self.taken // self.stride % len(self.data)])
            self.taken += self.steps_a_call
        jax.block_until_ready((self.state, losses))
        seconds = time.perf_counter() - started
        return seconds / steps, float(jnp.ravel(losses)[-1])


class Worker:
    """The methods that the other process can call.

    Args:
        case: sizes, weights and batches.
    """

    def __init__(self, case: dict[str, Any]) -> None:
        import equinox as eqx
        import jax
        import jax_models
        import optax
        import paramax
        from jax.scipy.special import gammaln
        from numpyro.infer import SVI, Trace_ELBO
        from numpyro.optim import optax_to_numpyro

        vae = jax_models.build(case)
        trained, fixed = eqx.partition(
            vae, eqx.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable)
        )
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(trained))
        mean_loss = jax_models.loss(case)
        adam = optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(LEARNING_RATE))
        noise = (case["batch"], case["latent"])

        def loss_of(parameters: Any, x: Any, noise: Any) -> Any:
            return mean_loss(eqx.combine(parameters, fixed), x, noise)

        def step(state: Any, x: Any) -> Any:
            parameters, moments, key = state
            key, of_noise = jax.random.split(key)
            value, gradients = jax.value_and_grad(loss_of)(parameters, x, jax.random.normal(of_noise, noise))
            updates, moments = adam.update(gradients, moments, parameters)
            return (optax.apply_updates(parameters, updates), moments, key), value

        svi = SVI(*jax_models.numpyro_pair(case, vae), optax_to_numpyro(adam), Trace_ELBO())
        batches, block = case["batches"], case["block"]
        state, of_svi = (trained, adam.init(trained), jax.random.key(2)), svi.init(jax.random.key(3), batches[0])
        self.programs = {
            "jax": Program(state, step, batches, None),
            "jax scan": Program(state, step, batches, block),
            "numpyro": Program(of_svi, svi.update, batches, None),
            "numpyro scan": Program(of_svi, svi.update, batches, block),
        }
        self.batches = batches
        self.total = case["total"]
        self.log_gamma = gammaln
        self.first_loss = jax.jit(lambda x, noise: loss_of(trained, x, noise))

    def coefficients(self, x: Any) -> float:
        """Return the mean over a batch of the log binomial coefficients."""
        if self.total is None:
            return 0.0
        of, n = self.log_gamma, float(self.total)
        return float((of(n + 1) - of(x + 1) - of(n - x + 1)).sum(-1).mean())

    def loss(self, x: Any, noise: Any) -> float:
        """Return the loss of a batch at the initial weights."""
        return float(self.first_loss(x, noise)) - self.coefficients(x)

    def block(self, name: str, steps: int, cores: set[int] | None) -> tuple[float, float]:
        """Take steps of an arm on these cores; return seconds per step and the last loss."""
        bind(cores)
        program = self.programs[name]
        seconds, value = program.block(steps)
        last = self.batches[(program.taken - 1) % len(self.batches)]
        return seconds, value - (self.coefficients(last) if name.startswith("jax") else 0.0)


def main() -> None:
    """Answer requests until the other end is closed."""
    if sys.argv[1] == "--versions":
        print(json.dumps({name: version(name) for name in LIBRARIES}))
        return
    with Connection(int(sys.argv[1])) as connection:
        worker: Any = None
        while True:
            try:
                request = connection.recv()
            except EOFError:
                return
            try:
                if worker is None:
                    worker = Worker(request)
                    answer = worker.parameters
                else:
                    name, *arguments = request
                    answer = getattr(worker, name)(*arguments)
                connection.send((None, answer))
            except Exception:  # sent to the other process
                connection.send((traceback.format_exc(), None))


if __name__ == "__main__":
    main()
