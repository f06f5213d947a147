"""Evaluations: what they record, that they disturb nothing, the best checkpoint, and `gan-runner evaluate`."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from gan_runner.config.errors import ConfigError
from gan_runner.features import network
from gan_runner.training import evaluation
from gan_runner.training.build import build
from gan_runner.training.evaluation import Generation, Objective
from tests.helpers import TINY, TINY_MODEL, compose, refusal, some
from tests.helpers.precision import Products, factors
from tests.helpers.runs import metrics, rows, summary

RUN = Path("run")
RING = ["experiment=ring", "device=cpu", "batch_size=16", "model.generator.width=8", "model.discriminator.width=8"]
DIGITS = [*TINY, *TINY_MODEL, "loss=hinge", "features.steps=5"]
FEW = "metric.frechet.samples=200"
EVERY_TWO = ["steps=6", "evaluate_every=2", "log_every=1", "metric.modes.samples=100"]


@pytest.fixture
def ring(run_cli):
    """A run on points, evaluated three times."""
    code, out, err = run_cli(*RING, *EVERY_TWO, f"hydra.run.dir={RUN}")
    assert code == 0, err
    return out


def test_every_evaluation_is_logged(ring):
    found = rows(RUN / "evaluations.jsonl")
    assert [record["step"] for record in found] == [2, 4, 6]
    for record in found:
        values = record["metrics"]["modes"]["values"]
        line = next(line for line in rows(RUN / "metrics.jsonl") if line["step"] == record["step"])
        assert {f"metric/modes/{name}": value for name, value in values.items()} == {
            tag: value for tag, value in line.items() if tag.startswith("metric/")
        }
        assert {"wasserstein", "covered", "high_quality", "reverse_kl"} == set(values)
    assert "modes/covered" in ring


def test_an_evaluation_says_how_it_was_computed(ring):
    record = rows(RUN / "evaluations.jsonl")[-1]
    assert record["metrics"]["modes"]["generated"] == 100
    assert record["metrics"]["modes"]["real"] == 1000
    assert record["metrics"]["modes"]["split"] == "training"
    assert record["weights"] == "moving average"
    assert record["seed"] == 0
    assert record["features"] is None
    assert {"torch", "torch-fidelity", "scipy", "gan_runner"} <= set(record["versions"])


def test_a_run_and_its_verbs_have_one_arithmetic(run_cli):
    """From the first product, which may be in the training of the feature network, to the last."""
    before = factors()
    words = ["tf32=true", "deterministic=true", "steps=2", "evaluate_every=1", f"hydra.run.dir={RUN}"]
    for arguments in (
        [*DIGITS, FEW, *words],
        ["evaluate", str(RUN)],
        ["sample", str(RUN)],
        ["resume", str(RUN), "steps=3"],
    ):
        with Products() as products:
            code, _, err = run_cli(*arguments)
        assert code == 0, err
        assert set(products.seen) == {("tf32", True)}, arguments
        assert factors() == before
        assert not torch.are_deterministic_algorithms_enabled()
    with Products() as products:
        run_cli("evaluate", str(RUN), "--neighbors", "2", "tf32=false", "deterministic=false")
    assert set(products.seen) == {("ieee", False)}


def test_image_metrics_record_their_network(run_cli):
    code, _, err = run_cli(*DIGITS, FEW, "steps=1", f"hydra.run.dir={RUN}")
    assert code == 0, err
    record = rows(RUN / "evaluations.jsonl")[-1]
    assert set(record["metrics"]) == {"frechet", "classes"}
    network = record["features"]
    assert network["name"] == "classifier"
    assert len(network["sha256"]) == 64
    assert 0 < network["accuracy"] <= 1
    assert network["resize"]
    training = round(1797 * 0.95)
    assert record["metrics"]["frechet"]["real"] == pytest.approx(training, abs=1)
    assert "cached" in (RUN / "gan_runner.log").read_text()  # that the network was trained


@pytest.mark.parametrize("words", some([RING, DIGITS], every=2), ids=["points", "images"])
@pytest.mark.slow
def test_evaluating_disturbs_nothing(run_cli, words):
    """Neither the weights nor any loss that comes after: bit for bit."""
    words = [*words, "log_every=1", "steps=4"]
    for directory, more in (("with", ["evaluate_every=2"]), ("without", ["metric=none"])):
        code, _, err = run_cli(*words, *more, f"hydra.run.dir={directory}")
        assert code == 0, err
    with_, without = (
        [{tag: value for tag, value in row.items() if not tag.startswith("metric/")} for row in metrics(directory)]
        for directory in ("with", "without")
    )
    assert with_ == without
    one, other = (torch.load(Path(d, "checkpoints/last.pt"), weights_only=True)["game"] for d in ("with", "without"))
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_an_evaluation_asks_before_every_batch_whether_to_stop(monkeypatch):
    """4 are generated, a metric begins, one is looked at, those of the training images, and once a floor's."""
    monkeypatch.setattr(evaluation, "BATCH", 10)
    monkeypatch.setattr(network, "BATCH", 100)
    built = build(compose(*DIGITS, "metric=frechet", "metric.frechet.samples=40"), [])
    built.evaluator.prepare(built.game.data, lambda line: None)
    asked: list[bool] = []

    def stop_at(number):
        def should_stop():
            asked.append(len(asked) + 1 == number)
            return asked[-1]

        asked.clear()
        return should_stop

    for number in (1, 4, 5, 6, 7, 20):
        with pytest.raises(evaluation.BrokenOff):
            built.evaluator.evaluate(built.game, stop_at(number))
        assert len(asked) == number
    found = built.evaluator.evaluate(built.game, stop_at(None))["metrics"]
    assert len(asked) == 4 + 1 + 1 + -(-found["frechet"]["real"] // 100) + 1
    assert built.evaluator.evaluate(built.game, stop_at(None))["metrics"] == found
    assert len(asked) == 4 + 1 + 1


def test_the_best_checkpoint_is_that_of_the_best_value(run_cli):
    words = [*RING, *EVERY_TWO, "steps=20", "optimizer.lr=0.02", "ema_half_life=null", "objective=modes.wasserstein"]
    code, out, err = run_cli(*words, f"hydra.run.dir={RUN}")
    assert code == 0, err
    values = {r["step"]: r["metrics"]["modes"]["values"]["wasserstein"] for r in rows(RUN / "evaluations.jsonl")}
    step = min(values, key=lambda step: values[step])
    found = summary()
    assert found["best"] == {"objective": "metric/modes/wasserstein", "value": values[step], "step": step}
    assert found["metrics"]["metric/modes/wasserstein"] == values[20]
    assert torch.load(RUN / "checkpoints/best.pt", weights_only=True)["step"] == step
    assert "best modes/wasserstein" in out
    code, out, err = run_cli("evaluate", str(RUN), "--checkpoint", "best")
    assert code == 0, err
    again = rows(RUN / "evaluations.jsonl")[-1]
    assert again["step"] == step
    assert again["metrics"]["modes"]["values"]["wasserstein"] == values[step]  # to the last bit
    code, out, err = run_cli("sample", str(RUN), "--checkpoint", "best")
    assert code == 0, err


def test_a_run_returns_its_best_value(monkeypatch):
    from gan_runner.training.run import prepare

    train = prepare(compose(*RING, *EVERY_TWO), [])
    best = train(RUN.absolute(), hydra_files={}, title="", notes=[])
    values = [record["metrics"]["modes"]["values"]["wasserstein"] for record in rows(RUN / "evaluations.jsonl")]
    assert best == min(values)


def test_an_objective_knows_its_direction():
    up, down = Objective("x", higher_is_better=True), Objective("x", higher_is_better=False)
    assert up.is_better(2.0, 1.0)
    assert not up.is_better(1.0, 1.0)
    assert down.is_better(1.0, 2.0)
    assert not down.is_better(2.0, 1.0)
    for objective in (up, down):
        assert objective.is_better(0.0, None)
        assert not objective.is_better(float("nan"), None)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["metric=modes"], "modes"),  # on images
        (["dataset=ring", "model=mlp", "metric=frechet"], "points"),
        (["dataset=ring", "model=mlp", "metric=inception_score"], "points"),
        (["dataset=ring", "model=mlp", "metric=sliced_wasserstein"], "points"),
        (["metric=frechett"], "metric=frechett 'frechet'"),
        (["metric=[frechet,frechet]"], "frechet twice"),
        (["objective=prdc"], "frechet, classes"),
        (["objective=frechet.distnace"], "objective=frechet.distnace 'distance'"),
        (["features=lenet"], "features.weights"),
        (["features=lenet", "features.weights=nowhere.pth"], "nowhere.pth"),
        (["features=inception", "features.weights=nowhere.pth"], "nowhere.pth"),
        (["metric.frechet.samples=1"], "metric.frechet.samples=1"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(run_cli, words, named):
    refusal(run_cli(*words, "steps=1"), *named.split())
    assert not Path("outputs").exists()


def test_a_metric_that_does_not_suit_the_data_is_refused_before_a_network_learns_them(run_cli):
    outcome = run_cli("metric=kernel_distance", "metric.kernel_distance.subset_size=5000", "features.steps=7")
    refusal(outcome, "subset_size=5000")
    assert "classifier" not in outcome[1]


def test_too_few_samples_for_the_features_are_a_warning(run_cli):
    code, out, err = run_cli(*DIGITS, "steps=1", "metric.frechet.samples=20", f"hydra.run.dir={RUN}")
    assert code == 0, err
    (line,) = [line for line in out.splitlines() if "warning" in line and "20" in line]
    dimension = rows(RUN / "evaluations.jsonl")[0]["features"]["dimension"]
    assert str(dimension) in line


def test_evaluate_by_another_metric(run_cli, ring):
    code, out, err = run_cli("evaluate", str(RUN), "metric=[wasserstein]", "metric.wasserstein.samples=50", "--raw")
    assert code == 0, err
    record = rows(RUN / "evaluations.jsonl")[-1]
    assert set(record["metrics"]) == {"wasserstein"}
    assert record["metrics"]["wasserstein"]["generated"] == 50
    assert record["weights"] == "raw"
    assert record["checkpoint"] == "run/checkpoints/last.pt"
    assert "wasserstein.distance" in out


def test_an_evaluation_gives_its_floor(ring):
    floors = [record["metrics"]["modes"]["floor"] for record in rows(RUN / "evaluations.jsonl")]
    assert floors[0] == floors[1] == floors[2]
    assert (floors[0]["generated"], floors[0]["real"], floors[0]["split"]) == (100, 1000, "fresh")
    assert f"modes/wasserstein of 100 real samples {floors[0]['values']['wasserstein']:.4g}\n" in ring
    assert not [tag for line in rows(RUN / "metrics.jsonl") for tag in line if "floor" in tag]
    assert summary()["floors"]["metric/modes/wasserstein"]["floor"] == floors[0]["values"]["wasserstein"]


def test_a_floor_of_fewer_samples_comes_with_the_metric_of_as_few(run_cli):
    code, out, err = run_cli(*DIGITS, FEW, "steps=1", f"hydra.run.dir={RUN}")
    assert code == 0, err
    found = rows(RUN / "evaluations.jsonl")[-1]["metrics"]["frechet"]
    floor = found["floor"]
    assert (floor["generated"], floor["real"]) == (90, 1707)
    fewer = found["at_floor_counts"]["values"]["distance"]
    assert fewer != found["values"]["distance"]
    assert 0 < floor["values"]["distance"] < fewer
    line = f"frechet/distance of 90 real samples {floor['values']['distance']:.4g}, of 90 generated {fewer:.4g}"
    assert line in out
    code, out, err = run_cli("evaluate", str(RUN))
    assert code == 0, err
    assert f"{floor['values']['distance']:.5g}" in out
    assert "90 and 1,707 real" in out
    again = rows(RUN / "evaluations.jsonl")[-1]["metrics"]["frechet"]
    beside = again.pop("held_out")
    assert again == found
    assert (beside["generated"], beside["real"]) == (found["generated"], 90)
    assert f"{beside['values']['distance']:.5g}" in out
    assert f"{beside['training']['distance']:.5g}" in out
    assert run_cli("evaluate", str(RUN), "--split", "held_out")[0] == 0
    other = rows(RUN / "evaluations.jsonl")[-1]["metrics"]["frechet"]
    assert other["values"] == beside["values"]
    assert "held_out" not in other


def test_evaluate_against_the_held_out_split(run_cli):
    code, _, err = run_cli(*DIGITS, FEW, "steps=1", f"hydra.run.dir={RUN}")
    assert code == 0, err
    code, out, err = run_cli("evaluate", str(RUN), "--split", "held_out", "metric=frechet", FEW)
    assert code == 0, err
    own, other = (record["metrics"]["frechet"] for record in rows(RUN / "evaluations.jsonl"))
    assert (own["split"], own["real"]) == ("training", 1707)
    assert (other["split"], other["real"]) == ("held_out", 90)
    assert own["values"] != other["values"]
    assert other["floor"]["split"] == "training against held-out"
    assert "held_out" in out
    refusal(run_cli("evaluate", str(RUN), "--split", "test"), "--split", "held_out")
    refusal(run_cli("evaluate", str(RUN), "--split", "held_out", "--neighbors"), "--split", "--neighbors")
    refusal(
        run_cli("evaluate", str(RUN), "--split", "held_out", "dataset.held_out=0"), "--split", "nothing is held out"
    )
    assert len(rows(RUN / "evaluations.jsonl")) == 2


def test_evaluate_with_truncated_latents(run_cli):
    code, _, err = run_cli(*DIGITS, FEW, "steps=1", f"hydra.run.dir={RUN}")
    assert code == 0, err
    code, out, err = run_cli("evaluate", str(RUN), "--truncation", "0.1")
    assert code == 0, err
    own, other = rows(RUN / "evaluations.jsonl")
    assert other["truncation"] == 0.1
    assert "checkpoint" in other  # by which reports leave it out
    assert own["metrics"]["frechet"]["values"] != other["metrics"]["frechet"]["values"]
    assert "truncation 0.1" in out


def test_uniform_latents_are_not_truncated(run_cli, ring):
    for verb in ("evaluate", "sample"):
        refusal(run_cli(verb, str(RUN), "--truncation", "0.5"), "--truncation", "normal")


def test_evaluate_with_a_key_of_the_run_s_metric(run_cli, ring):
    code, _, err = run_cli("evaluate", str(RUN), "metric.modes.samples=30")
    assert code == 0, err
    assert rows(RUN / "evaluations.jsonl")[-1]["metrics"]["modes"]["generated"] == 30


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["metric=mods"], "metric=mods 'modes'"),
        pytest.param(["metric=frechet"], "points", marks=pytest.mark.slow),
        (["metric=none"], "metric"),
        pytest.param(["metric.modes.smples=3"], "metric.modes.smples", marks=pytest.mark.slow),
        (["--neighbors"], "points"),
        pytest.param(["--neighbours"], "--neighbours", marks=pytest.mark.slow),
        (["--checkpoint", "nowhere.pt"], "nowhere.pt"),
        pytest.param(["features=lenett"], "features=lenett 'lenet'", marks=pytest.mark.slow),
    ],
)
def test_evaluate_refuses_in_one_line(run_cli, ring, words, named):
    before = (RUN / "evaluations.jsonl").read_bytes()
    refusal(run_cli("evaluate", str(RUN), *words), *named.split())
    assert (RUN / "evaluations.jsonl").read_bytes() == before


def test_neighbors_are_the_nearest_training_images(run_cli):
    code, _, err = run_cli(*DIGITS, "metric=none", "steps=1", f"hydra.run.dir={RUN}")
    assert code == 0, err
    code, out, err = run_cli("evaluate", str(RUN), "--neighbors", "3")
    assert code == 0, err
    assert "median distance" in out
    with Image.open(RUN / "generated" / "neighbors_count_3.png") as picture:
        assert picture.width > picture.height


def test_nearest():
    from gan_runner.cli.evaluate import nearest

    torch.manual_seed(0)
    training = torch.randint(256, (50, 1, 4, 4), dtype=torch.uint8)
    distances, found = nearest(training[[7, 3]], training, 3)
    assert found[:, 0].tolist() == [7, 3]
    assert distances[:, 0].abs().max() < 0.1
    brute = (training[7].float() - training.float()).square().flatten(1).mean(1).sqrt().argsort()[:3]
    assert found[0].tolist() == brute.tolist()


def test_conditional_samples_are_asked_for_as_the_data_has_the_classes():
    game = build(compose(*TINY, *TINY_MODEL, "conditional=true", "metric=none"), []).game
    labels = Generation(game, 400, seed=0).labels
    assert labels is not None
    share = labels.bincount(minlength=10) / 400
    assert share.min() > 0.05


def test_a_metric_that_is_not_switched_on_is_refused():
    with pytest.raises(ConfigError, match="metric=prdc"):
        build(compose(*TINY) | {"metric": {"prdc": {"samples": 5}}}, [])
