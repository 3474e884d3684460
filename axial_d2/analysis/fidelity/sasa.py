"""The tables of SASA (arXiv 1906.05909), which count two operations a multiply-add."""

from __future__ import annotations

from axial_d2.analysis.fidelity.tables import (
    ALL_CONV,
    LOCAL,
    PublishedModel,
    PublishedTable,
    stages,
)


def _sasa(
    name: str,
    flops: float | None,
    parameters: float | None,
    *options: str,
    config: str = "Base-ImageNet",
) -> PublishedModel:
    """A row of SASA's tables, whose FLOPs are two a multiply-add; a config of ImageNet's."""
    return PublishedModel(
        name,
        options,
        parameters=parameters,
        multiply_adds=None if flops is None else flops / 2,
        config_file=f"imagenet/{config}.yaml",
    )


def _sasa_depths() -> PublishedTable:
    published = {
        26: ((4.7, 13.7), (4.5, 10.3), (4.7, 10.3)),
        38: ((6.5, 19.6), (5.7, 14.1), (6.0, 14.1)),
        50: ((8.2, 25.6), (7.0, 18.0), (7.2, 18.0)),
    }
    kinds = (
        ("Baseline", ALL_CONV, ""),
        ("Conv-stem + attention", (), ""),
        ("Full attention", (), "_full"),
    )
    return PublishedTable(
        "Stand-alone self-attention, three depths (SASA, table 1)",
        "Window 7×7, 8 heads, every projection dense; striding is a 2×2 average pool straight "
        "after the attention. Billions of multiply-adds are half of the printed FLOPs.",
        tuple(
            _sasa(f"ResNet-{depth}, {name}", *cost, *options, config=f"sasa_{depth}{suffix}")
            for depth, costs in published.items()
            for (name, options, suffix), cost in zip(kinds, costs, strict=True)
        ),
    )


def _sasa_mixes() -> PublishedTable:
    published = {
        "1234": 18.0, "234": 18.1, "34": 18.5, "4": 20.8,
        "": 25.6, "1": 25.5, "12": 25.0, "123": 22.7,
    }  # fmt: skip
    models = []
    for attention, parameters in published.items():
        types = ["local" if group in attention else "conv" for group in "1234"]
        convolutions = "".join(group for group in "1234" if group not in attention)
        models.append(
            _sasa(
                f"convolution {convolutions or '–'}, attention {attention or '–'}",
                None,
                parameters,
                f"{LOCAL}.STAGE_TYPES",
                stages(*types),
            )
        )
    return PublishedTable(
        "Which groups are attention (SASA, table 4)", "ResNet-50 with the conv stem.", tuple(models)
    )


def _sasa_ablations() -> PublishedTable:
    spans = {3: 6.6, 5: 6.7, 7: 7.0, 9: 7.3, 11: 7.7}
    positions = {"none": 6.9, "absolute": 6.9, "relative": 7.0}
    return PublishedTable(
        "Window and positions (SASA, tables 5 to 7)",
        "ResNet-50 with the conv stem. With q·r alone there is no key projection.",
        (
            *(
                _sasa(f"k = {span}", f, None, f"{LOCAL}.SPAN", str(span))
                for span, f in spans.items()
            ),
            *(
                _sasa(f"positions: {kind}", f, None, f"{LOCAL}.POSITIONS", kind)
                for kind, f in positions.items()
            ),
            _sasa("q·r alone", 6.1, 16.7, f"{LOCAL}.TERMS.QUERY_KEY", "False"),
        ),
    )


TABLES = (_sasa_depths(), _sasa_mixes(), _sasa_ablations())
