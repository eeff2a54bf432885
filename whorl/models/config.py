"""What a decoder is, as architectural axes; a family is a point in this space, never a name in it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from whorl.base.config import Config


class _Axes(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LoraConfig(Config):
    """A low-rank adapter. `targets` are names of linear layers in the decoder's blocks; None: all."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)  # the adapter's share is scaled by alpha / rank
    dropout: float = Field(default=0.0, ge=0, lt=1)  # of the adapter's input
    targets: tuple[Literal["q", "k", "v", "o", "gate", "up", "down"], ...] | None = Field(
        default=None, min_length=1
    )
    rslora: bool = False  # scale by alpha / √rank instead (arXiv 2312.03732)


class RopeConfig(_Axes):
    """Rotary positions (arXiv 2104.09864) and how they are stretched beyond the trained length.

    "linear" divides positions by `factor`; "llama3" divides low frequencies by it and blends the
    middle ones between `low_freq_factor` and `high_freq_factor` wavelengths of `original_context`.
    """

    theta: float = 10_000.0
    scaling: Literal["default", "linear", "llama3"] = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


class VisionConfig(_Axes):
    """A ViT over patches of any grid (Pixtral's, arXiv 2410.07073) and the two-layer projector behind it."""

    d_model: int
    n_layers: int
    n_heads: int
    head_dim: int
    d_ff: int
    patch_size: int
    image_size: int  # longest edge in pixels; bounds the grid
    channels: int = 3
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"] = "silu"
    rope_theta: float = 10_000.0
    projector_activation: Literal["silu", "gelu", "gelu_tanh", "relu"] = "gelu"
    projector_bias: bool = True
    feature_layer: int = -1  # which hidden state is projected; -1 is the last block's output
    image_token: int  # id whose positions receive image features

    @property
    def patch_values(self) -> int:
        return self.channels * self.patch_size**2


class ModelConfig(_Axes):
    """The axes of the one `Decoder`. Sizes are in elements, `context` in tokens."""

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    context: int

    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-6
    norm_offset: bool = False  # the stored weight is added to 1 (Gemma)
    norm_place: Literal["pre", "post", "sandwich"] = "pre"
    final_norm: bool = True

    rope: RopeConfig | None = RopeConfig()
    local_rope: RopeConfig | None = None  # for the windowed layers, where they differ (Gemma 3)
    learned_positions: int = 0  # rows of the position table; 0: none
    position_offset: int = 0  # first row used (OPT: 2)

    mlp: Literal["gated", "plain"] = "gated"
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"] = "silu"
    qkv_bias: bool = False
    out_bias: bool = False  # of the attention's output projection
    mlp_bias: bool = False

    qk_norm: bool = False
    window: int | None = None
    windowed_layers: tuple[int, ...] = ()  # layers that attend within `window`; the others see everything
    attention_scale: float | None = None  # default head_dim ** -0.5
    attention_soft_cap: float | None = None
    logit_soft_cap: float | None = None

    d_embed: int | None = None  # width of the embedding where it is projected to d_model (OPT-350M)
    embed_scale: float = 1.0
    tied: bool = True
    vision: VisionConfig | None = None

    @model_validator(mode="after")
    def _fits(self) -> ModelConfig:
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.n_kv_heads}")
        if self.rope is not None and self.head_dim % 2:
            raise ValueError(f"rotary positions need an even head_dim, not {self.head_dim}")
        if self.windowed_layers and self.window is None:
            raise ValueError("windowed_layers is set without a window")
        if any(not 0 <= layer < self.n_layers for layer in self.windowed_layers):
            raise ValueError(f"windowed_layers {self.windowed_layers} are outside 0 …  {self.n_layers - 1}")
        return self
