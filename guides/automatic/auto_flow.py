"""A flow guide for any Pyro model with continuous latent variables."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta, TorchDistribution
from pyro.infer.autoguide import AutoContinuous, init_to_median
from torch import Tensor
from torch.distributions import Transform
from zuko.lazy import Flow, LazyComposedTransform

from flowvae.core.errors import FlowvaeError, check_choice, check_int, check_number, shown
from flowvae.core.memory import check_memory, watched
from flowvae.core.parts import Cost
from flowvae.core.seeds import derive, seeded
from flowvae.flows.pyro_adapter import to_pyro
from flowvae.flows.spec import FlowSpec, standard_normal, warn_if_slow
from flowvae.guides.automatic.affine import AffineLayer
from flowvae.guides.automatic.constrained import Constrain, Part, constrain, run_until
from flowvae.guides.automatic.masks import check_sites
from flowvae.guides.automatic.prototype import read_prototype
from flowvae.guides.automatic.supports import bijection, is_fixed, support_of
from flowvae.guides.flow import check_posterior
from flowvae.networks import declare_parameters

__all__ = ["AutoFlow"]

BLOCK = 1000  # number of draws that `quantiles` computes at a time, which bounds the memory for the flow
FULL = 1000  # number of latents above which a full affine layer costs more time than it saves
AFFINE = ("auto", "full", "diagonal")


class AutoFlow(AutoContinuous):
    r"""Flow guide over all latent variables of a model, unconstrained: u ~ N(0, I), v = T(u), z = loc + L v.

    The flow T acts in standardized space, which suits its networks and the box of its splines; the learned affine
    layer after it has location, scale and (with a full L) correlation of the posterior. T starts as the identity, so
    the guide starts as N(loc, init_scale² I), like Pyro's `AutoMultivariateNormal`. With a full affine layer it
    contains that guide for every flow.

    With hidden layers of a fixed width H, a pass of the flow takes a multiple of D H multiplications; above 1000 latent
    numbers the affine layer is diagonal, so time and memory of the guide are linear in D.

    Constrained variables are mapped by the bijections of torch and Pyro; `supports.py` lists them. A support that
    depends on other latent variables, as in `b ~ Uniform(0, a)`, is that of the current draw: the guide runs the model
    up to the last site whose support has bounds.

    The guide is set up in its first run: call it once, with the model's arguments, before `load_state_dict` or before
    its parameters are given to an optimizer. Its parameters stay in the module; Pyro's parameter store is not used, so
    that two guides cannot train each other's parameters.

    Train it with `Trace_ELBO`: `TraceMeanField_ELBO` drops the log-densities of Delta sites, and with them the Jacobian
    of the constraints, of this guide as of Pyro's autoguides.

    Args:
        model: a Pyro model whose latent variables are continuous and two numbers or more together.
        flow: the family T, cheap in its *generative* direction, such as `IAF` or `CouplingNSF`.
        init_loc_fn: function that gives the initial location, site by site, as in Pyro's autoguides.
        init_scale: initial standard deviation of every unconstrained latent number.
        affine: "full" (L lower triangular), "diagonal", or "auto": full up to 1000 latent numbers. A full layer takes
            D² multiplications a draw, D × D matrices, and D³ multiplications to initialize by `fit_autoguide`.
        draws: number of draws for `median` and `quantiles`.

    Raises:
        FlowvaeError: at once, if the flow cannot be a posterior or a setting is out of range; at the first run, if
            the model has too few latent numbers for the flow or more than fit into memory, a latent without a
            bijection from the reals, or one in a plate that subsamples its data.

    References:
        Kucukelbir et al. (2017), "Automatic Differentiation Variational Inference"; Rezende & Mohamed (2015).
    """

    def __init__(
        self,
        model: Callable[..., Any],
        flow: FlowSpec,
        init_loc_fn: Callable[..., Any] = init_to_median,
        init_scale: float = 0.1,
        affine: str = "auto",
        draws: int = 10_000,
    ) -> None:
        super().__init__(model)
        self._model = (model,)  # not wrapped as by AutoContinuous: `read_prototype` may need another initialization
        self.init_loc_fn = init_loc_fn
        self.flow, self.init_scale, self.affine, self.draws = flow, init_scale, affine, draws
        check_posterior(self, flow)
        check_number(self, "init_scale")
        check_choice(self, "affine", AFFINE)
        check_int(self, "draws")

    @property
    def model(self) -> Callable[..., Any]:
        """The model.

        Raises:
            FlowvaeError: for a guide that was pickled without it.
        """
        if self._model is None:
            raise FlowvaeError(
                "this AutoFlow was pickled without its model, which pickle cannot store: create AutoFlow(model, flow), "
                "call it once, and load the state_dict of this one."
            )
        return self._model[0]

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        try:
            self.prototype_trace = read_prototype(self.model, self.init_loc_fn, args, kwargs)
            if self.master is not None:
                self.master()._check_prototype(self.prototype_trace)
            check_sites(self.model, args, kwargs, nodes=self.prototype_trace.nodes)
            self._build(self._lay_out(args, kwargs))
        except BaseException:
            self.prototype_trace = None  # the guide is not set up
            raise

    def _lay_out(self, args: Any, kwargs: Any) -> Tensor:
        """Lay out the sites in the unconstrained vector; returns its initial value, shape (D,)."""
        self._unconstrained_shapes, self._cond_indep_stacks, self._prototype_frames = {}, {}, {}
        self._transforms: dict[str, Transform] = {}  # onto fixed supports
        self._last: str | None = None  # the last site whose support is not fixed
        parts = []
        for name, site in self.prototype_trace.iter_stochastic_nodes():
            transform = bijection(name, site["fn"])
            free = transform.inv(site["value"])
            self._unconstrained_shapes[name] = free.shape
            self._cond_indep_stacks[name] = site["cond_indep_stack"]
            self._prototype_frames.update({frame.name: frame for frame in site["cond_indep_stack"]})
            if is_fixed(support_of(site["fn"])):
                self._transforms[name] = transform
            else:
                self._last = name
            parts.append(free.reshape(-1))
        loc = torch.cat(parts) if parts else torch.zeros(0)
        self.latent_dim = len(loc)
        if self._last is not None:
            first, second = (self._parts(loc, args, kwargs) for _ in range(2))
            for name, part in first.items():
                if not torch.equal(part.value, second[name].value):
                    raise FlowvaeError(
                        f"site {name!r}: its support depends on random numbers that this guide does not draw, such as "
                        "a hidden site. Sample a variable with a fixed support, such as Uniform(0, 1), and use "
                        "pyro.deterministic for what is computed from it."
                    )
        return loc

    def _build(self, loc: Tensor) -> None:
        size = self.latent_dim
        if not size:
            raise FlowvaeError("AutoFlow over a model without latent numbers: there is nothing to draw; use no guide.")
        if size < self.flow.least_features:
            raise FlowvaeError(
                f"AutoFlow over a model with {size} unconstrained latent number(s): {type(self.flow).__name__} lets "
                f"dimensions depend on one another and needs {self.flow.least_features} or more. Use "
                "pyro.infer.autoguide.AutoNormal."
            )
        warn_if_slow(self.flow, size, "as a guide")
        full = self.affine == "full" or (self.affine == "auto" and size <= FULL)
        remedy = "use a flow with fewer hidden features" + (", or affine='diagonal'" if full else "")
        with watched(f"AutoFlow over {size} latent numbers with {shown(self.flow)}", remedy):
            affine = AffineLayer(size, full)
            posterior = Flow(LazyComposedTransform(affine, self.flow.transform(size)), standard_normal(size))
        posterior.to(loc)  # the model's dtype and device
        affine.restart(loc, torch.full_like(loc, self.init_scale))
        self.add_module("posterior", posterior)

    def cost(self) -> Cost:
        """Network passes of the flow at the guide's number of latents; see `Cost`.

        Raises:
            FlowvaeError: before the guide has run for the first time.
        """
        self._posterior()
        return self.flow.cost(self.latent_dim)

    @property
    def independent_draws(self) -> bool:
        """Whether draws under an outer plate are those of single runs: always, unless the guide runs the model."""
        return self._last is None

    @property
    def affine_layer(self) -> AffineLayer:
        """The learned affine layer.

        Raises:
            FlowvaeError: before the guide has run for the first time.
        """
        return self._posterior().transform.transforms[0]

    def get_posterior(self, *args: Any, **kwargs: Any) -> TorchDistribution:
        """Return the distribution over the unconstrained vector, event shape (D,); the arguments are ignored.

        The density of the last draw is cached, so an IAF is cheap here.
        """
        module = self._posterior()
        declare_parameters(self._pyro_name, module)
        return to_pyro(module())

    def _posterior(self) -> Any:
        # without PyroModule's attribute access, which would put the parameters into the global store
        module = self._modules.get("posterior")
        if module is None:
            raise FlowvaeError(
                "AutoFlow has not been set up: call the guide once, with the model's arguments, before this."
            )
        return module

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load a state dict, as torch does, into a guide that has been set up.

        Raises:
            FlowvaeError: before the guide has run for the first time.
        """
        self._posterior()
        return super().load_state_dict(state_dict, *args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Draw every latent site; returns the values by site."""
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        parts = self._parts(self.sample_latent(*args, **kwargs), args, kwargs)
        plates = self._create_plates(*args, **kwargs)
        drawn = {}
        for name, part in parts.items():
            log_density = 0.0 if poutine.get_mask() is False else -part.log_det
            fn = Delta(part.value, log_density=log_density, event_dim=self._event_dim(name))
            with ExitStack() as stack:
                for frame in self._cond_indep_stacks[name]:
                    stack.enter_context(plates[frame.name])
                drawn[name] = pyro.sample(name, fn)
        return drawn

    def _parts(self, latent: Tensor, args: Any, kwargs: Any) -> dict[str, Part]:
        """Compute the sites' values for unconstrained vectors (..., D), draws to the left of all plates."""
        free = {site["name"]: value for site, value in self._unpack_latent(latent)}
        parts: dict[str, Part] = {}
        if self._last is not None:
            parts = run_until(self.model, Constrain(free, self.prototype_trace.nodes, self._last), args, kwargs)
        for name, value in free.items():
            if name not in parts:
                if name not in self._transforms:
                    raise FlowvaeError(
                        f"site {name!r}: not in this run of the model; a guide needs the same sites in every run."
                    )
                parts[name] = constrain(value, self._transforms[name], self._event_dim(name))
        return {name: parts[name] for name in free}

    def _event_dim(self, name: str) -> int:
        return int(self.prototype_trace.nodes[name]["fn"].event_dim)

    @torch.no_grad()
    def quantiles(self, quantiles: list[float] | Tensor, *args: Any, seed: int = 0, **kwargs: Any) -> dict[str, Tensor]:
        """Estimate quantiles of every entry of every latent variable, by site, shape (quantiles, *site).

        They are those of `draws` draws in the constrained space, entry by entry.
        """
        posterior = self.get_posterior(*args, **kwargs)
        needed = 3 * self.draws * self.latent_dim * self.affine_layer.center.element_size()  # free, constrained, sorted
        check_memory(f"draws = {self.draws} of {self.latent_dim} latent numbers", needed, "give AutoFlow fewer draws")
        with seeded(derive(seed, "quantiles")):
            latent = torch.cat([posterior.sample((min(BLOCK, self.draws - n),)) for n in range(0, self.draws, BLOCK)])
            values = self.constrain(latent, *args, **kwargs)
        wanted = torch.as_tensor(quantiles, dtype=latent.dtype, device=latent.device)
        return {name: _quantiles(value, wanted) for name, value in values.items()}

    def median(self, *args: Any, seed: int = 0, **kwargs: Any) -> dict[str, Tensor]:
        """Estimate the median of every entry of every latent variable, by site; see `quantiles`."""
        return {name: value[0] for name, value in self.quantiles([0.5], *args, seed=seed, **kwargs).items()}

    def constrain(self, latent: Tensor, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Map unconstrained vectors (S, D) to the latent variables by site, shape (S, *site).

        Args:
            latent: the vectors.
            args: the model's arguments, on which supports may depend; by default those of the guide's first run.
            kwargs: its keyword arguments.
        """
        self._posterior()  # set up?
        if self._last is None:
            return self._constrained(latent, args, kwargs)
        if not args and not kwargs:
            first = self.prototype_trace.nodes["_INPUT"]
            args, kwargs = first["args"], first["kwargs"]
        few = [self._constrained(row, args, kwargs) for row in latent[:3].split(1)]
        try:
            together = self._constrained(latent, args, kwargs)
            if all(torch.allclose(together[name][n], one[name][0]) for n, one in enumerate(few) for name in one):
                return together
        except (RuntimeError, ValueError, TypeError):  # the model takes one draw at a time
            pass
        alone = [self._constrained(row, args, kwargs) for row in latent.split(1)]
        return {name: torch.cat([one[name] for one in alone]) for name in alone[0]}

    def _constrained(self, latent: Tensor, args: Any, kwargs: Any) -> dict[str, Tensor]:
        sites = dict(self.prototype_trace.iter_stochastic_nodes())
        plates = max(len(site["fn"].batch_shape) for site in sites.values())
        spread = latent.reshape(len(latent), *(1,) * plates, latent.shape[-1])
        if len(latent) == 1:
            spread = latent[0]  # as the model runs by itself
        parts = self._parts(spread, args, kwargs)
        return {name: part.value.reshape(len(latent), *sites[name]["value"].shape) for name, part in parts.items()}

    def __getstate__(self) -> dict[str, Any]:
        # not AutoGuide's, which removes the model from the guide that is being copied
        state = {**self.__dict__, "master": None}
        try:
            pickle.dumps(self._model)
        except Exception:  # nested functions cannot be pickled, and a guide can draw without its model
            state["_model"] = None
        return state

    def __deepcopy__(self, memo: dict[int, Any]) -> AutoFlow:
        """Copy the guide and its parameters, but not the model."""
        memo[id(self._model)] = self._model
        copied = memo[id(self)] = type(self).__new__(type(self))
        copied.__setstate__(copy.deepcopy({**self.__dict__, "master": None}, memo))
        return copied


def _quantiles(value: Tensor, wanted: Tensor) -> Tensor:
    """Quantiles over the first dimension, a few columns at a time: torch limits the size of the input."""
    if not value.numel():
        return value.new_empty(len(wanted), *value.shape[1:])
    columns = value.reshape(len(value), -1).split(max(1, 10**7 // len(value)), dim=1)
    return torch.cat([each.quantile(wanted, dim=0) for each in columns], 1).reshape(len(wanted), *value.shape[1:])
