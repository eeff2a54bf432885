import pytest
import torch

from whorl.base.errors import InputError
from whorl.models.config import LoraConfig, ModelConfig, VisionConfig
from whorl.models.context import Packed
from whorl.models.decoder import Decoder
from whorl.models.init import init_weights
from whorl.models.lora import inject

CONFIG = ModelConfig(
    vocab_size=300, d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, d_ff=96, context=64,
    mlp_bias=True, tied=False,
    vision=VisionConfig(
        d_model=32, n_layers=1, n_heads=2, head_dim=16, d_ff=48, patch_size=4, image_size=16, image_token=7
    ),
)  # fmt: skip


def test_spread_of_every_kind_of_weight() -> None:
    model = init_weights(Decoder(CONFIG), seed=3)
    values = dict(model.named_parameters())
    assert float(values["embed.weight"].detach().std()) == pytest.approx(0.02, rel=0.03)
    assert float(values["head.weight"].detach().std()) == pytest.approx(64**-0.5, rel=0.03)
    assert float(values["layers.1.attention.q.weight"].detach().std()) == pytest.approx(64**-0.5, rel=0.05)
    assert float(values["vision.patch_embed.weight"].detach().std()) == pytest.approx(48**-0.5, rel=0.05)
    assert float(values["projector.second.weight"].detach().std()) == pytest.approx(64**-0.5, rel=0.05)
    for ends in ("attention.o.weight", "mlp.down.weight", "bias"):
        found = [value for name, value in values.items() if name.endswith(ends)]
        assert found and not any(value.any() for value in found)
    norms = [value for name, value in values.items() if "norm" in name and "bias" not in name]
    assert norms and all(bool((value == 1).all()) for value in norms)


def test_begins_as_its_embedding() -> None:
    model = init_weights(Decoder(CONFIG), seed=0).eval()
    tokens = torch.randint(300, (12,))
    with torch.no_grad():
        hidden = model(tokens, Packed([5, 7]))
        expected = model.final_norm(model.embed(tokens))
    torch.testing.assert_close(hidden, expected)


def test_offset_norms_are_at_identity_too() -> None:
    model = init_weights(Decoder(CONFIG.model_copy(update={"norm_offset": True, "vision": None})), seed=0)
    assert not model.final_norm.weight.any()


def test_a_tensor_depends_on_seed_and_name_alone() -> None:
    small = CONFIG.model_copy(update={"n_layers": 1, "vision": None})
    first, second = init_weights(Decoder(CONFIG), seed=1), init_weights(Decoder(small), seed=1)
    name = "layers.0.mlp.up.weight"
    assert torch.equal(dict(first.named_parameters())[name], dict(second.named_parameters())[name])
    other = init_weights(Decoder(small), seed=2)
    assert not torch.equal(dict(other.named_parameters())[name], dict(second.named_parameters())[name])


def test_a_model_with_adapters_is_refused() -> None:
    with pytest.raises(InputError, match="without adapters"):
        init_weights(inject(Decoder(CONFIG), LoraConfig()), seed=0)
