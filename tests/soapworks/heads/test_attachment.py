import copy
import io

import numpy as np
import pytest
import timm
import torch
from torch import nn

from soapworks.errors import HeadError, LayerError
from soapworks.heads.attachment import attach, detach, is_attached
from soapworks.heads.head import SoapHead

# Prefix tokens: 1, 5 (with registers), 5 (rotary positions), 0.
ARCHITECTURES = {
    "vit": ("vit_tiny_patch16_224", {"img_size": 32}),
    "registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 28}),
    "rotary": ("vit_small_patch16_dinov3", {"img_size": 32}),
    "no prefix": ("vit_huge_patch14_gap_224", {"img_size": 28, "patch_size": 14}),
}
BLOCK_LAYERS = ["blocks.0", "blocks.1", "blocks.0.mlp"]
ATTENTION_LAYERS = [f"blocks.0.attn.{part}" for part in ("q", "k", "v", "kqv")]


def build(name, **options):
    architecture, own = ARCHITECTURES.get(name, (name, {"img_size": 28}))
    torch.manual_seed(0)
    options = {"depth": 2, "embed_dim": 48, "num_heads": 2, "num_classes": 5, **own, **options}
    model = timm.create_model(architecture, pretrained=False, **options)
    with torch.no_grad():
        for parameter in model.parameters():  # layer scale of 1e-5 would hide everything
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def make_head(d=48, layer=None):
    matrix = np.random.default_rng(0).standard_normal((d, d)) / 7
    return SoapHead(matrix, np.arange(d) / d, metadata={"layer": layer} if layer else None)


def photograph(model):
    size = model.patch_embed.img_size
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


def outputs(model, module, x):
    """Return what ``module`` puts out in a pass of the model, without any head's hook."""
    seen = []
    handle = module.register_forward_hook(lambda m, i, o: seen.append(o.clone()), prepend=True)
    with torch.no_grad():
        model.forward_features(x)
    handle.remove()
    return seen[0]


def project(tokens, head, n_prefix):
    result = tokens.clone()
    result[:, n_prefix:] = tokens[:, n_prefix:] @ head.weight.T + head.bias
    return result


@pytest.fixture(params=ARCHITECTURES)
def model(request):
    return build(request.param)


def test_patch_tokens_are_projected_and_prefix_tokens_untouched(model):
    x, head = photograph(model), make_head()
    with torch.no_grad():
        before = model.forward_features(x)
        assert attach(model, head) is model
        after = model.forward_features(x)
    n = model.num_prefix_tokens
    assert torch.equal(after[:, :n], before[:, :n])
    assert torch.equal(after[:, n:], head(before[:, n:]))


def test_prefix_numbers_cover_what_timm_has():
    assert [build(name).num_prefix_tokens for name in ARCHITECTURES] == [1, 5, 5, 0]


@pytest.mark.parametrize("layer", ["norm", *BLOCK_LAYERS])
def test_the_rest_of_the_model_sees_the_projected_tokens(model, layer):
    x, head = photograph(model), make_head(layer=layer)
    n = model.num_prefix_tokens
    # The same by hand: replace what the layer puts out.
    place = model.get_submodule(layer)
    handle = place.register_forward_hook(lambda m, i, o: project(o, head, n))
    with torch.no_grad():
        expected, expected_features = model(x), model.forward_features(x)
        handle.remove()
        plain = model.forward_features(x)
        attach(model, head)
        torch.testing.assert_close(model(x), expected)
        torch.testing.assert_close(model.forward_features(x), expected_features)
    assert not torch.allclose(expected_features, plain)


@pytest.mark.parametrize("layer", ATTENTION_LAYERS)
def test_parts_of_the_attention_projection(model, layer):
    part = layer.rpartition(".")[2]
    x, head = photograph(model), make_head(144 if part == "kqv" else 48)
    qkv = model.blocks[0].attn.qkv
    before = outputs(model, qkv, x)
    attach(model, head, layer=layer)
    seen = []
    handle = qkv.register_forward_hook(lambda m, i, o: seen.append(o))
    with torch.no_grad():
        model(x)
    handle.remove()
    q, k, v = before.split(48, dim=-1)
    n = model.num_prefix_tokens
    if part == "kqv":
        k, q, v = project(torch.cat([k, q, v], dim=-1), head, n).split(48, dim=-1)
    else:
        whole = {"q": q, "k": k, "v": v}
        whole[part] = project(whole[part], head, n)
        q, k, v = whole.values()
    torch.testing.assert_close(seen[0], torch.cat([q, k, v], dim=-1))
    assert torch.equal(seen[0][:, :n], before[:, :n])


def test_queries_and_values_can_have_heads_of_their_own():
    model = build("vit")
    x = photograph(model)
    before = outputs(model, model.blocks[0].attn.qkv, x)
    attach(model, make_head(), layer="blocks.0.attn.q")
    attach(model, make_head(), layer="blocks.0.attn.v")
    seen = []
    model.blocks[0].attn.qkv.register_forward_hook(lambda m, i, o: seen.append(o))
    with torch.no_grad():
        model(x)
    changed = [
        (a != b).any().item()
        for a, b in zip(seen[0].split(48, -1), before.split(48, -1), strict=True)
    ]
    assert changed == [True, False, True]


@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_separate_projections_take_a_head(part):
    model = build("eva02_base_patch14_224", swiglu_mlp=False, scale_mlp=False)
    place = getattr(model.blocks[0].attn, f"{part}_proj")
    x, head = photograph(model), make_head()
    before = outputs(model, place, x)
    attach(model, head, layer=f"blocks.0.attn.{part}")
    seen = []
    place.register_forward_hook(lambda m, i, o: seen.append(o))
    with torch.no_grad():
        model(x)
    torch.testing.assert_close(seen[0], project(before, head, model.num_prefix_tokens))


def test_what_a_head_cannot_change_is_refused():
    with pytest.raises(LayerError, match=r"one after another; use '\.q'"):
        attach(build("eva02_base_patch14_224"), make_head(144), layer="blocks.0.attn.kqv")
    with pytest.raises(LayerError, match="without calling it"):
        attach(build("vit_small_patch16_dinov3_qkvb"), make_head(), layer="blocks.0.attn.q")


def test_forward_intermediates_give_the_projected_tokens(model):
    x, head = photograph(model), make_head()
    n = model.num_prefix_tokens
    options = {"output_fmt": "NLC", "return_prefix_tokens": True, "norm": False}
    with torch.no_grad():
        last, layers = model.forward_intermediates(x, **options)
        attach(model, head, layer="blocks.1")
        _, projected = model.forward_intermediates(x, **options)
        detach(attach(model, head, layer="norm"))
        attach(model, head, layer="norm")
        last_projected, same = model.forward_intermediates(x, **options)
    torch.testing.assert_close(projected[1][0], head(layers[1][0]))
    assert torch.equal(projected[0][0], layers[0][0])
    assert n == 0 or torch.equal(projected[1][1], layers[1][1])
    torch.testing.assert_close(last_projected, project(last, head, n))
    assert torch.equal(same[1][0], layers[1][0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("attach_first", [True, False])
def test_half_precision(dtype, attach_first):
    model, head = build("registers"), make_head()
    model = attach(model, head).to(dtype) if attach_first else attach(model.to(dtype), head)
    x = photograph(model).to(dtype)
    with torch.no_grad():
        after = model.forward_features(x)
        before = detach(model).forward_features(x)
    assert after.dtype == dtype
    assert torch.equal(after[:, :5], before[:, :5])
    assert torch.equal(after[:, 5:], copy.deepcopy(head).to(dtype)(before[:, 5:]))
    assert head.weight.dtype == torch.float32


@pytest.mark.parametrize("layer", ["norm", "blocks.0", "blocks.0.attn.k"])
def test_autocast(layer):
    model = build("vit")
    x, head = photograph(model), make_head()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = model.forward_features(x)
        after = attach(model, head, layer=layer).forward_features(x)
    assert after.dtype == before.dtype
    assert not torch.equal(after, before)


def test_train_and_eval_reach_the_head():
    model = attach(build("vit"), make_head())
    head = model.norm.soap_head
    assert not head.training
    model.train()
    assert head.training
    x = photograph(model)
    model(x).sum().backward()
    assert model.blocks[0].mlp.fc1.weight.grad.any()
    assert len(list(model.parameters())) == len(list(build("vit").parameters()))


def test_the_head_belongs_to_the_model():
    model = attach(build("vit"), make_head(layer="blocks.1"))
    assert isinstance(model.blocks[1].soap_head, SoapHead)
    assert "blocks.1.soap_head.weight" in model.state_dict()
    assert model.double().blocks[1].soap_head.weight.dtype == torch.float64


def test_one_head_serves_several_models():
    head = make_head()
    first, second = attach(build("vit"), head), attach(build("vit"), head)
    first.norm.soap_head.weight.zero_()
    assert second.norm.soap_head.weight.any()
    assert head.weight.any()


def test_a_second_head_at_the_same_place_is_refused():
    model = attach(build("vit"), make_head())
    with pytest.raises(HeadError, match=r"already: call soapworks\.detach"):
        attach(model, make_head())
    attach(model, make_head(), layer="blocks.0")
    attach(model, make_head(), layer="blocks.0.attn.k")
    with pytest.raises(HeadError, match="already"):
        attach(model, make_head(), layer="blocks.0.attn.k")
    with pytest.raises(HeadError, match="already"):
        attach(model, make_head(144), layer="blocks.0.attn.kqv")
    attach(detach(model), make_head(144), layer="blocks.0.attn.kqv")
    with pytest.raises(HeadError, match="already"):
        attach(model, make_head(), layer="blocks.0.attn.q")


def test_detach_restores_the_model(model):
    def traces(module):
        return {
            name: (
                sorted(m.__dict__),
                list(m._modules),
                len(m._forward_hooks),
                len(m._forward_pre_hooks),
            )
            for name, m in module.named_modules()
        }

    x = photograph(model)
    before, clean = traces(model), model(x)
    for layer in ("norm", "blocks.0", "blocks.1.mlp", "blocks.1.attn.k", "blocks.1.attn.v"):
        attach(model, make_head(), layer=layer)
    assert not torch.equal(model(x), clean)
    assert detach(model) is model
    assert traces(model) == before
    assert torch.equal(model(x), clean)
    assert detach(model) is model


def test_detach_leaves_the_hooks_of_others():
    model = build("vit")
    calls = []
    model.norm.register_forward_hook(lambda m, i, o: calls.append(1))
    detach(attach(model, make_head()))(photograph(model))
    assert calls == [1]


def test_copies_use_their_own_heads():
    model = attach(build("vit"), make_head())
    x = photograph(model)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    expected = model(x)
    for other in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        assert torch.equal(other(x), expected)
        other.norm.soap_head.weight.zero_()
        assert not torch.equal(other.forward_features(x), model.forward_features(x))
        detach(other)
        assert not any("soap" in name for name in other.state_dict())
        assert torch.equal(model(x), expected)


def test_a_model_with_a_head_compiles_whole():
    model = attach(build("vit"), make_head())
    attach(model, make_head(), layer="blocks.0.attn.v")
    x = photograph(model)
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), model(x))
        assert not torch.allclose(compiled(x), build("vit")(x))


def test_a_compiled_model_is_refused():
    compiled = torch.compile(build("vit"), backend="eager")
    with pytest.raises(HeadError, match="attach first, then compile"):
        attach(compiled, make_head())


def test_models_that_pool_before_their_norm_are_told_the_cure():
    model = build("vit", global_pool="avg")
    with pytest.raises(LayerError, match=r"use layer 'blocks.1', or build .* fc_norm=False"):
        attach(model, make_head())
    x = photograph(model)
    clean = model(x)
    assert not torch.equal(attach(model, make_head(), layer="blocks.1")(x), clean)


@pytest.mark.parametrize(
    "layer", ["blocks.2", "blocks", "blocks.-1", "blocks.0.attn", "blocks.0.attn.qk", "head", ""]
)
def test_unknown_layers_are_refused_with_the_known_ones(layer):
    with pytest.raises(LayerError, match=r"has no layer .* norm and blocks\.K.* from 0 to 1"):
        attach(build("vit"), make_head(), layer=layer)


def test_channels_must_match():
    with pytest.raises(HeadError, match=r"40 channels and layer 'norm' .* 48"):
        attach(build("vit"), make_head(40))
    with pytest.raises(HeadError, match=r"48 channels and layer .* 144"):
        attach(build("vit"), make_head(48), layer="blocks.0.attn.kqv")


def test_what_is_no_vision_transformer_is_refused():
    with pytest.raises(LayerError, match="has no blocks: give the vision transformer itself"):
        attach(nn.Sequential(build("vit")), make_head())

    class Silent(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks, self.norm = nn.Sequential(nn.Linear(48, 48)), nn.LayerNorm(48)

    with pytest.raises(HeadError, match="has no num_prefix_tokens"):
        attach(Silent(), make_head())


def test_a_refused_head_leaves_no_trace():
    model = build("vit")
    keys = list(model.state_dict())
    with pytest.raises(HeadError):
        attach(model, make_head(40))
    assert list(model.state_dict()) == keys


PASSES = {
    "whole": lambda model, x: model(x),
    "features": lambda model, x: model.forward_features(x),
    "intermediates": lambda model, x: model.forward_intermediates(x, norm=False),
    "layers": lambda model, x: model.get_intermediate_layers(x),
}


def pruned_norm(model):
    model.prune_intermediate_layers([1], prune_norm=True)


def another_norm(model):
    model.norm = nn.LayerNorm(48)


def pruned_block(model):
    model.prune_intermediate_layers([0])


def another_block(model):
    model.blocks[1] = copy.deepcopy(build("vit").blocks[1])


def another_projection(model):
    model.blocks[1].attn.qkv = nn.Linear(48, 144)


def hooks_cleared(model):
    model.norm._forward_hooks.clear()


def child_deleted(model):
    del model.blocks[1].soap_head


@pytest.mark.parametrize("how", PASSES)
@pytest.mark.parametrize(
    ("layer", "change"),
    [
        ("norm", pruned_norm),
        ("norm", another_norm),
        ("norm", hooks_cleared),
        ("blocks.1", pruned_block),
        ("blocks.1", another_block),
        ("blocks.1", child_deleted),
        ("blocks.1.mlp", another_block),
        ("blocks.1.attn.q", another_projection),
    ],
)
def test_a_model_that_lost_its_head_refuses_a_pass(layer, change, how):
    model = build("vit")
    x = photograph(model)
    attach(attach(model, make_head(layer=layer)), make_head(), layer="blocks.0")
    assert is_attached(model)
    change(model)
    assert not is_attached(model)
    assert is_attached(model, layer="blocks.0")
    with pytest.raises(HeadError, match=f"lost its head at layer '{layer}'.*soapworks.detach"):
        PASSES[how](model, x)
    with pytest.raises(HeadError, match="lost its head"):
        copy.deepcopy(model)(x)
    detach(model)
    assert torch.isfinite(model(x)).all()


def test_a_model_without_patch_embedding_is_guarded_by_its_first_block():
    model = build("vit")
    x = photograph(model)
    model.embed, model.patch_embed = model.patch_embed, None
    attach(model, make_head())
    model.norm = nn.LayerNorm(48)
    with pytest.raises(HeadError, match="lost its head"):
        model.blocks(model.embed(x))


def test_a_compiled_model_that_lost_its_head_refuses_a_pass():
    model = attach(build("vit"), make_head())
    x = photograph(model)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(x)
        model.norm = nn.LayerNorm(48)
        with pytest.raises(HeadError, match="lost its head"):
            compiled(x)


class Wrapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args, **options):
        return self.inner(*args, **options)


@torch.no_grad()
def test_wrapped_and_moved_modules_keep_their_heads():
    model = build("vit")
    x = photograph(model)
    attach(attach(model, make_head(layer="blocks.1")), make_head())
    expected = model(x)
    model.norm = Wrapped(model.norm)
    model.blocks[1] = torch.compile(model.blocks[1], backend="eager")
    assert is_attached(model)
    torch.testing.assert_close(model(x), expected)
    assert is_attached(Wrapped(model))
    torch.testing.assert_close(Wrapped(model)(x), expected)
    torch.testing.assert_close(nn.DataParallel(model)(x), expected)
    model.blocks = model.blocks[1:]
    assert is_attached(model)
    assert not is_attached(model.blocks[0]._orig_mod.mlp)


def test_is_attached_asks_for_a_layer():
    model = build("vit")
    assert not is_attached(model)
    attach(model, make_head(), layer="blocks.0.attn.k")
    assert is_attached(model)
    assert is_attached(model, layer="blocks.0.attn.k")
    assert not is_attached(model, layer="norm")
    assert not is_attached(detach(model))


def test_copies_are_guarded_for_themselves():
    model = attach(build("vit"), make_head())
    x = photograph(model)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        assert is_attached(other)
        other.norm = nn.LayerNorm(48)
        with pytest.raises(HeadError, match="lost its head"):
            other(x)
        assert is_attached(model)
        model(x)


def test_loading_weights_keeps_the_head_or_complains():
    model, plain = attach(build("vit"), make_head()), build("vit", num_classes=5)
    x = photograph(model)
    expected = model(x)
    with pytest.raises(RuntimeError, match=r"Missing key.*norm\.soap_head\.weight"):
        model.load_state_dict(plain.state_dict())
    model.load_state_dict(plain.state_dict(), strict=False)
    assert is_attached(model)
    torch.testing.assert_close(model(x), expected)
    model.load_state_dict(copy.deepcopy(model).state_dict(), assign=True)
    assert is_attached(model)
    torch.testing.assert_close(model(x), expected)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*norm\.soap_head\.weight"):
        plain.load_state_dict(model.state_dict())


@pytest.mark.parametrize("layer", ["norm", "blocks.0", "blocks.0.attn.q"])
def test_a_head_attached_in_inference_mode_lets_gradients_through(layer):
    model, trained = build("vit"), build("vit")
    x = photograph(model)
    with torch.inference_mode():
        head = make_head()
        attach(model, SoapHead.from_bytes(head.to_bytes()), layer=layer)
        model(x)
    attach(trained, head, layer=layer)
    for one in (model, trained):
        one(x).sum().backward()
    weight = model.blocks[0].mlp.fc1.weight
    assert weight.grad.any()
    torch.testing.assert_close(weight.grad, trained.blocks[0].mlp.fc1.weight.grad)
