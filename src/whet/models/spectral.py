"""Spectral refactoring of a LoRA pair: the same product, factored along its singular directions. Pure functions.

Thin QR and the singular values of a small core, without the inverse of any factor:

    B = Q_B R_B        A^T = Q_A R_A        R_B R_A^T = U S V^T        B A = (Q_B U) S (Q_A V)^T
    B' = Q_B U S~^1/2        A' = S~^1/2 V^T Q_A^T        B' A' = (Q_B U) S~ (Q_A V)^T                      (1)

`exact`, S~ = S: the product stays, B'^T B' = A' A'^T = S. `balanced`, S~ = (1 - lambda) S + lambda mean(S): the product
moves. The lora-ns repository has the idea and another, inverting form of it (docs/spectral.md).

Shape letters: O outputs, I inputs, R rank. Everything is computed in float64 and on whole factors: sharded ones
(FSDP2) are to be gathered before and scattered after.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RANK_FLOOR = 1e-6
"""A singular value of BA below this share of |B| |A| (Frobenius) is rounding of float32 factors, not a direction."""
MOMENT_FLOOR = 1e-3
"""Singular values count as at least this share of the largest where moments are divided by them: a moment averages
gradients of somewhat older factors, and its error would grow without bound with 1 / sqrt(S)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refactored:
    """A pair in new coordinates and what takes Adam's moments there; float64."""

    b_OR: Tensor
    a_RI: Tensor
    b_moments_RR: Tensor
    """T_A^T, from the right: moments of B become m_B T_A^T"""
    a_moments_RR: Tensor
    """T_B^T, from the left: moments of A become T_B^T m_A"""


def refactor(b_OR: Tensor, a_RI: Tensor, *, share_of_mean: float = 0.0) -> Refactored | None:
    """New factors by (1), `share_of_mean` being lambda (0: exact), and the maps of Adam's first moments.

    An averaged gradient is covariant. With B' = B T_B, A' = T_A A and G the gradient of the loss with respect to BA,

        g_B = G A^T    g_A = B^T G    g_B' = G A'^T = g_B T_A^T    g_A' = B'^T G = T_B^T g_A                    (2)
        T_B = R_B^-1 U S~^1/2 = R_A^T V S^-1 S~^1/2        T_A = S~^1/2 V^T R_A^-T = S~^1/2 S^-1 U^T R_B        (3)

    where the second forms follow from R_B R_A^T = U S V^T and invert nothing but S (see MOMENT_FLOOR). In exact mode
    T_A T_B = 1. In balanced mode (2) takes G as it was before BA moved, which is all that is known.

    None when BA has not the full numerical rank R, as with B = 0 at the start of LoRA: such a direction would get zero
    columns in both factors, hence no gradient in either, and would never train again. The pair is then best left alone.
    """
    b, a = b_OR.double(), a_RI.double()
    q_b, r_b = torch.linalg.qr(b)
    q_a, r_a = torch.linalg.qr(a.T)
    u, s_R, vh = torch.linalg.svd(r_b @ r_a.T)
    rank = b.shape[1]
    if len(s_R) < rank or not s_R[-1] > RANK_FLOOR * b.norm() * a.norm():
        return None
    new_R = torch.lerp(s_R, s_R.mean().expand(rank), share_of_mean)
    root_R = new_R.sqrt()
    scale_R1 = (root_R / s_R.clamp_min(MOMENT_FLOOR * float(s_R[0])))[:, None]
    return Refactored(
        b_OR=q_b @ (u * root_R),
        a_RI=(root_R[:, None] * vh) @ q_a.T,
        b_moments_RR=(scale_R1 * (u.T @ r_b)).T,
        a_moments_RR=scale_R1 * (vh @ r_a),
    )


def product_distance(b_OR: Tensor, a_RI: Tensor, other_b_OR: Tensor, other_a_RI: Tensor) -> float:
    """|B'A' - BA| / |BA| in the Frobenius norm, without forming either product; `other` is B', A'.

    B'A' - BA = [B' B] [A'; -A], and the norm of a product is that of its two QR triangles.
    """
    difference = _product_norm(
        torch.cat([other_b_OR.double(), b_OR.double()], dim=1), torch.cat([other_a_RI.double(), -a_RI.double()])
    )
    return difference / _product_norm(b_OR.double(), a_RI.double())


def _product_norm(b_OK: Tensor, a_KI: Tensor) -> float:
    r_b = torch.linalg.qr(b_OK, mode="r").R
    r_a = torch.linalg.qr(a_KI.T, mode="r").R
    return float((r_b @ r_a.T).norm())


def share_of_mean(step: int, total_steps: int, start: float) -> float:
    """lambda(t) = lambda_0 + (1 - lambda_0) t / T of balanced mode, t the 1-based step."""
    return start + (1.0 - start) * step / total_steps
