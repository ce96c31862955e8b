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
from torch import Tensor, nn

from flowvae.core.errors import FlowvaeError, check_bool, check_choice, check_int, check_number
from flowvae.core.parts import Cost, GuideSpec, NetworkSpec
from flowvae.core.seeds import derive, seeded
from flowvae.flows.pyro_adapter import to_pyro
from flowvae.flows.spec import FlowSpec
from flowvae.guides.automatic.affine import AffineLayer
from flowvae.guides.automatic.joint_flow import AFFINE, build_joint_flow
from flowvae.guides.automatic.layout import Layout
from flowvae.guides.automatic.local_part import build_local, check_head
from flowvae.guides.automatic.masks import check_sites
from flowvae.guides.automatic.plate_encoder import check_encoders, has_rows
from flowvae.guides.automatic.plates import check_encoded, read_points
from flowvae.guides.automatic.prototype import read_prototype
from flowvae.guides.automatic.summaries import check_draws, draw_in_blocks, quantiles_of, split
from flowvae.guides.flow import check_posterior
from flowvae.networks import declare_parameters

__all__ = ["AutoFlow"]


class AutoFlow(AutoContinuous):
    r"""Flow guide over all latent variables of a model, unconstrained: u ~ N(0, I), v = T(u), z = loc + L v.

    The flow T acts in standardized space, which suits its networks and the box of its splines; the learned affine
    layer after it has the location, scale and (with a full L) correlation of the posterior. If T starts as the
    identity, the guide starts as N(loc, init_scale² I), like Pyro's `AutoMultivariateNormal`. With a full affine layer
    it contains all Gaussians.

    With hidden layers of a fixed width H, a pass of the flow takes a multiple of D H multiplications; above 1000 latent
    numbers the affine layer is diagonal by default, so time and memory of the guide are linear in D.

    Constrained variables are mapped by the bijections of torch and Pyro; `supports.py` lists them. A support that
    depends on other latent variables, as in `b ~ Uniform(0, a)`, is that of the current draw: the guide runs the model
    up to the last site whose support has parameters, such as the bounds of a `Uniform`.

    **Latents inside a plate** of data, such as the codes of a VAE, can be drawn given an encoder of the plate's data:

        AutoFlow(model, IAF(), encoder={"data": MLP()})

    is q(g) Π_i q(l_i | e_i, g), where l_i are the latents of point i of the plate "data", e_i its features, and g all
    other latents (there may be none). The plate may subsample, and its size may change from run to run: the guide
    takes the points that the model takes. A network is either settings, built for the model's first argument and
    applied to it, or an nn.Module, called with the model's arguments. Of tensors with a row for each point of the
    plate, it gets the rows of the subsample. It returns features with a row for each point of the subsample, or of the
    plate. The l_i start near the mean of their initial values, with standard deviations near one.

    The guide is set up in its first run: call it once, with the model's arguments, before `load_state_dict` or before
    its parameters are given to an optimizer. Its parameters stay in the module; Pyro's parameter store is not used, so
    that two guides cannot train each other's parameters.

    Train it with `Trace_ELBO`: `TraceMeanField_ELBO` drops the log-densities of Delta sites, and with them the Jacobian
    of the constraints, for this guide as for Pyro's autoguides.

    Args:
        model: a Pyro model with continuous latent variables, two numbers or more in total unless there is an encoder.
            With an encoder, a single number outside its plate gets the affine layer alone.
        flow: the family T, cheap in its *generative* direction, such as `IAF` or `CouplingNSF`.
        init_loc_fn: function that gives the initial location, site by site, as in Pyro's autoguides.
        init_scale: initial standard deviation of every unconstrained latent number outside of the plates with encoders.
        affine: "full" (L lower triangular), "diagonal", or "auto": full up to 1000 latent numbers. A full layer takes
            D² multiplications per draw, D × D matrices, and D³ multiplications to initialize by `fit_autoguide`.
        draws: number of draws for `median` and `quantiles`.
        encoder: networks by name of their plate, as settings or modules; None: no encoders.
        local: distribution of the latents of a point given its features, such as `Gaussian()`; None: `FlowGuide(flow)`,
            or a Gaussian for fewer numbers than the flow needs.
        structured: whether l_i depends on the draw of g, as it does in the posterior of a hierarchical model
            (structured variational inference), or on the features alone (mean field between g and l).

    Raises:
        FlowvaeError: at once, if the flow cannot be a posterior or a setting is out of range. At the first run: if the
            model has too few latent numbers for the flow, or more than fit into memory; for a latent without a
            bijection from the reals, in a subsampled plate without an encoder, or in a plate with an encoder and other
            plates; or if an encoder does not give features of the plate's points.

    References:
        Kucukelbir et al. (2017), "Automatic Differentiation Variational Inference"; Rezende & Mohamed (2015); Hoffman &
        Blei (2015), "Structured Stochastic Variational Inference".
    """

    def __init__(
        self,
        model: Callable[..., Any],
        flow: FlowSpec,
        init_loc_fn: Callable[..., Any] = init_to_median,
        init_scale: float = 0.1,
        affine: str = "auto",
        draws: int = 10_000,
        encoder: Mapping[str, NetworkSpec | nn.Module] | None = None,
        local: GuideSpec | None = None,
        structured: bool = True,
    ) -> None:
        super().__init__(model)
        self._model = (model,)  # not wrapped as by AutoContinuous: `read_prototype` may need another initialization
        self.init_loc_fn = init_loc_fn
        self.flow, self.init_scale, self.affine, self.draws = flow, init_scale, affine, draws
        self.encoder, self.local, self.structured = check_encoders(encoder), local, structured
        check_posterior(self, flow)
        check_number(self, "init_scale")
        check_choice(self, "affine", AFFINE)
        check_int(self, "draws")
        check_bool(self, "structured")
        check_head(local)

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

    def _run_model(self, *args: Any, **kwargs: Any) -> Any:
        # a guide without its model raises an error only if it has to run it
        return self.model(*args, **kwargs)

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        try:
            self.prototype_trace = trace = read_prototype(self.model, self.init_loc_fn, args, kwargs, self.encoder)
            if self.master is not None:
                self.master()._check_prototype(trace)
            check_sites(self.model, args, kwargs, nodes=trace.nodes)
            self._layout = layout = Layout(dict(trace.iter_stochastic_nodes()), self.encoder)
            layout.check_supports(self.model, args, kwargs)
            check_encoded(self.encoder, layout.inside.values(), self.model, args, kwargs)
            for name in layout.inside:  # the rest is the unconstrained vector of AutoContinuous
                trace.remove_node(name)
            self._unconstrained_shapes = {name: layout.initial[name].shape for name in layout.joint}
            self._prototype_frames = {frame.name: frame for name in layout.joint for frame in layout.frames[name]}
            self._build(args, kwargs)
        except BaseException:
            self.prototype_trace = None  # the guide is not set up
            self._modules.pop("posterior", None)
            raise

    def _build(self, args: Any, kwargs: Any) -> None:
        layout = self._layout
        parts = [layout.initial[name].reshape(-1) for name in layout.joint]
        loc = torch.cat(parts) if parts else torch.zeros(0)
        self.latent_dim = len(loc)
        if len(loc) or not layout.inside:
            alone = not layout.inside
            self.add_module("posterior", build_joint_flow(self.flow, loc, self.init_scale, self.affine, alone))
        given = self.latent_dim if self.structured else 0
        head = self.local or self.flow
        found = [build_local(*pair, head, layout, given, args, kwargs) for pair in self.encoder.items()]
        self.add_module("locals", nn.ModuleList(found))

    def cost(self) -> Cost:
        """Network passes of the flow over the unconstrained vector; see `Cost`.

        Raises:
            FlowvaeError: before the guide has run for the first time.
        """
        self._check_set_up()
        return self.flow.cost(self.latent_dim) if self.latent_dim >= self.flow.least_features else Cost()

    @property
    def independent_draws(self) -> bool:
        """Whether draws under an outer plate equal independent runs: always, unless the guide runs the model."""
        return self._layout.last is None

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
        self._check_set_up()
        # without PyroModule's attribute access, which would put the parameters into the global store
        module = self._modules.get("posterior")
        if module is None:
            raise FlowvaeError("AutoFlow: every latent variable is in a plate with an encoder; there is no joint flow.")
        return module

    def _locals(self) -> Any:
        return self._modules["locals"]

    def _check_set_up(self) -> None:
        if self.prototype_trace is None:
            raise FlowvaeError(
                "AutoFlow has not been set up: call the guide once, with the model's arguments, before this."
            )

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load a state dict, as torch does, into a guide that has been set up.

        Raises:
            FlowvaeError: before the guide has run for the first time.
        """
        self._check_set_up()
        return super().load_state_dict(state_dict, *args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Draw every latent site, and return the values by site."""
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        return self._draw(self._plates(args, kwargs), args, kwargs)

    def _draw(self, plates: Mapping[str, Any], args: Any, kwargs: Any) -> dict[str, Tensor]:
        free: dict[str, Tensor] = {}
        given = None
        if self.latent_dim:
            latent = self.sample_latent(*args, **kwargs)
            free = {site["name"]: value for site, value in self._unpack_latent(latent)}
            given = self.affine_layer()(latent) if self.structured and self._layout.inside else None
        for part in self._locals():
            declare_parameters(f"{self._pyro_name}.{part.plate}", part)
            free |= part.draw(f"_{self._pyro_name}_latent_{part.plate}", plates[part.plate], given, args, kwargs)
        points = {part.plate: plates[part.plate].indices for part in self._locals()}
        drawn = {}
        for name, part in self._layout.parts(self._run_model, free, points, args, kwargs).items():
            log_density = 0.0 if poutine.get_mask() is False else -part.log_det
            fn = Delta(part.value, log_density=log_density, event_dim=self._layout.event_dim(name))
            with ExitStack() as stack:
                for frame in self._layout.frames[name]:
                    stack.enter_context(plates[frame.name])
                drawn[name] = pyro.sample(name, fn)
        return drawn

    def _plates(self, args: Any, kwargs: Any, whole: bool = False) -> dict[str, Any]:
        """Create the plates of the sites in this run.

        Those with an encoder take the points that the model takes or, with `whole`, all points that the arguments hold.
        """
        plates = dict(self._create_plates(*args, **kwargs))
        layout = self._layout
        if layout.inside and self.master is None:
            start = {name: layout.sites[name]["value"] for name in layout.joint}
            shapes = {name: layout.sites[name]["fn"].event_shape for name in layout.inside}
            found = read_points(self.model, self.encoder, start, shapes, args, kwargs)
            for name, (size, index) in found.items():
                if whole and any(has_rows(value, size) for value in (*args, *kwargs.values())):
                    index = torch.arange(size)
                plates[name] = pyro.plate(name, size, subsample=index, dim=layout.frame(name).dim)
        return plates

    @torch.no_grad()
    def quantiles(self, quantiles: list[float] | Tensor, *args: Any, seed: int = 0, **kwargs: Any) -> dict[str, Tensor]:
        """Estimate quantiles of every entry of every latent variable, by site, shape (quantiles, *site).

        They are computed entry by entry from `draws` draws in the constrained space. Latents inside a plate with an
        encoder are drawn for all points in the arguments, even if the model takes a subsample.

        Args:
            quantiles: levels between 0 and 1.
            args: the model's arguments.
            seed: seed of the draws.
            kwargs: the model's keyword arguments.

        Raises:
            FlowvaeError: before the guide has run for the first time, or if the draws do not fit into memory.
        """
        self._check_set_up()
        if not self._layout.inside:
            with seeded(derive(seed, "quantiles")):
                values = self._draws(args, kwargs)
        else:
            with seeded(derive(seed, "points")), poutine.block():
                plates = self._plates(args, kwargs, whole=True)
            with seeded(derive(seed, "quantiles")), poutine.block():
                values = self._draws_of_data(plates, args, kwargs)
        return {name: quantiles_of(value, quantiles) for name, value in values.items()}

    def _draws(self, args: Any, kwargs: Any) -> dict[str, Tensor]:
        """Draw all sites of a guide without encoders, shape (draws, *site)."""
        posterior = self.get_posterior(*args, **kwargs)
        check_draws(self.draws, self.latent_dim, self.affine_layer.center)
        latent = torch.cat([posterior.sample((count,)) for count in split(self.draws)])
        return self.constrain(latent, *args, **kwargs)

    def _draws_of_data(self, plates: Mapping[str, Any], args: Any, kwargs: Any) -> dict[str, Tensor]:
        """Draw all sites, those inside plates with encoders for all data in the arguments; shape (draws, *site)."""
        numbers = self.latent_dim + sum(part.size * len(plates[part.plate].indices) for part in self._locals())
        check_draws(self.draws, numbers, self._locals()[0].center)
        # if a support is not fixed, the model runs too, and may take one draw at a time
        how = self.draws, numbers, self._layout.depth, self._layout.last is None
        found = [
            {name: value.reshape(count, *self._layout.shape(name)) for name, value in drawn.items()}
            for count, drawn in draw_in_blocks(lambda: self._draw(plates, args, kwargs), *how)
        ]
        return {name: torch.cat([each[name] for each in found]) for name in found[0]}

    def median(self, *args: Any, seed: int = 0, **kwargs: Any) -> dict[str, Tensor]:
        """Estimate the median of every entry of every latent variable, by site; see `quantiles`."""
        return {name: value[0] for name, value in self.quantiles([0.5], *args, seed=seed, **kwargs).items()}

    def constrain(self, latent: Tensor, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Map unconstrained vectors (S, D) to the latent variables outside of encoded plates, shape (S, *site).

        Args:
            latent: the vectors.
            args: the model's arguments, on which supports may depend; by default those of the guide's first run.
            kwargs: the model's keyword arguments.

        Raises:
            FlowvaeError: before the guide has run for the first time, or if all latents are in encoded plates.
        """
        self._posterior()  # raises an error before the first run
        if not args and not kwargs:
            first = self.prototype_trace.nodes["_INPUT"]
            args, kwargs = first["args"], first["kwargs"]
        return self._layout.constrain(self._run_model, self._unpack_latent, latent, args, kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # AutoGuide's version removes the model from the guide that is being copied
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
