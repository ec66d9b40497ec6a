"""Adam over rows of a parameter, and the optimizer of a feature field, whose rows are what the sampled pixels show."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from splatseg.core.errors import SplatsegError, check_dims
from splatseg.ops.blend import check_ranges, check_rows, range_error, weights_beside
from splatseg.ops.contributions import Contributions
from splatseg.ops.extension import compiled, has_kernel
from splatseg.ops.reference import adam as reference
from splatseg.ops.reference import blend as reference_blend

CPU_PARTS = 2
"""Equal runs of a batch's rows that add to a gradient each on the CPU, whatever the number of threads: with one
gradient all threads would have to read every entry. Twice the memory of one. CUDA adds atomically to one."""
NO_ROW = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class AdamConfig:
    """Settings of :func:`adam_` and :class:`SparseFeatureAdam`.

    Attributes:
        lr: learning rate, > 0; ``step`` may be given another (a schedule's).
        betas: decay of the two moment averages, each in [0, 1).
        eps: added to the root of the second moment, > 0.
        norm_weight: weight of mean over Gaussians of (|f| - 1)^2, >= 0. Its gradient is added in the step, to
            touched rows only, so a Gaussian that no sampled pixel shows keeps its norm.
    """

    lr: float = 2.5e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    norm_weight: float = 0.0

    def __post_init__(self) -> None:
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise SplatsegError(f"adam.lr: expected a positive number, found {self.lr}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise SplatsegError(f"adam.betas: expected two numbers in [0, 1), found {self.betas}")
        if not (self.eps > 0 and math.isfinite(self.eps)):
            raise SplatsegError(f"adam.eps: expected a positive number, found {self.eps}")
        if not (self.norm_weight >= 0 and math.isfinite(self.norm_weight)):
            raise SplatsegError(f"adam.norm_weight: expected 0 or more, found {self.norm_weight}")

    def rates(self, step: int, lr: float | None = None) -> tuple[float, float]:
        """Step size and scale of the averages' root of step number ``step``, from 1, at ``lr`` (the config's if None).

        They carry the bias correction of Kingma & Ba.
        """
        beta1, beta2 = self.betas
        return (self.lr if lr is None else lr) / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step)


def adam_(
    params: Tensor,
    moments: tuple[Tensor, Tensor],
    grad: Tensor,
    rates: Tensor,
    config: AdamConfig = AdamConfig(),
    *,
    rows: Tensor | None = None,
    lr: Tensor | None = None,
    bad: Tensor | None = None,
    clear: bool = False,
) -> None:
    """One Adam step, in place, on the rows of ``params`` where ``rows``; others keep their values and moments.

    The rule of 3DGS' sparse Adam (Mallick et al. 2024) with bias correction at the global step. Never waits for the
    device.

    Args:
        params: (n, d) float32 or float64, contiguous, updated.
        moments: running means of the gradient and of its square, (n, d) each, updated.
        grad: (n, d) gradient of ``params``, or (parts, n, d), of which the sum is taken (on CUDA one part).
        rates: (2,) float64 of :meth:`AdamConfig.rates`, on the host or, for replay, on the device, where it is read
            when the step runs.
        config: betas, eps and the weight of the norm term.
        rows: (n,) bool, or (parts, n) uint8 of which one must be set; all rows if None.
        lr: (d,) learning rate of each column, which ``rates[0]`` is multiplied by; 1 if None.
        bad: () int64. Where it is given, rows whose gradient is not finite stay as they are, and it becomes the least
            of them, if lower. If None, gradients are taken as they come.
        clear: zero gradient and flags of the rows, for the next step.

    Raises:
        ValueError: shapes, dtypes, devices or layouts that do not fit, naming the argument.
    """
    if grad.dim() == 2:
        grad = grad[None]
    if rows is not None and rows.dtype == torch.bool:
        rows = rows.view(torch.uint8)[None]
    run = torch.ops.splatseg.adam_ if has_kernel("adam_", params) else reference.adam_
    run(params, *moments, grad, rows, lr, rates, bad, *config.betas, config.eps, config.norm_weight, clear)


class SparseFeatureAdam:
    """Adam over ``features`` (n, d), in place, without autograd: ``accumulate`` gradients of pixels, then ``step``.

    A row that no accumulated pixel shows costs nothing and does not move; its averages wait, as in
    ``torch.optim.SparseAdam``. Where every row is touched every step, this is ``torch.optim.Adam``. Results do not
    depend on the thread count.

    Args:
        features: (n, d) float32 or float64, contiguous, finite; updated in place. Must not require a gradient.
        config: settings.

    Example::

        blended = ops.blend(contributions, features, rows).requires_grad_()
        (grad,) = torch.autograd.grad(loss(blended), blended)
        optimizer.accumulate(contributions, grad, rows)
        optimizer.step()
    """

    def __init__(self, features: Tensor, config: AdamConfig = AdamConfig()) -> None:
        check_dims("features", features, ("n", "d"))
        if features.dtype not in (torch.float32, torch.float64) or not features.is_contiguous():
            raise SplatsegError(f"features: expected contiguous float32 or float64, found {features.dtype}")
        if features.requires_grad:
            raise SplatsegError("features: expected a tensor that requires no gradient (the step writes in place)")
        self.features = features
        self.config = config
        self.steps = 0
        self.exp_avg = torch.zeros_like(features)
        self.exp_avg_sq = torch.zeros_like(features)
        parts = CPU_PARTS if features.device.type == "cpu" else 1
        self._grad = features.new_zeros(parts, *features.shape)
        self._touched = features.new_zeros(parts, features.shape[0], dtype=torch.uint8)
        self.bad = torch.full((), NO_ROW, dtype=torch.int64, device=features.device)
        """() int64: least row whose gradient was not finite in a step since the last :meth:`check`."""
        self._movable: Tensor | None = None

    @property
    def held(self) -> Tensor | None:
        """(n,) bool: rows that :meth:`freeze` keeps; None where all move."""
        return None if self._movable is None else self._movable == 0

    @property
    def settings(self) -> tuple[float, float, float, float]:
        """The last arguments of the Adam ops: both betas, eps and the weight of the norm term."""
        return *self.config.betas, self.config.eps, self.config.norm_weight

    def freeze(self, rows: Tensor) -> None:
        """From now on leave ``rows`` (n,) bool as they are, and their averages; forgets the gradient so far."""
        check_dims("rows", rows, (self.features.shape[0],))
        self._movable = (~rows.to(self.features.device)).to(torch.uint8)
        self.reset()

    def accumulate(self, contributions: Contributions, grad: Tensor, rows: Tensor | None = None) -> None:
        """Add the transpose of ``blend(contributions, features, rows)`` applied to ``grad`` (r, d) to the gradient.

        Raises:
            SplatsegError: wrong shapes or dtypes, or, on the CPU, rows or ids out of range (then ``reset`` before going
                on; CUDA leaves them out).
        """
        rows = check_rows(rows)
        count = len(contributions) if rows is None else rows.numel()
        check_dims("grad", grad, (count, self.features.shape[1]))
        if grad.dtype != self.features.dtype:
            raise SplatsegError(f"grad: expected {self.features.dtype} as the features, found {grad.dtype}")
        c, grad = contributions, grad.detach()
        weights = weights_beside(c.weights, grad.dtype)
        try:
            if has_kernel("blend_transpose_", grad):
                torch.ops.splatseg.blend_transpose_(c.offsets, c.ids, weights, grad, rows, self._grad, self._touched)
                return
            n = self.features.shape[0]
            check_ranges(c, rows, n)
            self._grad[0] += reference_blend.blend_transpose(c.offsets, c.ids, weights, grad, rows, n)
            entries, _ = reference_blend.select_rows(c.offsets, rows)
            self._touched[0, c.ids[entries].long()] = 1
        except IndexError as error:
            raise range_error(c, self.features.shape[0], error) from None

    def accumulate_dense(self, grad: Tensor) -> None:
        """Add ``grad`` (n, d), which did not come through ``blend``; rows that are not all zero count as touched."""
        check_dims("grad", grad, tuple(self.features.shape))
        self._grad[0] += grad
        self._touched[0] |= (grad != 0).any(dim=1).to(torch.uint8)

    def step(self, lr: float | None = None) -> None:
        """Update the rows touched since the last step and clear their gradient.

        Args:
            lr: learning rate of this step; the config's if None.

        Raises:
            SplatsegError: a gradient that is not finite, naming the Gaussian; such rows keep their values, the others
                are updated.
        """
        self.steps += 1
        self.step_at(torch.tensor(self.config.rates(self.steps, lr), dtype=torch.float64))
        try:
            self.check()
        except SplatsegError as error:
            raise SplatsegError(f"{error} (step {self.steps})") from None

    def step_at(self, rates: Tensor) -> None:
        """:meth:`step` for replay: ``rates`` (2,) float64 is read on the device when the step runs, ``steps`` stays.

        ``rates`` are those of :meth:`AdamConfig.rates`. Never waits for the device; :meth:`check` tells afterwards
        whether a gradient was not finite.
        """
        self._drop_frozen()
        moments = (self.exp_avg, self.exp_avg_sq)
        adam_(self.features, moments, self._grad, rates, self.config, rows=self._touched, bad=self.bad, clear=True)

    def _drop_frozen(self) -> None:
        if self._movable is not None:
            self._touched &= self._movable

    def check(self) -> None:
        """Raise :class:`SplatsegError` if a gradient of :meth:`step_at` was not finite since the last call."""
        row = int(self.bad)
        self.bad.fill_(NO_ROW)
        if row != NO_ROW:
            raise SplatsegError(f"feature gradient: expected finite values, found others in row {row}")

    def reset(self) -> None:
        """Forget the gradient accumulated since the last step."""
        self._grad.zero_()
        self._touched.zero_()

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint needs beside the features; tensors are shared, not copied."""
        return {"exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq, "steps": torch.tensor(self.steps)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from ``state_dict`` of an optimizer of equally many features; forgets accumulated gradients.

        Raises:
            SplatsegError: a missing entry or one of another shape.
        """
        for name in ("exp_avg", "exp_avg_sq", "steps"):
            if name not in state:
                raise SplatsegError(f"optimizer state: expected entry '{name}', found {sorted(state)}")
        for name, own in (("exp_avg", self.exp_avg), ("exp_avg_sq", self.exp_avg_sq)):
            check_dims(f"optimizer state {name}", state[name], tuple(own.shape))
            own.copy_(state[name])
        self.steps = int(state["steps"])
        self.reset()


def _step_fake(*state_and_settings: Tensor | float | None) -> None:
    return None


if compiled():
    torch.library.register_fake("splatseg::adam_", _step_fake)
