"""Every metric is compared; the verdict rests on the primary one, adjusted for all, without remembered rows."""

from dataclasses import replace

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests
from tiny_reports import pair, report

from whet.errors import RecipeError
from whet.evaluation import statistics
from whet.evaluation.compare import compare, compare_sides
from whet.evaluation.power import detectable
from whet.evaluation.sides import Side
from whet.types import EvalReport

NUM_ROWS = 40


def scored(**scores: list[float | None]) -> EvalReport:
    """A report whose rows have these scores, the first metric being the primary one."""
    num_rows = len(next(iter(scores.values())))
    return report("demo", [False] * num_rows, scores={name: tuple(found) for name, found in scores.items()})


def texts(comparison) -> str:
    return " ".join(comparison.sentences)


@pytest.fixture(scope="module")
def several():
    generator = np.random.default_rng(0)
    base = {name: generator.uniform(0, 1, NUM_ROWS) for name in ("token_f1", "rougeL", "answer_length", "loss")}
    moved = {"token_f1": 0.15, "rougeL": 0.02, "answer_length": 5.0, "loss": -0.3}
    tuned = {name: scores + moved[name] + generator.normal(0, 0.1, NUM_ROWS) for name, scores in base.items()}
    reports = [scored(**{name: scores.tolist() for name, scores in side.items()}) for side in (base, tuned)]
    return base, tuned, compare(*reports, seed=3)


def test_each_metric_is_what_its_scores_alone_would_give(several):
    base, tuned, found = several
    assert [metric.name for metric in found.metrics] == list(base)
    for metric in found.metrics:
        alone = statistics.paired_result(base[metric.name].tolist(), tuned[metric.name].tolist(), seed=3)
        assert (metric.difference, metric.p_value) == (alone.difference, alone.p_value)
        assert (metric.base_mean, metric.tuned_mean, metric.num_rows) == (alone.base_mean, alone.tuned_mean, NUM_ROWS)
    assert found.primary == "token_f1"
    assert (found.difference, found.p_value) == (found.metrics[0].difference, found.metrics[0].p_value)


def test_p_values_are_adjusted_over_the_metrics_that_have_a_direction(several):
    *_, found = several
    directed = [metric for metric in found.metrics if metric.name != "answer_length"]
    expected = multipletests([metric.p_value for metric in directed], method="holm")[1]
    assert [metric.adjusted_p for metric in directed] == pytest.approx(list(expected))
    length = found.metrics[2]
    assert (length.adjusted_p, length.verdict, length.higher_is_better) == (None, None, None)


def test_the_detectable_difference_is_at_the_level_the_adjustment_asks_for(several):
    base, tuned, found = several
    for metric in found.metrics:
        sides = [base[metric.name].tolist()], [tuned[metric.name].tolist()]
        assert metric.detectable == detectable(*sides, alpha=0.05 / 3)


def test_a_loss_that_fell_is_better(several):
    *_, found = several
    loss = found.metrics[3]
    assert loss.difference.high < 0 and loss.verdict == "better"
    assert "Also better, adjusted for all metrics: loss (-0.3" in texts(found)


def test_a_primary_metric_that_is_significant_only_before_the_adjustment_decides_nothing():
    base, tuned = pair(wins=7, losses=0, both=0, neither=60)
    accuracy = [[float(judgement.is_correct) for judgement in side.judgements] for side in (base, tuned)]
    idle = [0.5] * 67
    names = ("token_f1", "rouge1", "rouge2", "rougeL")
    alone = compare(base, tuned, seed=1)
    assert (alone.verdict, round(alone.p_value, 4)) == ("better", 0.0156)
    among = [
        replace(side, scores={"answer_accuracy": tuple(scores)} | {name: tuple(idle) for name in names})
        for side, scores in zip((base, tuned), accuracy, strict=True)
    ]
    found = compare(*among, seed=1)
    assert found.metrics[0].adjusted_p == pytest.approx(5 * alone.p_value)
    assert found.verdict == "not distinguishable"
    assert "p = 0.016, 0.078 adjusted for 5 metrics (Holm). Verdict: not distinguishable" in texts(found)


def test_a_set_without_scores_is_compared_by_its_judgements():
    found = compare(*pair(6, 0, 0, 44), seed=1)
    (accuracy,) = found.metrics
    assert (accuracy.name, accuracy.unit, accuracy.adjusted_p) == ("answer_accuracy", "share, 0 or 1", found.p_value)
    assert [change.example_id for change in found.gains] == [f"row-{i}" for i in range(6)]
    assert found.setbacks == ()


def test_wins_and_losses_count_rows_and_the_ten_largest_are_listed_in_order():
    generator = np.random.default_rng(1)
    base = generator.uniform(0, 1, NUM_ROWS)
    change = generator.normal(0, 0.2, NUM_ROWS)
    change[:3] = 0.0
    found = compare(scored(token_f1=base.tolist()), scored(token_f1=(base + change).tolist()), seed=1)
    assert (found.wins, found.losses) == (int((change > 0).sum()), int((change < 0).sum()))
    order = [f"row-{i}" for i in np.argsort(-change)]
    assert [row.example_id for row in found.gains] == order[:10]
    assert [row.example_id for row in found.setbacks] == order[::-1][:10]
    worse_when_up = compare(scored(loss=base.tolist()), scored(loss=(base + change).tolist()), seed=1)
    assert (worse_when_up.gains[0].example_id, worse_when_up.wins) == (order[-1], found.losses)


def test_categories_are_those_of_the_primary_metric_and_one_kind_of_rows_has_none():
    base, tuned = pair(wins=8, losses=0, both=10, neither=22)
    names = tuple("ab"[i < 8] for i in range(40))
    found = compare(replace(base, categories=names), replace(tuned, categories=names), seed=1)
    assert [(c.name, c.num_rows, c.verdict) for c in found.categories] == [
        ("a", 32, "not distinguishable"),
        ("b", 8, "better"),
    ]
    assert compare(base, replace(tuned, categories=("a",) * 40), seed=1).categories == ()


def seen(num_seen_wins: int, wins: int = 12) -> EvalReport:
    base, tuned = pair(wins=wins, losses=0, both=10, neither=40)
    ids = tuple(f"row-{i}" for i in range(num_seen_wins))
    return compare(base, replace(tuned, seen_in_training=ids), seed=1)


def test_a_gain_that_rests_on_rows_seen_in_training_is_no_gain():
    found = seen(num_seen_wins=8)
    assert found.metrics[0].verdict == "better"
    assert (found.verdict, found.verdict_without_seen) == ("not distinguishable", "not distinguishable")
    assert len(found.seen_in_training) == 8
    assert "8 of 62 rows may be known from the training rows. The other 54 say +7.4 points" in texts(found)
    assert "So the gain may be recall of training rows. Verdict: not distinguishable." in texts(found)


def test_a_gain_that_holds_without_them_stays_and_says_so():
    found = seen(num_seen_wins=4)
    assert (found.verdict, found.verdict_without_seen) == ("better", "better")
    assert "The other 58 say +13.8 points, p = 0.0078: better; the gain holds without them." in texts(found)


def test_when_every_row_was_seen_nothing_is_shown():
    found = seen(num_seen_wins=62)
    assert (found.verdict, found.verdict_without_seen) == ("not distinguishable", None)
    assert "none is left without them" in texts(found)


def test_a_row_that_only_base_has_seen_counts_as_seen_too():
    base, tuned = pair(wins=12, losses=0, both=10, neither=40)
    found = compare(
        replace(base, seen_in_training=("row-2",)), replace(tuned, seen_in_training=("row-0", "row-2")), seed=1
    )
    assert found.seen_in_training == ("row-0", "row-2")


def test_a_guard_says_how_large_a_loss_would_have_been_found():
    base, tuned = pair(wins=3, losses=4, both=100, neither=93)
    kept = compare(base, replace(tuned, role="guard"), seed=1)
    size = f"{100 * kept.metrics[0].detectable:.1f} points"
    assert kept.role == "guard"
    assert f"Guard: nothing lost that 200 rows could show (a loss of {size} or more would have been" in texts(kept)
    base, tuned = pair(wins=3, losses=40, both=100, neither=57)
    lost = compare(base, replace(tuned, role="guard"), seed=1)
    assert lost.verdict == "worse"
    assert "Guard: lost 18.5 points of answer_accuracy." in texts(lost)
    tiny = compare(*[replace(side, role="guard") for side in pair(0, 0, 2, 1)], seed=1)
    assert "Guard: nothing lost, but 3 rows cannot show any difference." in texts(tiny)


def test_how_many_rows_were_reached_is_said():
    base, tuned = pair(2, 2, 2, 2)
    found = compare(replace(base, num_rows_of_set=20), replace(tuned, num_rows_of_set=20), seed=1)
    assert "the first 8 of 20 rows were answered and are compared" in texts(found)
    assert "limited" not in texts(compare(replace(base, num_rows_of_set=8), replace(tuned, num_rows_of_set=8), seed=1))


def test_answers_of_another_version_of_the_code_are_told():
    base, tuned = pair(2, 2, 2, 2)
    assert "different versions of the code" in texts(compare(base, replace(tuned, code="newer"), seed=1))
    assert "different versions" not in texts(compare(base, tuned, seed=1))


def test_metrics_that_only_one_has_are_left_out_with_a_sentence():
    base, tuned = scored(token_f1=[0.1] * 9, bleu=[1.0] * 9), scored(token_f1=[0.2] * 9, loss=[0.5] * 9)
    found = compare(base, tuned, seed=1)
    assert [metric.name for metric in found.metrics] == ["token_f1"]
    assert "Not compared, because not every answer set has it: bleu, loss." in texts(found)


def test_rows_without_a_score_are_left_out_and_counted():
    found = compare(scored(token_f1=[0.1, None, 0.3, 0.4]), scored(token_f1=[0.2, 0.2, None, 0.5]), seed=1)
    assert (found.metrics[0].num_rows, found.metrics[0].num_left_out, found.num_rows) == (2, 2, 4)
    assert "token_f1 on 2 rows (2 rows have no score)" in texts(found)


def test_a_metric_without_a_direction_gives_no_verdict():
    found = compare(scored(answer_length=[1.0] * 50), scored(answer_length=[9.0] * 25 + [8.0] * 25), seed=1)
    assert found.verdict == "not distinguishable"
    assert "no verdict can rest on it" in texts(found)


@pytest.mark.parametrize(
    ("base", "tuned", "named"),
    [
        (scored(token_f1=[0.1]), scored(rougeL=[0.1]), "the primary metric differs: base has 'token_f1'"),
        (scored(token_f1=[None]), scored(token_f1=[0.1]), "no row has a score of the primary metric, token_f1"),
        (
            scored(token_f1=[0.1]),
            replace(scored(token_f1=[0.1]), scores={"token_f1": (0.1, 0.2)}),
            "tuned has 2 scores of token_f1 for 1 rows",
        ),
    ],
)
def test_scores_that_do_not_fit_together_are_refused(base, tuned, named):
    with pytest.raises(RecipeError, match=named):
        compare(base, tuned, seed=1)


def runs(*correct: list[bool], name: str = "demo") -> Side:
    return Side(
        name=name, reports=tuple(report("demo", found, weights=f"{name} {i}") for i, found in enumerate(correct))
    )


def test_several_seeds_show_each_ones_own_mean_and_an_interval_over_seeds_and_rows():
    seeds = [[i < 30 + 5 * number for i in range(100)] for number in range(3)]
    base = Side(name="base", reports=(report("base", [i < 20 for i in range(100)]),), is_trained=False)
    found = compare_sides(base, runs(*seeds, name="tuned"), seed=1)
    assert (found.num_base_seeds, found.num_tuned_seeds) == (1, 3)
    assert found.metrics[0].tuned_seed_means == (0.3, 0.35, 0.4)
    assert found.difference.estimate == pytest.approx(0.15)
    # Student's t with two degrees over 10, 15 and 20 points alone gives 15 -+ 12.4
    assert found.difference.low < 0.15 - 0.12
    assert "tuned is the mean of 3 seeds, each by itself 30.0 %, 35.0 %, 40.0 %." in texts(found)
    assert "(over rows and seeds)" in texts(found)
    assert found.tuned_accuracy.estimate == pytest.approx(0.35)
    assert 0 <= found.tuned_accuracy.low < 0.35 < found.tuned_accuracy.high <= 1


def test_one_run_on_each_side_is_told_that_seeds_are_not_in_the_interval():
    found = compare_sides(runs([True] * 9, name="A"), runs([False] * 9, name="B"), seed=1)
    assert "A and B are one run each: another seed may give another difference" in " ".join(found.sentences).replace(
        "B and A", "A and B"
    )
    assert found.sentences[0].startswith("B answered 0 of 9 right, A 9:")


def test_a_refusal_names_the_two_sides():
    with pytest.raises(RecipeError, match=r"example ids differ: A judged 9 rows, B judgements are 8"):
        compare_sides(runs([True] * 9, name="A"), runs([True] * 8, name="B"), seed=1)


def test_the_same_weights_twice_are_no_two_seeds():
    tuned = Side(name="demo", reports=(report("demo", [True]), report("demo", [True])))
    base = Side(name="base", reports=(report("base", [False]),), is_trained=False)
    with pytest.raises(RecipeError, match="one seed counted twice"):
        compare_sides(base, tuned, seed=1)


@pytest.mark.slow
def test_with_several_metrics_and_no_effect_a_study_says_better_or_worse_no_more_often_than_alpha():
    """The whole verdict by six correlated metrics: of the primary one, and of any one at all."""
    generator = np.random.default_rng(9)
    names = ("token_f1", "rouge1", "rouge2", "rougeL", "bleu", "semantic_similarity")
    any_found = primary_found = 0
    num_studies = 300
    for number in range(num_studies):
        shared = generator.laplace(size=(1, 80))
        moves = shared + generator.laplace(size=(6, 80))
        base = scored(**{name: [0.0] * 80 for name in names})
        tuned = scored(**dict(zip(names, moves.tolist(), strict=True)))
        found = compare(base, tuned, seed=number)
        primary_found += found.verdict != "not distinguishable"
        any_found += any(metric.verdict != "not distinguishable" for metric in found.metrics)
    # 300 studies: a standard error of 1.3 points
    assert primary_found <= any_found
    assert any_found / num_studies <= 0.05 + 0.025


def test_seconds_that_rows_share_get_no_interval():
    base = scored(loss=[1.0, 2.0, 3.0, 2.0], seconds_per_example=[0.5] * 4)
    tuned = scored(loss=[0.5, 1.0, 1.5, 1.0], seconds_per_example=[0.25] * 4)
    found = compare(base, tuned, seed=0)
    assert [metric.name for metric in found.metrics] == ["loss"]
    assert "Seconds per example: tuned 0.25, base 0.5; rows answered together" in texts(found)
    assert "Not compared" not in texts(found)
