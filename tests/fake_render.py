"""Pure-torch stand-in for render() and trace(); only used while splatseg.render does not have them."""

from types import SimpleNamespace

import torch


def _weights(g, camera):
    uv, z = camera.project(g.means)
    order = z.argsort()
    sigma = g.scales[:, 0] * camera.fx / z
    ys, xs = torch.meshgrid(torch.arange(camera.height) + 0.5, torch.arange(camera.width) + 0.5, indexing="ij")
    p = torch.stack([xs, ys], -1).reshape(-1, 2)
    a = g.opacities * torch.exp(-0.5 * ((p[:, None] - uv) ** 2).sum(-1) / (sigma**2 + 0.3)) * (z > 0.01)
    a = torch.where(a < 1 / 255, 0, a.clamp(max=0.999))[:, order]
    t = torch.cat([torch.ones(len(p), 1), (1 - a).cumprod(1)[:, :-1]], 1)
    return a * t * (t > 1e-4), order


def trace(g, camera, pixels, min_weight=1e-3):
    w, order = _weights(g, camera)
    w = w[pixels[:, 1].long() * camera.width + pixels[:, 0].long()].flip(0)
    rows, cols = (w >= min_weight).nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=len(pixels))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    return SimpleNamespace(
        pixels=pixels.flip(0),
        order=torch.arange(len(pixels)).flip(0),
        offsets=offsets,
        ids=order[cols].int(),
        weights=w[rows, cols],
    )
