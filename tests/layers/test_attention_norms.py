"""The batch norms inside attention behave as Detectron2's users expect of batch norms."""

from __future__ import annotations

import pytest
import torch
from attention_layers import make_layer
from detectron2.layers import BatchNorm2d, FrozenBatchNorm2d, NaiveSyncBatchNorm
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats
from torch import Tensor, nn

CLASSES = {
    "BN": BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "naiveSyncBN": NaiveSyncBatchNorm,
    "FrozenBN": FrozenBatchNorm2d,
}
SPANS = (0, 3)


def images(count: int = 1) -> list[Tensor]:
    return [torch.randn(2, 5, 4, 7, dtype=torch.float64) for _ in range(count)]


def statistics(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.named_buffers()}


@pytest.mark.parametrize("norm", CLASSES)
def test_all_three_norms_are_of_the_class_asked_for(norm: str) -> None:
    layer = make_layer(norm=norm)
    norms = (layer.qkv.norm, layer.logit_norm, layer.retrieved_norm)
    assert [type(module) for module in norms] == [CLASSES[norm]] * 3
    assert [module.num_features for module in norms] == [14, 6, 12]


@pytest.mark.parametrize("norm", ["SyncBN", "naiveSyncBN"])
def test_synchronised_norms_in_one_process_are_plain_ones(norm: str) -> None:
    plain, synchronised = make_layer(), make_layer(norm=norm)
    synchronised.load_state_dict(plain.state_dict())
    (x,) = images()
    torch.testing.assert_close(synchronised(x), plain(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(statistics(synchronised), statistics(plain), rtol=1e-12, atol=0)


@pytest.mark.parametrize("span", SPANS)
def test_frozen_norm_uses_running_statistics_in_training(span: int) -> None:
    frozen = make_layer(norm="FrozenBN", span=span)
    plain = make_layer(span=span).eval()
    plain.load_state_dict(frozen.state_dict(), strict=False)
    before = statistics(frozen)
    (x,) = images()
    torch.testing.assert_close(frozen.train()(x), plain(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(statistics(frozen), before, rtol=0, atol=0)
    assert {name for name, _ in frozen.named_parameters()} == {
        "qkv.weight",
        "query_table",
        "key_table",
        "value_table",
    }


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "naiveSyncBN"])
def test_convert_frozen_batchnorm_freezes_attention(norm: str) -> None:
    layer = make_layer(norm=norm)
    for x in images(3):
        layer(x)
    (x,) = images()
    want = layer.eval()(x)
    frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(layer.train())
    assert [type(m) for m in frozen.modules()].count(FrozenBatchNorm2d) == 3
    before = statistics(frozen)
    torch.testing.assert_close(frozen.train()(x), want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(statistics(frozen), before, rtol=0, atol=0)


def test_convert_sync_batchnorm_reaches_attention() -> None:
    layer = make_layer()
    (x,) = images()
    want = make_layer()
    want.load_state_dict(layer.state_dict())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(layer)
    assert [type(m) for m in converted.modules()].count(nn.SyncBatchNorm) == 3
    torch.testing.assert_close(converted(x), want(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(statistics(converted), statistics(want), rtol=1e-12, atol=0)


def test_eval_mode_leaves_statistics_alone() -> None:
    layer = make_layer().eval()
    before = statistics(layer)
    for x in images(2):
        layer(x)
    torch.testing.assert_close(statistics(layer), before, rtol=0, atol=0)


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("momentum", [0.01, 1.0, None])
def test_momentum_is_honoured(momentum: float | None, span: int) -> None:
    """Against a batch norm that sees the full logits; None averages cumulatively."""
    layer = make_layer(span=span)
    layer.logit_norm.momentum = momentum
    layer.logit_norm.reset_running_stats()
    judge = nn.BatchNorm1d(6, momentum=momentum).double()
    for x in images(3):
        judge(logits_inside(layer, x, span))
        layer(x)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(
            getattr(layer.logit_norm, name), getattr(judge, name), rtol=1e-9, atol=1e-9
        )


def logits_inside(layer: nn.Module, x: Tensor, span: int) -> Tensor:
    """Full logits [M, 3N] of the width axis, from the definition."""
    rows, length = x.shape[0] * x.shape[2], x.shape[3]
    with torch.no_grad():
        qkv = nn.functional.batch_norm(
            nn.functional.conv2d(x, layer.qkv.weight),
            None,
            None,
            layer.qkv.norm.weight,
            layer.qkv.norm.bias,
            training=True,
        )
        lines = qkv.permute(0, 2, 3, 1).reshape(rows, length, -1)
        samples = []
        for i in range(length):
            for j in range(length):
                if span and abs(j - i) > span // 2:
                    continue
                r_query, r_key = (t[j - i + 8] for t in (layer.query_table, layer.key_table))
                q, k = lines[:, i, :4].view(rows, 2, 2), lines[:, j, 4:8].view(rows, 2, 2)
                samples.append(torch.cat([(q * k).sum(2), q @ r_query, k @ r_key], dim=1))
    return torch.cat(samples)


@pytest.mark.parametrize("span", SPANS)
def test_precise_batch_norm_reaches_the_logits(span: int) -> None:
    """TEST.PRECISE_BN: on one batch, the statistics of that batch exactly, for all three norms."""
    layer = make_layer(span=span)
    (x,) = images()
    want = layer(x)
    assert len(get_bn_modules(layer)) == 3
    update_bn_stats(layer, [x], num_iters=1)
    samples = logits_inside(layer, x, span)
    close = {"rtol": 1e-6, "atol": 1e-9}
    torch.testing.assert_close(layer.logit_norm.running_mean, samples.mean(0), **close)
    torch.testing.assert_close(layer.logit_norm.running_var, samples.var(0, correction=0), **close)
    torch.testing.assert_close(layer.eval()(x), want, rtol=1e-6, atol=1e-6)


def test_masked_pairs_do_not_count() -> None:
    """Far keys may be as large as they like: outside of the window they touch no statistic."""
    layer = make_layer(span=1)
    reference = make_layer(span=1)
    reference.load_state_dict(layer.state_dict())
    (x,) = images()
    layer(x)
    # With span 1 every position is alone, so shuffling positions leaves all statistics.
    reference(x[:, :, :, torch.randperm(7)])
    torch.testing.assert_close(statistics(reference), statistics(layer), rtol=1e-9, atol=1e-12)
