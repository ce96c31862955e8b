"""A flow guide for any Pyro model with continuous latent variables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.transforms import LowerCholeskyAffine
from pyro.infer.autoguide import AutoContinuous, init_to_median
from torch import Tensor, nn
from torch.distributions import Transform, biject_to
from zuko.lazy import Flow, LazyComposedTransform, LazyTransform

from flowvae.errors import FlowvaeError, number, one_of, whole
from flowvae.flows.bridge import to_pyro
from flowvae.flows.spec import FlowSpec, standard_normal, warn_if_slow
from flowvae.guides.flow import check_posterior
from flowvae.networks import declare_parameters
from flowvae.seeds import derive, seeded

__all__ = ["AutoFlow"]

BLOCK = 1000  # draws that quantiles keep in memory at a time, with what the flow needs for them


class AutoFlow(AutoContinuous):
    r"""u ~ N(0, I), v = T(u), z = loc + L v: a flow guide over all latent variables of a model, unconstrained.

    The flow T acts in standardized space, where its networks and the box of its splines have their right scale; the
    learned affine layer after it carries location, scale and (with a full L) correlation of the posterior. T starts
    as the identity, so the guide starts as N(loc, init_scale² I), like Pyro's `AutoMultivariateNormal`, and with
    `affine="full"` it contains that guide whatever the flow is. Constrained variables are mapped by Pyro's
    `biject_to`, as in every `AutoContinuous` guide.

    The guide is set up when it first runs: call it once, with the model's arguments, before `load_state_dict` or
    before its parameters are handed to an optimizer. Its parameters stay in the module; Pyro's parameter store is
    not used, so that two guides cannot train each other's parameters.

    Args:
        model: a Pyro model whose latent variables are continuous and two numbers or more together.
        flow: the family T, cheap in its *generative* direction, such as `IAF` or `CouplingNSF`.
        init_loc_fn: gives the location at the start, site by site, as in Pyro's autoguides.
        init_scale: standard deviation at the start, of every unconstrained latent number.
        affine: "full" (L lower triangular) or "diagonal".
        draws: draws behind `median` and `quantiles`.

    Raises:
        FlowvaeError: at once, if the flow cannot be a posterior or a setting is out of range; at the first run, if
            the model has a single latent number.

    References:
        Kucukelbir et al. (2017), "Automatic Differentiation Variational Inference"; Rezende & Mohamed (2015).
    """

    def __init__(
        self,
        model: Callable[..., Any],
        flow: FlowSpec,
        init_loc_fn: Callable[..., Any] = init_to_median,
        init_scale: float = 0.1,
        affine: str = "full",
        draws: int = 10_000,
    ) -> None:
        super().__init__(model, init_loc_fn=init_loc_fn)
        self.flow, self.init_scale, self.affine, self.draws = flow, init_scale, affine, draws
        check_posterior(self, flow)
        number(self, "init_scale")
        one_of(self, "affine", ("full", "diagonal"))
        whole(self, "draws")

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        try:
            self._build()
        except BaseException:
            self.prototype_trace = None  # or it would count as set up
            raise

    def _build(self) -> None:
        size = self.latent_dim
        if size < self.flow.least_features:
            raise FlowvaeError(
                f"AutoFlow over a model with {size} unconstrained latent number(s): {type(self.flow).__name__} lets "
                f"dimensions depend on one another and needs {self.flow.least_features} or more. Use "
                "pyro.infer.autoguide.AutoNormal."
            )
        warn_if_slow(self.flow, size, "as a guide")
        loc = self._init_loc()
        affine = AffineLayer(size, full=self.affine == "full")
        posterior = Flow(LazyComposedTransform(affine, self.flow.transform(size)), standard_normal(size))
        posterior.to(loc)  # the model's dtype and device
        affine.restart(loc, self.init_scale * torch.eye(size, dtype=loc.dtype, device=loc.device))
        self.add_module("posterior", posterior)

    @property
    def affine_layer(self) -> AffineLayer:
        """The learned affine layer.

        Raises:
            FlowvaeError: before the guide has run for the first time.
        """
        return self._posterior().transform.transforms[0]

    def get_posterior(self, *args: Any, **kwargs: Any) -> TorchDistribution:
        """The distribution over the unconstrained vector, event shape (D,); the arguments change nothing.

        A draw remembers its own density, so an IAF is cheap here.
        """
        module = self._posterior()
        declare_parameters(self._pyro_name, module)
        return to_pyro(module())

    def _posterior(self) -> Any:
        # past PyroModule's attribute access, which would put the parameters into the global store
        module = self._modules.get("posterior")
        if module is None:
            raise FlowvaeError(
                "AutoFlow has not been set up: call the guide once, with the model's arguments, before this."
            )
        return module

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Torch's, for a guide that has been set up.

        Raises:
            FlowvaeError: before the guide has run for the first time.
        """
        self._posterior()
        return super().load_state_dict(state_dict, *args, **kwargs)

    @torch.no_grad()
    def quantiles(self, quantiles: list[float] | Tensor, *args: Any, seed: int = 0, **kwargs: Any) -> dict[str, Tensor]:
        """Quantiles of every entry of every latent variable, by site, shape (quantiles, *site).

        They are those of `draws` draws in the constrained space, entry by entry.
        """
        posterior = self.get_posterior(*args, **kwargs)
        with seeded(derive(seed, "quantiles")):
            latent = torch.cat([posterior.sample((min(BLOCK, self.draws - n),)) for n in range(0, self.draws, BLOCK)])
        wanted = torch.as_tensor(quantiles, dtype=latent.dtype, device=latent.device)
        return {name: value.quantile(wanted, dim=0) for name, value in self.constrain(latent).items()}

    def median(self, *args: Any, seed: int = 0, **kwargs: Any) -> dict[str, Tensor]:
        """The median of every entry of every latent variable, by site; see `quantiles`."""
        return {name: value[0] for name, value in self.quantiles([0.5], *args, seed=seed, **kwargs).items()}

    def constrain(self, latent: Tensor) -> dict[str, Tensor]:
        """The latent variables by site, shape (S, *site), of unconstrained vectors (S, D)."""
        self._posterior()  # set up?
        plates = max(len(site["fn"].batch_shape) for site, _ in self._unpack_latent(latent[0]))
        # the draws stay to the left of every plate
        spread = latent.reshape(len(latent), *(1,) * plates, latent.shape[-1])
        return {
            site["name"]: biject_to(site["fn"].support)(value).reshape(len(latent), *site["value"].shape)
            for site, value in self._unpack_latent(spread)
        }


class AffineLayer(LazyTransform):
    r"""The *normalizing* direction z → v of z = c + S (m + diag(eˢ) (I + N) v): m, s, N learned; c, S fixed.

    S and c are the units in which the layer learns. Where a posterior's scales differ by orders of magnitude, or its
    variables are nearly collinear, steps of one size suit all of them only in units of the posterior itself:
    `restart` takes them from a Gaussian approximation.

    Args:
        features: D.
        full: whether N, strictly lower triangular, is learned; it is zero otherwise.
    """

    def __init__(self, features: int, full: bool = True) -> None:
        super().__init__()
        self.center: Tensor
        self.unit: Tensor
        self.register_buffer("center", torch.zeros(features))
        self.register_buffer("unit", torch.eye(features))
        self.shift = nn.Parameter(torch.zeros(features))
        self.log_scale = nn.Parameter(torch.zeros(features))
        self.lower = nn.Parameter(torch.zeros(features * (features - 1) // 2)) if full else None

    @torch.no_grad()
    def restart(self, loc: Tensor, scale_tril: Tensor) -> None:
        """Start at N(loc, scale_tril scale_trilᵀ) and learn in its units; shapes (D,) and (D, D)."""
        if self.lower is None:
            scale_tril = scale_tril.square().sum(-1).sqrt().diag_embed()
        else:
            self.lower.zero_()
        self.center.copy_(loc)
        self.unit.copy_(scale_tril)
        self.shift.zero_()
        self.log_scale.zero_()

    def loc_and_scale(self) -> tuple[Tensor, Tensor]:
        """Where v = 0 goes, shape (D,), and the lower triangular L, shape (D, D)."""
        scale = self.log_scale.exp()
        tril = scale.diag_embed()
        if self.lower is not None:
            row, column = torch.tril_indices(len(scale), len(scale), offset=-1, device=scale.device)
            # relative to the row's scale, so that a step means the same at every scale
            tril = tril.index_put((row, column), self.lower * scale[row])
        return self.center + self.unit @ self.shift, self.unit @ tril

    def forward(self, c: Tensor | None = None) -> Transform:
        """The transform; a context changes nothing."""
        return LowerCholeskyAffine(*self.loc_and_scale()).inv
