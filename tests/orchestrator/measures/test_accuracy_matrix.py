import math

import pytest

from orchestrator.measures import accuracy_matrix
from orchestrator.measures.accuracy_matrix import AccuracyMatrix

# Worked by hand: three tasks; row 0 is the base.
MATRIX = AccuracyMatrix(
    ("a", "b", "c"), ((0.5, 0.4, 0.3), (0.9, 0.5, 0.3), (0.8, 0.7, 0.2), (0.6, 0.75, 0.9))
)


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        (accuracy_matrix.accuracy, (0.6 + 0.75 + 0.9) / 3),
        (accuracy_matrix.gain, (0.6 + 0.75 + 0.9) / 3 - 0.4),
        (accuracy_matrix.forgetting, ((0.9 - 0.6) + (0.7 - 0.75)) / 2),
        (accuracy_matrix.forgetting_from_learned, ((0.9 - 0.6) + (0.7 - 0.75)) / 2),
        (accuracy_matrix.forgetting_vs_base, ((0.9 - 0.6) + (0.7 - 0.75)) / 2),
        (accuracy_matrix.backward_transfer, ((0.6 - 0.9) + (0.75 - 0.7)) / 2),
        (accuracy_matrix.forward_transfer, ((0.5 - 0.4) + (0.2 - 0.3)) / 2),
        (accuracy_matrix.learning_accuracy, (0.9 + 0.7 + 0.9) / 3),
    ],
)
def test_known_values(measure, expected):
    assert measure(MATRIX) == pytest.approx(expected)


def test_forgetting_is_negative_when_old_tasks_improve():
    matrix = AccuracyMatrix(("a", "b"), ((0.1, 0.1), (0.5, 0.1), (0.7, 0.9)))
    assert accuracy_matrix.forgetting(matrix) == pytest.approx(-0.2)


def test_forgetting_excludes_the_base_and_forgetting_vs_base_does_not():
    matrix = AccuracyMatrix(("a", "b"), ((0.9, 0.1), (0.5, 0.1), (0.4, 0.9)))
    assert accuracy_matrix.forgetting(matrix) == pytest.approx(0.1)
    assert accuracy_matrix.forgetting_vs_base(matrix) == pytest.approx(0.5)


def test_forgetting_counts_what_was_good_before_it_was_learnt_but_from_learned_does_not():
    matrix = AccuracyMatrix(
        ("a", "b", "c"), ((0, 0, 0), (0.5, 0.8, 0), (0.5, 0.6, 0), (0.5, 0.5, 0.9))
    )
    assert accuracy_matrix.forgetting(matrix) == pytest.approx((0.0 + 0.3) / 2)
    assert accuracy_matrix.forgetting_from_learned(matrix) == pytest.approx((0.0 + 0.1) / 2)


def test_what_is_not_measured_stays_not_measured():
    matrix = AccuracyMatrix(("a", "b"), ((math.nan, math.nan), (0.5, 0.1), (0.7, 0.9)))
    assert accuracy_matrix.accuracy(matrix) == pytest.approx(0.8)
    assert math.isnan(accuracy_matrix.gain(matrix))
    assert math.isnan(accuracy_matrix.forgetting_vs_base(matrix))
    assert accuracy_matrix.gain(matrix.with_base((0.5, 0.5))) == pytest.approx(0.3)


def test_an_unfinished_sequence_has_no_measures():
    matrix = AccuracyMatrix.empty(["a", "b"]).with_row((0.5, 0.5))
    assert not matrix.complete
    assert math.isnan(accuracy_matrix.accuracy(matrix))
    assert math.isnan(accuracy_matrix.forgetting(matrix))


def test_a_single_task_has_nothing_to_forget():
    assert accuracy_matrix.forgetting(AccuracyMatrix(("a",), ((0.5,), (0.9,)))) == 0.0


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"Row 1 should have one score per task \(2\), got 1"):
        AccuracyMatrix(("a", "b"), ((0.1, 0.1), (0.5,)))


def test_rows_of_a_trial_that_knew_fewer_tasks_take_no_part_for_the_others():
    nan = math.nan
    rows = (
        (0.5,) * 4, (0.8, 0.4, nan, nan), (0.7, 0.6, 0.3, 0.3), (0.7, 0.6, 0.9, 0.3), (0.7,) * 4,
    )  # fmt: skip
    further = AccuracyMatrix(("a", "b", "c", "d"), rows, inherited=2)
    assert accuracy_matrix.forgetting(further) == pytest.approx((0.1 - 0.1 + 0.2) / 3)
    assert accuracy_matrix.forgetting_vs_base(further) == pytest.approx((0.1 - 0.1 + 0.2) / 3)
    assert math.isnan(accuracy_matrix.forgetting(AccuracyMatrix(further.tasks, rows)))
