"""The network of the ablation: with HSS layers it is Neural-HSS, and each variant is what its name says."""

import pytest
import torch

from structmat import ShapeError
from structmat_nn.experiments import load_experiment
from structmat_nn.models import NeuralHSS, create


def test_with_hss_layers_it_is_neural_hss():
    options = {"rank": 2, "levels": 2, "depth": 2}
    ours, theirs = create("structured-network", 50, **options), NeuralHSS(50, **options)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 50)
    assert torch.equal(ours(x), theirs(x))


def test_tied_bases_are_tied():
    layer = create("structured-network", 32, layer="tied hss", depth=1).projection
    generators = layer.generators()
    for u, v in zip(generators.row_bases, generators.col_bases, strict=True):
        assert u is v or torch.equal(u, v)
    assert not [name for name, _ in layer.named_parameters() if name.startswith("V")]


def test_leaves_alone_couple_nothing():
    model = create("structured-network", 32, layer="leaves", levels=2, depth=1)
    jacobian = torch.autograd.functional.jacobian(model, torch.ones(32))
    blocks = jacobian.reshape(4, 8, 4, 8).abs().amax(dim=(1, 3))
    assert torch.equal(blocks > 0, torch.eye(4, dtype=torch.bool))


def test_every_variant_of_the_ablation_trains():
    experiment = load_experiment("ablation")
    counts = {}
    for variant in experiment.variants():
        case = experiment.case("structured-network", variant)
        model = create(case.model_name, 64, **case.options)
        model(torch.ones(2, 64)).sum().backward()
        assert all(p.grad is not None for p in model.parameters())
        counts[variant] = sum(p.numel() for p in model.parameters())
    assert counts["leaves-only"] < counts["tied-bases"] < counts["neural-hss"] < counts["hodlr"] < counts["dense"]


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match="layer must be one of hss, tied hss, hodlr"):
        create("structured-network", 32, layer="h2")
    with pytest.raises(ValueError, match="activation must be one of leaky_relu"):
        create("structured-network", 32, activation="sin")
    with pytest.raises(ShapeError, match="maps one channel on one axis"):
        create("structured-network", (8, 8))
