"""AdamO: Adam with a decoupled isometry step (Rosseau, Müller & Nowé 2026, arXiv 2606.09762, eq. 16, 19, 20).

Not the optimizers of the same name of arXiv 2602.05136 and arXiv 2405.04376.

    m, v  <- Adam moments of the task gradient alone (plus Adam's own weight decay, if any)
    theta <- theta - eta m_hat / (sqrt(v_hat) + eps) - eta_iso lambda grad R(theta)
    R(W)   = || W W^T - s I ||_F^2      (some codes have a factor 1/2, which halves the pull of a lambda)

Only weights in groups marked `isometric` feel the second term. `parameter_groups` builds the
groups: hidden weights are isometric; heads, biases and norm layers are free.

    optimizer = AdamO(parameter_groups(network, heads=["head"]), lr=1e-3, iso_lambda=0.1)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.optim import Adam

from isorl.plasticity.linalg import as_matrix, isometry_descent

DEFAULT_LAMBDA = 0.1
_ISOMETRY_KEYS = ("isometric", "iso_lambda", "iso_lr", "iso_target", "iso_every", "iso_updates")


class AdamO(Adam):
    """Updates by Adam or AdamW and takes the isometry step apart; with iso_lambda=0 it equals them bit for bit.

    Args:
        params: parameter groups whose `isometric` flag says which weights the step acts on. If no group
            states it (a flat list, as Stable-Baselines3 hands over), every weight of two dimensions or more
            is taken as isometric, output heads included, and a warning says so. Groups that hold none (the
            biases of a split into weights with and without decay) are then free.
        lr: eta; also a tensor where torch's Adam allows one.
        betas: of Adam.
        eps: of Adam.
        weight_decay: of Adam, or of AdamW with `decoupled_weight_decay`. Adam adds weight_decay theta to the
            gradient, with the theta that the isometry step has moved: through this term alone the moments feel
            the step. Without decay, or with AdamW's, they never do.
        amsgrad: of Adam.
        decoupled_weight_decay: AdamW's decay instead of Adam's.
        foreach: of Adam.
        maximize: of Adam; the isometry penalty is minimised all the same.
        capturable: of Adam. The isometry step can be captured in a CUDA graph when iso_every is 1.
        fused: of Adam.
        iso_lambda: strength lambda, 0.1 unless it or `iso_half_life` is given. What acts is
            a = iso_lr * iso_lambda; 1e-4 to 1e-3 is useful.
        iso_half_life: the same strength in updates, from which lambda follows by `isometry_lambda` at the
            first iso_lr; like every lambda it follows the schedule of the learning rate from there on.
        iso_lr: eta_iso; None follows the group's current lr and so every schedule.
        iso_target: s, the squared singular value aimed at: 1, or 2 for ReLU (which zeroes half the signal).
        iso_every: k: the step is taken at every k-th update with k-fold strength, at a k-th of the cost.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        decoupled_weight_decay: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        fused: bool | None = None,
        iso_lambda: float | None = None,
        iso_half_life: float | None = None,
        iso_lr: float | None = None,
        iso_target: float = 1.0,
        iso_every: int = 4,
    ):
        params = params if isinstance(params, Tensor) else list(params)  # torch refuses a bare tensor itself
        stated = any(isinstance(group, dict) and "isometric" in group for group in params)
        _check_given_once({"iso_lambda": iso_lambda, "iso_half_life": iso_half_life})
        self._isometry_defaults = {
            "isometric": not stated,
            "iso_lambda": DEFAULT_LAMBDA if iso_lambda is None else iso_lambda,
            "iso_half_life": iso_half_life,
            "iso_lr": iso_lr,
            "iso_target": iso_target,
            "iso_every": iso_every,
            "iso_updates": 0,
        }
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
        )
        self.defaults.update(self._isometry_defaults)
        if not stated and iso_lambda != 0:
            _warn_about_flat_list(self.param_groups)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; keys of the isometry step it does not state take the optimizer's defaults."""
        stated = not isinstance(param_group, dict) or "isometric" in param_group
        if isinstance(param_group, dict):
            _check_given_once(param_group)
            own = {"iso_half_life": None} if param_group.get("iso_lambda") is not None else {}
            param_group = {**self._isometry_defaults, **own, **param_group}
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        half_life = group.pop("iso_half_life", None)
        if not stated:
            group["isometric"] &= any(theta.ndim >= 2 for theta in group["params"])
        try:
            if any(is_lazy(theta) for theta in group["params"]):
                raise ValueError(
                    "AdamO was given lazy parameters, which have no shape yet: pass a batch through the module first"
                )
            if half_life is not None and group["isometric"]:
                rate = group["lr"] if group["iso_lr"] is None else group["iso_lr"]
                group["iso_lambda"] = isometry_lambda(
                    half_life, rate, group["iso_target"], group["iso_every"]
                )
            matrices = self.isometric_weights(group)
            _check_group(group, matrices)
        except ValueError:
            self.param_groups.pop()
            raise
        if group["isometric"] and group["iso_lambda"] and any(W.element_size() < 4 for W in matrices):
            warnings.warn(
                f"AdamO: weights of {matrices[0].dtype} round most of the isometry step away; keep them in float32 and "
                "compute in 16 bits by torch.autocast",
                UserWarning,
                stacklevel=3,
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores a state; one saved by plain Adam keeps the isometry settings this optimizer has."""
        before = getattr(self, "param_groups", [])
        super().__setstate__(state)
        self._isometry_defaults = {key: self.defaults[key] for key in _ISOMETRY_KEYS}  # of a copied optimizer
        for i, group in enumerate(self.param_groups):
            own = before[i] if i < len(before) else self.defaults
            for key in _ISOMETRY_KEYS:
                group.setdefault(key, own[key])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Makes one update: the isometry step at theta, then Adam's with the gradient taken before it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.isometry_step()
        self.adam_step()
        return loss

    def adam_step(self) -> None:
        """Takes Adam's step alone."""
        unhooked(Adam.step)(self)

    @torch.no_grad()
    def isometry_step(self) -> None:
        """At every k-th call theta <- theta - k eta_iso lambda grad R(theta), where a gradient is present."""
        for group in self.param_groups:
            k = group["iso_every"]
            if k > 1 and group["capturable"] and torch.cuda.is_current_stream_capturing():
                raise ValueError(
                    f"a CUDA graph repeats one update, but iso_every={k} differs by update; use 1"
                )
            group["iso_updates"] += 1
            if not group["isometric"] or group["iso_lambda"] == 0 or group["iso_updates"] % k:
                continue
            strength = k * isometry_rate(group)
            found_inf = getattr(self, "found_inf", None)  # from torch.amp.GradScaler with fused=True
            if found_inf is not None:  # one where Adam's kernel is about to skip the update
                strength = strength * (1 - found_inf)
            for theta in self.isometric_weights(group):
                if theta.grad is not None:
                    step = isometry_descent(self.as_matrices(theta), strength, group["iso_target"])
                    theta.add_(step.reshape(theta.shape))

    def isometric_weights(self, group: dict[str, Any]) -> list[Tensor]:
        """Returns the weights of an isometric group that the isometry step acts on: those of two dimensions or more."""
        return [theta for theta in group["params"] if theta.ndim >= 2]

    as_matrices = staticmethod(as_matrix)
    """How a weight is read as a matrix (O, I), or as many at once (..., O, I)."""

    def half_life(self, planned_updates: int | None = None) -> float:
        """Returns the updates that halve the slowest isometric group's Gram deviation at the present rates.

        Warns where it exceeds `planned_updates`, that is where the step cannot act in the time given.
        """
        lives = [
            isometry_half_life(isometry_rate(group), 1.0, group["iso_target"], group["iso_every"])
            for group in self.param_groups
            if group["isometric"]
        ]
        life = max(lives, default=math.inf)
        if planned_updates is not None and life > planned_updates:
            _warn_about_weak_step(life, planned_updates)
        return life


def isometry_rate(group: dict[str, Any]) -> float | Tensor:
    """Returns the rate a = eta_iso lambda of a parameter group; eta_iso follows its lr unless given."""
    eta_iso = group["lr"] if group["iso_lr"] is None else group["iso_lr"]
    return eta_iso * group["iso_lambda"]


def isometry_half_life(
    lr: float | Tensor,
    iso_lambda: float,
    iso_target: float = 1.0,
    iso_every: int = 1,
    planned_updates: int | None = None,
) -> float:
    """Returns the updates after which |sigma^2 - s| has halved, near s and without a task gradient.

    From sigma <- sigma - 4 a sigma (sigma^2 - s) with a = eta_iso lambda: each update multiplies the
    deviation by 1 - alpha, alpha = 8 a s, so about ln 2 / alpha updates halve it. Infinite where a = 0.
    Warns where it exceeds `planned_updates`: at lr 1e-3 and lambda 1e-3 it is 87,000 updates.
    """
    alpha = min(8 * float(lr) * iso_lambda * iso_target * iso_every, 1.0)  # the stability cap
    if alpha <= 0:
        life = math.inf
    elif alpha >= 0.5:  # a single application halves it
        life = float(iso_every)
    else:
        life = iso_every * math.log(2) / -math.log1p(-alpha)
    if planned_updates is not None and life > planned_updates:
        _warn_about_weak_step(life, planned_updates)
    return life


def isometry_lambda(
    half_life: float, lr: float | Tensor, iso_target: float = 1.0, iso_every: int = 1
) -> float:
    """Returns the iso_lambda with which a deviation from isometry halves in `half_life` updates.

    The inverse of `isometry_half_life`. An application, at every k-th update, multiplies the deviation by
    1 - 8 k a s, so (1 - 8 k a s)^(h / k) = 1/2 gives

        lambda = (1 - 2^(-k / h)) / (8 k s eta_iso)

    Exact to first order in sigma^2 / s - 1, without a task gradient. Further off, where small steps follow
    du/dt = -8 a s u (u - 1) with u = sigma^2 / s, |u - 1| halves from u in log2((1 + u) / u) half-lives: 0.58
    from u = 2, 1.58 from u = 1/2, and ever more towards u = 0.

    Raises:
        ValueError: a half-life shorter than iso_every, which one application would overshoot, or no rate.
    """
    if not (math.isfinite(half_life) and half_life >= iso_every):
        raise ValueError(
            f"iso_half_life is {half_life:g} updates; it must be finite and at least iso_every={iso_every}, "
            "for the step is taken no more often"
        )
    if not float(lr) > 0:
        raise ValueError(f"iso_half_life needs a learning rate above 0, got {float(lr):g}; use iso_lambda")
    return -math.expm1(-math.log(2) * iso_every / half_life) / (8 * iso_every * iso_target * float(lr))


def _check_given_once(options: Mapping[str, Any]) -> None:
    iso_lambda, half_life = options.get("iso_lambda"), options.get("iso_half_life")
    if iso_lambda is not None and half_life is not None:
        raise ValueError(
            f"iso_lambda={iso_lambda:g} and iso_half_life={half_life:g} both give the strength of the isometry "
            "step; leave one out"
        )


def unhooked(step: Callable[..., Any]) -> Callable[..., Any]:
    """Returns an optimizer class's `step` without torch's hooks around it, which within another's would run twice."""
    while getattr(step, "hooked", False):
        step = step.__wrapped__  # type: ignore[attr-defined]
    return step


def _check_group(group: dict[str, Any], matrices: list[Tensor]) -> None:
    """Refuses, in words, what the isometry step cannot mean."""
    for key in ("iso_lambda", "iso_lr"):
        value = group[key]
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{key} must be finite and not negative, got {value}; 0 turns the step off")
    if not (math.isfinite(group["iso_target"]) and group["iso_target"] > 0):
        raise ValueError(f"iso_target is a squared singular value and positive, got {group['iso_target']}")
    if not (isinstance(group["iso_every"], int) and group["iso_every"] >= 1):
        raise ValueError(f"iso_every counts updates and is an int of at least 1, got {group['iso_every']}")
    if not group["isometric"] or group["iso_lambda"] == 0:
        return
    if not matrices:
        raise ValueError(
            "a group marked isometric holds no weight of two dimensions or more, so the step could not act; "
            "mark it isometric=False or set iso_lambda=0"
        )
    for theta in matrices:
        if theta.is_complex() or theta.layout != torch.strided:
            raise ValueError(
                f"the isometry step needs dense real weights, got {theta.dtype}, {theta.layout} of shape "
                f"{tuple(theta.shape)}; put it in a group with isometric=False"
            )


def _warn_about_flat_list(groups: list[dict[str, Any]]) -> None:
    count = sum(theta.ndim >= 2 for group in groups for theta in group["params"])
    warnings.warn(
        f"AdamO: no parameter group states `isometric`, so all {count} weight matrices count as isometric; "
        "output heads are better left free. Use isorl.plasticity.parameter_groups(module, heads=[...])",
        UserWarning,
        stacklevel=3,
    )


def _warn_about_weak_step(life: float, planned_updates: int) -> None:
    warnings.warn(
        f"AdamO: the isometry half-life is {life:,.0f} updates but {planned_updates:,} are planned, so the "
        f"step cannot act; multiply iso_lambda by at least {life / max(planned_updates, 1):.1f}",
        UserWarning,
        stacklevel=3,
    )
