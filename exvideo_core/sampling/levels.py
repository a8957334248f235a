"""Noise levels as the solver sees them: signal and noise."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Levels:
    """Noise levels of a run, each [steps + 1]. At each, x = signal * clean latents + noise * unit noise."""

    signal: Tensor  # float64 on the CPU
    noise: Tensor  # float64 on the CPU, decreasing; the last may be 0
    values: Tensor  # sigmas or alphas, as the denoiser takes them, on its device

    @classmethod
    def from_sigmas(cls, sigmas: Tensor) -> Levels:
        """Levels of clean latents plus sigma times unit noise (SVD): signal 1, noise sigma."""
        noise = sigmas.cpu().double()
        return cls(noise.new_ones(len(noise)), noise, sigmas)

    @classmethod
    def from_alphas(cls, alphas: Tensor) -> Levels:
        """Levels of unit variance (CogVideoX): signal sqrt(alpha), noise sqrt(1 - alpha)."""
        signal_variance = alphas.cpu().double()
        return cls(signal_variance.sqrt(), (1 - signal_variance).sqrt(), alphas)

    @property
    def steps(self) -> int:
        return len(self.values) - 1

    def start(self, noise: Tensor, clean: Tensor | None = None) -> Tensor:
        """Latents at the first level, from unit noise.

        Without `clean` latents to add it to, it gets the spread that latents of unit variance have there.
        """
        s, a = self.noise[0], self.signal[0]
        return float((s**2 + a**2).sqrt()) * noise if clean is None else float(a) * clean + float(s) * noise
