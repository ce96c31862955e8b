"""The training step of `training_step.py` in JAX, in a separate process.

Arms, each with a Gaussian guide and a prior of two hidden layers (`maf-64`, `nsf-64`) or N(0, I):

    jax: equinox's networks, flowjax's masked autoregressive flow, optax's Adam; the step is one jitted function of
        parameters, Adam's moments, key and batch, with donated buffers.
    jax scan: the same step in `lax.scan` over a block of batches, one call per block.
    numpyro: NumPyro's `SVI` with `Trace_ELBO`, on the same modules; its `update` jitted.
    numpyro scan: the same in `lax.scan`, as in `SVI.run`.

Equal to the other arms: shapes of all matrices; the weights of encoder, decoder and Gaussian, which are copied; the
prior's initialization as N(0, I), with zeros in the last layer of every masked network; data, batches and their order;
one draw per data point; Adam's settings and clipping by the norm of the whole gradient; one core. So the first loss is
the same for the same noise, and the affine flow has the same number of parameters.

Not equal: weights and masks of the flow's hidden layers (flowjax ranks hidden units by their number, zuko enumerates
the patterns of the masks); random permutations between transforms, where zuko reverses the order; the affine scale is a
softplus, zuko's an exponential; the spline learns its two outer slopes (25 numbers per dimension with 8 bins, zuko's
23); the noise comes from JAX's generator. `jax` computes the binomial coefficients of the data outside of the program,
since they have no gradient; `numpyro` computes them in each step.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from multiprocessing import Pipe
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from cores import bound
from torch import Tensor, nn

from flowvae.flows import NSF
from flowvae.guides import AmortizedGuide
from flowvae.models import VAE

__all__ = ["JaxArm", "JaxWorker", "can_build", "versions"]

WORKER = Path(__file__).with_name("jax_worker.py")
# read by XLA when it is loaded
ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "OMP_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
}
NAMES = ("jax", "jax scan", "numpyro", "numpyro scan")


def versions(python: str = sys.executable) -> dict[str, str]:
    """Return the versions of the arms' libraries in this interpreter; empty if one is missing."""
    done = subprocess.run([python, str(WORKER), "--versions"], capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if not done.returncode else {}


def can_build(prior: str, guide: str) -> bool:
    """Whether flowjax can build networks with the same matrices."""
    return guide == "gaussian" and (prior.endswith("-64") or prior == "normal")


def linears(*modules: nn.Module) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Return weight and bias of every linear layer, in order."""
    found = [layer for module in modules for layer in module.modules() if isinstance(layer, nn.Linear)]
    return [(layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()) for layer in found]


class JaxWorker:
    """A process with JAX, separate from torch.

    Args:
        size: sizes of the case, as in `training_step.SIZES`.
        prior: flow settings of the prior; None: N(0, I).
        model: the model with the decoder's weights.
        guide: the guide with the weights of encoder and Gaussian.
        data: batches (n, B, D).
        block: number of steps per call of the scanned arms.
        python: an interpreter with the libraries.

    Raises:
        RuntimeError: from a request, with the worker's traceback.
    """

    def __init__(
        self,
        size: dict[str, Any],
        prior: Any,
        model: VAE,
        guide: AmortizedGuide,
        data: Tensor,
        block: int,
        python: str = sys.executable,
    ) -> None:
        self.block = block
        self.connection, other = Pipe()
        with other:
            command = [python, str(WORKER), str(other.fileno())]
            environment = {**os.environ, **ONE_THREAD}
            self.process = subprocess.Popen(command, pass_fds=(other.fileno(),), env=environment)
        flow = None
        if prior is not None:
            bins = prior.bins if isinstance(prior, NSF) else None
            flow = {"transforms": prior.transforms, "hidden": prior.hidden_features, "bins": bins}
        case = {
            "batch": size["batch"],
            "data": size["data"],
            "latent": size["latent"],
            "gated": size["gated"],
            "total": getattr(size["likelihood"], "total", None),
            "center": model.likelihood.center.numpy(),
            "unit": model.likelihood.unit.numpy(),
            "flow": flow,
            "encoder": linears(guide.encoder),
            "gaussian": linears(guide.head.loc, guide.head.log_scale),
            "decoder": linears(model.decoder),
            "batches": data.numpy(),
            "block": block,
        }
        self.connection.send(case)
        self.parameters: int = self._answer()

    def ask(self, *request: Any) -> Any:
        """Call a method of `jax_worker.Worker`, given by name and arguments; return its result."""
        self.connection.send(request)
        return self._answer()

    def _answer(self) -> Any:
        try:
            error, answer = self.connection.recv()
        except EOFError:
            raise RuntimeError(f"the JAX worker ended with status {self.process.wait()}") from None
        if error:
            raise RuntimeError(error)
        return answer

    def loss(self, x: Tensor, noise: Tensor) -> float:
        """Return the mean loss of a batch (B, D) for standard normal noise (B, latent), at the initial weights."""
        return self.ask("loss", x.numpy(), noise.numpy())

    def arms(self) -> list[JaxArm]:
        """Return all arms."""
        return [JaxArm(name, self) for name in NAMES]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()  # ends the worker
        self.process.wait()


class JaxArm:
    """An arm of the worker, which times its blocks on the cores that this process is bound to."""

    def __init__(self, name: str, worker: JaxWorker) -> None:
        self.name = name
        self.worker = worker
        self.steps_a_call = worker.block if name.endswith("scan") else 1
        self.loss = math.nan

    def block(self, steps: int) -> float:
        seconds, self.loss = self.worker.ask("block", self.name, steps, bound())
        return seconds
