"""The hierarchical contrastive loss (OmniSeg3D, Ying et al., CVPR 2024, eqs. 3-6) as one fused op."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from splatseg.core.errors import SplatsegError, check_dims
from splatseg.ops.extension import compiled, has_kernel
from splatseg.ops.loss_config import LossConfig
from splatseg.ops.reference import loss as reference


def hierarchical_contrastive_loss(
    features: Tensor,
    patch: Tensor,
    votes: Tensor | None = None,
    membership: Tensor | None = None,
    config: LossConfig | None = None,
) -> Tensor:
    """Hierarchical contrastive loss of sampled pixels of one view, without the norm term over Gaussians.

    With k the patches (id > 0) that have at least ``min_pixels`` samples and n_k their counts:

    - f^ = f / (|f| + 1e-6), the norm without gradient; u_k = mean of f^ in patch k, with gradient, not renormalized;
    - phi_k = clip(phi_scale sum |f^ - u_k| / (n_k log(n_k + 10)), phi_min, phi_max), without gradient (eq. 4);
    - L_i(s) = -log softmax over s of f^_i . u_s / phi_s (eq. 3);
    - level l of an anchor holds the patches of the l-th largest distinct positive vote (see :func:`ops.levels.levels`);
    - L'_i(s) = max(L_i(s), M_{l-1}) and M_l = max over level l of L'_i(s), with gradient through the max (eq. 5);
    - loss = weight sum_i sum_l level_decay^l mean over level l of L'_i(s) (eq. 6).

    A term equal to the running max keeps its own gradient, and the max belongs to the first pair that reached it (by
    level, then patch id). Samples that are not kept have gradient 0; with none kept the loss is 0. A patch in no mask
    (votes 0 with itself) has no term of its own but is a negative to others. Non-finite features of kept samples make
    the loss and the gradient of every kept sample NaN. Differentiable once, in ``features``.

    Args:
        features: (n, d) float32 or float64, any d (4, 8, 16, 24, 32 and 64 are fastest), of any norm.
        patch: (n,) int32 or int64 patch ids in 0..p-1; 0 is reserved for pixels in no mask and left out.
        votes: (p, p) int32 or int64 number of masks that contain both patches, any size; or
        membership: (p, words) int64, bit m of row k: mask m contains patch k. Levels are made from it on the fly.
        config: constants; :meth:`LossConfig.gs` if None.

    Returns:
        Scalar of the dtype of ``features``.

    Raises:
        SplatsegError: wrong shapes, dtypes or devices; neither or both of ``votes`` and ``membership``; on the CPU also
            a patch id outside 0..p-1 (CUDA leaves such samples out: checking would cost a synchronization).
    """
    config = config or LossConfig.gs()
    if not has_kernel("hierarchical_contrastive_loss", features):
        check_arguments(features, patch, votes, membership)
        return reference.hierarchical_contrastive_loss(features, patch, votes, membership, config)
    with_grad = torch.is_grad_enabled() and features.requires_grad
    return _call(features, patch, votes, membership, config, with_grad)[0]


def hierarchical_contrastive_loss_and_grad(
    features: Tensor,
    patch: Tensor,
    votes: Tensor | None = None,
    membership: Tensor | None = None,
    config: LossConfig | None = None,
) -> tuple[Tensor, Tensor]:
    """Value and gradient in ``features`` in one call past autograd, for fits that write their own backward pass.

    Arguments and errors as :func:`hierarchical_contrastive_loss`.

    Returns:
        The scalar loss and its (n, d) gradient, both without graph.
    """
    config = config or LossConfig.gs()
    if not has_kernel("hierarchical_contrastive_loss", features):
        check_arguments(features, patch, votes, membership)
        with torch.enable_grad():
            leaf = features.detach().requires_grad_()
            loss = reference.hierarchical_contrastive_loss(leaf, patch, votes, membership, config)
            return loss.detach(), torch.autograd.grad(loss, leaf)[0]
    with torch.no_grad():
        return _call(features, patch, votes, membership, config, True)


def check_arguments(features: Tensor, patch: Tensor, votes: Tensor | None, membership: Tensor | None) -> None:
    """Raise :class:`SplatsegError` for what the kernels reject, naming the argument."""
    sizes = check_dims("features", features, ("n", "d"))
    check_dims("patch", patch, ("n",), sizes)
    if features.dtype not in (torch.float32, torch.float64):
        raise SplatsegError(f"features: expected float32 or float64, found {features.dtype}")
    if patch.dtype not in (torch.int32, torch.int64):
        raise SplatsegError(f"patch: expected int32 or int64, found {patch.dtype}")
    table = votes if membership is None else membership
    if table is None or (votes is not None and membership is not None):
        raise SplatsegError("votes, membership: expected exactly one of them")
    if votes is not None:
        check_dims("votes", votes, ("p", "p"))
        if votes.dtype not in (torch.int32, torch.int64):
            raise SplatsegError(f"votes: expected int32 or int64, found {votes.dtype}")
    else:
        check_dims("membership", table, ("p", "words"))
        if table.dtype != torch.int64:
            raise SplatsegError(f"membership: expected int64, found {table.dtype}")
    if patch.numel() and not 0 <= int(patch.min()) <= int(patch.max()) < len(table):
        raise SplatsegError(f"patch: expected ids in 0..{len(table) - 1}, found {int(patch.min())}..{int(patch.max())}")


def _call(
    features: Tensor,
    patch: Tensor,
    votes: Tensor | None,
    membership: Tensor | None,
    config: LossConfig,
    with_grad: bool,
) -> tuple[Tensor, Tensor]:
    """The compiled op; its own complaints become one-line errors."""
    c = config
    try:
        return torch.ops.splatseg.hierarchical_contrastive_loss.default(
            features,
            patch,
            votes,
            membership,
            c.phi_min,
            c.phi_max,
            c.phi_scale,
            c.level_decay,
            c.min_pixels,
            c.weight,
            c.deterministic,
            with_grad,
        )
    except RuntimeError as error:
        check_arguments(features, patch, votes, membership)
        raise error


def _fake(features: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    with_grad = args[-1]
    return features.new_empty(()), features.new_empty(features.shape if with_grad else (0,))


if compiled():
    torch.library.register_fake("splatseg::hierarchical_contrastive_loss", _fake)
