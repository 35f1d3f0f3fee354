# SPDX-License-Identifier: Apache-2.0
"""Every head trains inside the real model; groups of tasks do not touch each other's towers."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model import DCNv2Config, FeedSRConfig, HeadConfig, build_ranker
from model.batch import TrainBatch
from model.config import HeadName
from model.heads import GatedExperts, PositionOffsets, TaskHead, groups_of, output_layer
from model.ranker import Ranker
from tests.builders import TINY, make_train_batch
from tests.model.patterned import numbers, patterned
from tests.model.variants import HEADS

HEAD = HeadConfig(width=16, hidden=1, cross=2, rank=4)


def loss_of(ranker: Ranker, batch: TrainBatch) -> torch.Tensor:
    output = ranker(batch)
    losses = []
    for logits, labels in (
        (output.logits_RK, batch.labels_RK),
        (output.auxiliary_AK, batch.auxiliary_labels_AK),
    ):
        known = labels.isfinite()
        losses.append(F.binary_cross_entropy_with_logits(logits[known], labels[known]))
    return losses[0] + losses[1]


def train(ranker: Ranker, batch: TrainBatch, steps: int) -> tuple[float, float]:
    optimizer = torch.optim.AdamW(ranker.parameters(), lr=1e-2)
    torch.manual_seed(0)
    first = float(loss_of(ranker, batch).detach())
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(ranker, batch)
        loss.backward()
        optimizer.step()
    return first, float(loss_of(ranker.eval(), batch).detach())


@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
@pytest.mark.parametrize("head", HEADS)
def test_feed_sr_learns_with_every_head(head: HeadName, mlp: str) -> None:
    config = FeedSRConfig(
        width=16, layers=2, heads=2, mlp=mlp, head=HEAD.model_copy(update={"name": head})
    )
    ranker = build_ranker(config, TINY)
    first, last = train(ranker, make_train_batch(TINY, 1, [12, 7, 20], "day"), 40)
    assert last < 0.5 * first


@pytest.mark.parametrize("head", ["stacked_dcn", "parallel_dcn"])
def test_dcnv2_learns(head: HeadName) -> None:
    config = DCNv2Config(head=HEAD.model_copy(update={"name": head}))
    batch = make_train_batch(TINY, 1, [12, 7, 20], "day")
    first, last = train(build_ranker(config, TINY), batch, 60)
    auxiliary = float(torch.tensor(2.0).log())
    assert last - auxiliary < 0.5 * (first - auxiliary)


def test_every_parameter_of_feed_sr_gets_a_gradient() -> None:
    ranker = build_ranker(FeedSRConfig(width=16, layers=2, heads=2, head=HEAD), TINY)
    loss_of(ranker, make_train_batch(TINY, 1, [12, 7, 20])).backward()
    without = [n for n, p in ranker.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_a_groups_tower_is_its_own() -> None:
    head = TaskHead(HEAD, 10, TINY.tasks)
    x = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    before = head(x)
    with torch.no_grad():
        for parameter in (*head.bodies[1].parameters(), *head.towers[1].parameters()):
            parameter.add_(1.0)
    after = head(x)
    passive = torch.tensor([t.group == "passive" for t in TINY.tasks])
    assert torch.equal(after[:, passive], before[:, passive])
    assert not torch.isclose(after[:, ~passive], before[:, ~passive]).any()


def test_logits_come_in_the_order_of_the_tasks() -> None:
    tasks = tuple(TINY.tasks[i] for i in (1, 2, 0))
    head = TaskHead(HEAD, 10, tasks)
    logits = head(torch.zeros(1, 10))[0]
    prior = torch.tensor([t.prior for t in tasks])
    assert torch.allclose(logits.sigmoid(), prior, atol=0.02)


SMALL = HeadConfig(width=4, hidden=2, cross=2, rank=3, experts=3)
X = numbers(2, 5, start=1000)
"""Two rows of five fused features."""
Weights = dict[str, Tensor]


def hidden(weights: Weights, name: str, x: Tensor) -> Tensor:
    """Two linear layers with ReLU, numbered with the dropouts between them."""
    for layer in (0, 3):
        weight, bias = weights[f"{name}.{layer}.weight"], weights[f"{name}.{layer}.bias"]
        x = (x @ weight.T + bias).clamp_min(0)
    return x


def crossed(weights: Weights, name: str, x0: Tensor) -> Tensor:
    """Two cross layers: `x0 * (U V x + b) + x`."""
    x = x0
    for layer in (0, 1):
        down, up, bias = (
            weights[f"{name}.{part}"]
            for part in (f"down.{layer}.weight", f"up.{layer}.weight", f"up.{layer}.bias")
        )
        x = x0 * (x @ down.T @ up.T + bias) + x
    return x


def body(head: HeadName, weights: Weights, group: int) -> Tensor:
    """What a group's tower is given, by the page."""
    if head == "linear":
        return X
    if head == "mlp":
        return hidden(weights, f"bodies.{group}", X)
    if head == "mmoe":
        experts = [hidden(weights, f"bodies.experts.{e}", X) for e in range(3)]
        gate = weights[f"bodies.gates.{group}.weight"], weights[f"bodies.gates.{group}.bias"]
        share = (X @ gate[0].T + gate[1]).exp()
        share = share / share.sum(1, keepdim=True)
        return sum(share[:, e : e + 1] * experts[e] for e in range(3))  # type: ignore[return-value]
    cross = crossed(weights, f"bodies.{group}.cross", X)
    if head == "stacked_dcn":
        return hidden(weights, f"bodies.{group}.hidden", cross)
    return torch.cat([cross, hidden(weights, f"bodies.{group}.hidden", X)], 1)


@pytest.mark.parametrize("head", HEADS)
def test_each_head_is_its_formula(head: HeadName) -> None:
    built = patterned(TaskHead(SMALL.model_copy(update={"name": head}), 5, TINY.tasks))
    weights = dict(built.state_dict())
    towers = [
        body(head, weights, g) @ weights[f"towers.{g}.weight"].T + weights[f"towers.{g}.bias"]
        for g in (0, 1)
    ]
    # click and skip are passive, like stands between them and is active
    want = torch.stack([towers[0][:, 0], towers[1][:, 0], towers[0][:, 1]], 1)
    torch.testing.assert_close(built(X), want, rtol=1e-12, atol=1e-12)


HIDDEN = {"0.weight": (4, 5), "0.bias": (4,), "3.weight": (4, 4), "3.bias": (4,)}
CROSS = {
    "down.0.weight": (3, 5),
    "down.1.weight": (3, 5),
    "up.0.weight": (5, 3),
    "up.0.bias": (5,),
    "up.1.weight": (5, 3),
    "up.1.bias": (5,),
}
DCN = {f"cross.{n}": s for n, s in CROSS.items()} | {f"hidden.{n}": s for n, s in HIDDEN.items()}
BODIES: dict[HeadName, tuple[list[str], dict[str, tuple[int, ...]], int]] = {
    "linear": (["Through", "Through"], {}, 5),
    "mlp": (["HiddenLayers"] * 2, {f"{g}.{n}": s for g in (0, 1) for n, s in HIDDEN.items()}, 4),
    "stacked_dcn": (
        ["StackedDCN"] * 2,
        {f"{g}.{n}": s for g in (0, 1) for n, s in DCN.items()},
        4,
    ),
    "parallel_dcn": (
        ["ParallelDCN"] * 2,
        {f"{g}.{n}": s for g in (0, 1) for n, s in DCN.items()},
        9,
    ),
    "mmoe": (
        ["HiddenLayers"] * 3,
        {f"experts.{e}.{n}": s for e in (0, 1, 2) for n, s in HIDDEN.items()}
        | {f"gates.{g}.{n}": s for g in (0, 1) for n, s in (("weight", (3, 5)), ("bias", (3,)))},
        4,
    ),
}
"""Of each head: the kinds of its bodies or experts, their weights, and the towers' width."""


@pytest.mark.parametrize("head", HEADS)
def test_each_head_builds_its_own_body(head: HeadName) -> None:
    built = TaskHead(SMALL.model_copy(update={"name": head}), 5, TINY.tasks)
    kinds, weights, width = BODIES[head]
    bodies = built.bodies.experts if isinstance(built.bodies, GatedExperts) else built.bodies
    assert [type(b).__name__ for b in bodies] == kinds
    want = {f"bodies.{name}": shape for name, shape in weights.items()}
    want |= {"towers.0.weight": (2, width), "towers.0.bias": (2,)}
    want |= {"towers.1.weight": (1, width), "towers.1.bias": (1,)}
    got = {name: tuple(tensor.shape) for name, tensor in built.state_dict().items()}
    assert list(got.items()) == list(want.items())


LOGITS: dict[HeadName, list[list[float]]] = {
    "linear": [
        [-0.4271452173944911, 0.14747296558642586, 0.5564240536770658],
        [-1.1974534384340076, 0.4876135321243951, -0.28109310192168957],
    ],
    "mlp": [
        [0.12021532504759994, -0.1706508280940447, 0.11361855544839883],
        [0.11684473912735319, -0.11906863057356798, 0.11336937146653428],
    ],
    "stacked_dcn": [
        [0.2594562840687246, 0.434751336106503, -0.5035897475943916],
        [0.22631995246188782, 0.2997496110561089, -0.46678075062944285],
    ],
    "parallel_dcn": [
        [0.34310925278051974, -0.3939394586233914, -0.11682883891119816],
        [0.7157010155116896, 0.15978364792312622, -0.01443447745369647],
    ],
    "mmoe": [
        [-0.12609239799321315, 0.3656249157825941, 0.5278472460630389],
        [-0.1585876670905886, 0.4356313774616534, 0.5364240187159118],
    ],
}
"""What the same weights have always answered."""


@pytest.mark.parametrize("head", HEADS)
def test_a_checkpoint_of_each_head_answers_what_it_did(head: HeadName) -> None:
    built = patterned(TaskHead(SMALL.model_copy(update={"name": head}), 5, TINY.tasks))
    want = torch.tensor(LOGITS[head], dtype=torch.float64)
    torch.testing.assert_close(built(X), want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["rank", "width"])
def test_a_cross_layers_rank_is_at_most_its_width(name: str) -> None:
    head = TaskHead(SMALL.model_copy(update={"rank": 3 if name == "rank" else 90}), 5, TINY.tasks)
    down = head.state_dict()["bodies.0.cross.down.0.weight"]
    assert tuple(down.shape) == ((3, 5) if name == "rank" else (5, 5))


def test_hidden_layers_are_as_many_as_configured_and_drop_out() -> None:
    config = SMALL.model_copy(update={"name": "mlp", "hidden": 3, "dropout": 0.25})
    layers = TaskHead(config, 5, TINY.tasks).bodies[0]
    kinds = [nn.Linear, nn.ReLU, nn.Dropout] * 3
    assert [type(layer) for layer in layers] == kinds
    assert [layer.p for layer in layers if isinstance(layer, nn.Dropout)] == [0.25] * 3


def three_experts(gate_dropout: float) -> GatedExperts:
    """Experts that say 1, 10 and 100, mixed one half, one third and one sixth."""
    config = HeadConfig(name="mmoe", width=1, hidden=1, experts=3, gate_dropout=gate_dropout)
    mixed = GatedExperts(1, 1, config)
    with torch.no_grad():
        for parameter in mixed.parameters():
            parameter.zero_()
        for expert, said in zip(mixed.experts, (1.0, 10.0, 100.0), strict=True):
            expert[0].bias.fill_(said)
        mixed.gates[0].bias.copy_(torch.tensor([3.0, 2.0, 1.0]).log())
    return mixed


# Which of the three gates are left, and what is said then: their shares sum to one again.
SAID = {
    (0, 0, 0): 0.0,
    (1, 0, 0): 1.0,
    (0, 1, 0): 10.0,
    (0, 0, 1): 100.0,
    (1, 1, 0): (3 * 1 + 2 * 10) / 5,
    (1, 0, 1): (3 * 1 + 1 * 100) / 4,
    (0, 1, 1): (2 * 10 + 1 * 100) / 3,
    (1, 1, 1): (3 * 1 + 2 * 10 + 1 * 100) / 6,
}


def test_gates_that_are_left_sum_to_one_and_no_gate_is_nothing() -> None:
    assert set(SAID) == set(product((0, 1), repeat=3))
    mixed = three_experts(0.5).train()
    torch.manual_seed(0)
    said = mixed(torch.zeros(800, 1))[0][:, 0]
    assert said.isfinite().all()
    apart = (said[:, None] - torch.tensor(list(SAID.values()))).abs()
    assert (apart.min(1).values < 1e-4).all()
    shares = torch.bincount(apart.argmin(1), minlength=8) / 800
    assert ((shares - 1 / 8).abs() < 0.05).all()


def test_a_gate_of_a_millionth_that_is_left_alone_is_all() -> None:
    """The guard is for nothing at all, and a share half above it is none."""
    mixed = three_experts(0.5).train()
    with torch.no_grad():
        mixed.gates[0].bias.copy_(torch.tensor([1.0, 1.0, 1.5e-6]).log())
    torch.manual_seed(0)
    said = mixed(torch.zeros(200, 1))[0][:, 0]
    alone = said > 50
    assert alone.any()
    torch.testing.assert_close(said[alone], torch.full_like(said[alone], 100.0))


def test_rows_whose_gates_all_dropped_give_zeros_and_gradients_that_are_numbers() -> None:
    mixed = three_experts(0.9).train()
    torch.manual_seed(0)
    x = torch.zeros(400, 1, requires_grad=True)
    said = mixed(x)[0][:, 0]
    assert abs(float((said == 0).float().mean()) - 0.9**3) < 0.1
    said.sum().backward()
    for tensor in (x, *mixed.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def test_a_step_at_the_default_in_which_all_gates_drop_trains_on() -> None:
    """Two groups of four gates at .1 drop together in one row of 5,000."""
    config = HeadConfig(name="mmoe", width=4, hidden=1)
    head = TaskHead(config, 5, TINY.tasks).train()
    torch.manual_seed(0)
    x = torch.randn(30_000, 5)
    dropped = torch.cat([body == 0 for body in head.bodies(x)]).all(1)
    assert dropped.any()
    head(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("gate_dropout", [0.0, 0.1, 0.9])
def test_no_gate_drops_when_serving(gate_dropout: float) -> None:
    said = three_experts(gate_dropout).eval()(torch.zeros(500, 1))[0][:, 0]
    torch.testing.assert_close(said, torch.full((500,), (3 * 1 + 2 * 10 + 1 * 100) / 6))


def test_each_group_has_a_gate_and_its_tasks_share_it() -> None:
    config = SMALL.model_copy(update={"name": "mmoe"})
    head = patterned(TaskHead(config, 5, TINY.tasks))
    assert isinstance(head.bodies, GatedExperts)
    assert len(head.bodies.gates) == 2
    before = head(X)
    with torch.no_grad():
        head.bodies.gates[1].weight.neg_()
    moved = (head(X) != before).all(0)
    assert moved.tolist() == [False, True, False]


def test_groups_that_no_task_is_of_have_no_tower() -> None:
    click, like, skip = TINY.tasks
    assert groups_of((click, like, skip)) == [[0, 2], [1]]
    assert groups_of((like, click)) == [[1], [0]]
    assert groups_of((like,)) == [[0]]
    head = TaskHead(SMALL, 5, (click, skip))
    assert len(head.towers) == len(head.bodies) == 1
    assert head(torch.zeros(3, 5)).shape == (3, 2)


def test_offsets_are_those_of_known_positions() -> None:
    offsets = PositionOffsets(3, 2)
    assert torch.equal(offsets.offset_PK, torch.zeros(3, 2))
    with torch.no_grad():
        offsets.offset_PK.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    got = offsets(torch.tensor([-1, 0, 1, 2, 3, 70]))
    assert got.tolist() == [[0, 0], [1, 2], [3, 4], [5, 6], [0, 0], [0, 0]]
    none = PositionOffsets(0, 2)
    assert none(torch.tensor([-1, 0, 5])).tolist() == [[0, 0]] * 3


def test_an_output_layer_starts_small_and_at_the_priors() -> None:
    torch.manual_seed(0)
    layer = output_layer(4000, TINY.tasks)
    want = [math.log(0.3 / 0.7), math.log(0.05 / 0.95), 0.0]
    assert layer.bias.tolist() == pytest.approx(want, abs=1e-6)
    assert float(layer.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
    assert abs(float(layer.weight.detach().mean())) < 0.001


def test_gates_drop_out_in_training_only_and_still_sum_to_one() -> None:
    config = HEAD.model_copy(update={"name": "mmoe", "gate_dropout": 0.5})
    head = TaskHead(config, 10, TINY.tasks)
    x = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    assert not torch.equal(head.train()(x), head(x))
    assert torch.equal(head.eval()(x), head(x))
