"""Learning rates, against values by hand."""

import pytest
from bitgraph.graph.errors import BitgraphError
from bitgraph.models.training.options import TrainingOptions
from bitgraph.models.training.schedule import learning_rate, warmup_steps

RATE = 8.0


def rates(schedule, warmup, total):
    return [learning_rate(schedule, RATE, warmup, step, total) for step in range(1, total + 1)]


@pytest.mark.parametrize(
    ("schedule", "warmup", "wanted"),
    [
        ("constant", 0, [8, 8, 8, 8, 8]),
        ("constant", 2, [4, 8, 8, 8, 8]),
        ("linear", 0, [6.4, 4.8, 3.2, 1.6, 0]),
        ("linear", 1, [8, 6, 4, 2, 0]),
        ("linear", 0.2, [8, 6, 4, 2, 0]),  # one step of five
        ("linear", 0.21, [4, 8, 16 / 3, 8 / 3, 0]),  # rounded up
        ("cosine", 1, [8, 4 + 2 * 2**1.5 / 2, 4, 4 - 2 * 2**1.5 / 2, 0]),
        ("cosine", 5, [1.6, 3.2, 4.8, 6.4, 8]),
        ("cosine", 10, [0.8, 1.6, 2.4, 3.2, 4]),  # it ends while the rate still rises
        ("linear", 4, [2, 4, 6, 8, 0]),
    ],
)
def test_rates_of_five_steps(schedule, warmup, wanted):
    assert rates(schedule, warmup, 5) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 0.5, 0.999])
def test_a_run_of_one_step(schedule, warmup):
    (rate,) = rates(schedule, warmup, 1)
    assert rate == (RATE if schedule == "constant" or warmup else 0.0)


@pytest.mark.parametrize(("warmup", "steps"), [(0, 0), (7, 7), (0.1, 10), (0.101, 11), (1.0, 1)])
def test_a_warmup_below_one_is_a_share(warmup, steps):
    assert warmup_steps(warmup, 100) == steps


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"warmup": 2.5}, "warmup .2.5. must be whole steps, or a share of them below 1"),
        ({"warmup": float("nan")}, "warmup"),
        ({"schedule": "square"}, "schedule .square. is not one of constant, linear, cosine"),
        ({"optimizer": "adam"}, "optimizer .adam. is not one of adamw, sgd"),
        ({"momentum": 1.0}, "momentum .1.0. must be at least 0 and below 1"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": float("nan")}, "dropout"),
        ({"accumulate": 0}, "accumulate"),
        ({"rank_pattern": ("v_proj=0",)}, "rank-pattern .* is not a target and a whole number"),
        ({"rank_pattern": ("v_proj=2.5",)}, "rank-pattern"),
        ({"rank_pattern": ("v_proj=inf",)}, "rank-pattern"),
        ({"rank_pattern": ("v_proj=nan",)}, "rank-pattern"),
        ({"rank_pattern": ("v_proj",)}, "rank-pattern"),
        ({"rank_pattern": ("nose_proj=8",)}, "rank-pattern"),
        ({"rank_pattern": ("v_proj=8", "v_proj=4")}, "rank-pattern .* repeats a module"),
        ({"alpha_pattern": ("v_proj=0",)}, "alpha-pattern .* a positive number, as in q_proj=8"),
        ({"alpha_pattern": ("v_proj=nan",)}, "alpha-pattern"),
        ({"alpha_pattern": ("v_proj=eight",)}, "alpha-pattern"),
        ({"targets": ("q_proj",), "alpha_pattern": ("v_proj=8",)}, "alpha-pattern"),
    ],
)
def test_options_out_of_range(options, said):
    with pytest.raises(BitgraphError, match=said):
        TrainingOptions(**options)
