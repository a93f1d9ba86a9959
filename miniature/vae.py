"""The picture codec: an autoencoder in TAESD's shape (8x down, 4 channels)."""

from __future__ import annotations

from diffusers import AutoencoderTiny  # pyright: ignore[reportPrivateImportUsage]
from diffusers.models.autoencoders.vae import (
    AutoencoderTinyBlock,  # pyright: ignore[reportPrivateImportUsage]
)
from torch import Tensor, nn


class Codec(nn.Module):
    """``AutoencoderTiny`` without its image-range wrappers: pixels in -1..1 to latents and back."""

    def __init__(self) -> None:
        super().__init__()
        self.net = AutoencoderTiny()
        # Without normalisation layers the deep stack learns only if it starts near the identity.
        for module in self.net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.net.modules():
            if isinstance(module, AutoencoderTinyBlock):
                nn.init.zeros_(module.conv[-1].get_parameter("weight"))
        nn.init.constant_(self.net.decoder.layers[-1].get_parameter("bias"), 0.5)

    def encode(self, pixels: Tensor) -> Tensor:
        """``(batch, 3, h, w)`` to ``(batch, 4, h/8, w/8)``."""
        return self.net.encoder(pixels).float()

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to pixels."""
        return self.net.decoder(latents)

    @staticmethod
    def spread_loss(latents: Tensor) -> Tensor:
        """How far the latents of a batch are from zero mean and unit variance per channel.

        Diffusion wants them there, and a penalty needs no extra layer in what is stored.
        """
        variance, mean = latents.var((0, 2, 3)), latents.mean((0, 2, 3))
        return (mean**2 + (variance - 1) ** 2).mean()
