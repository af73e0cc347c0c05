"""The rules of absence, one test each, with numbers worked out by hand, on both evaluators."""

import math

import numpy as np
import pytest

import cascade
from tests.property.compare import compare

INF = math.inf
X = np.array([[1.0, 2, 3], [4, 5, 6]])  # x[p,m]
INPUT = {"x": X}


def outputs(text, settings=None, **inputs):
    """The outputs by the reference, after every point was compared with the definition."""
    inputs = inputs or INPUT
    c = cascade.parse(text)
    compare(c, inputs, settings)
    return cascade.run(c, inputs, settings)


def holds(text, expected, settings=None, **inputs):
    """The output Z is `expected`; `None` stands for absent, seen as the default -99."""
    wanted = np.array(expected, float)  # None becomes NaN
    wanted[np.isnan(wanted)] = -99
    index = f"[{','.join('abcd'[: wanted.ndim])}]" if wanted.ndim else ""
    text += f"\nSEEN{index} = Z{index} ?? (-99)\noutput Z, SEEN\n"
    found = outputs(text, settings, **inputs)
    np.testing.assert_allclose(found["SEEN"].astype(float), wanted, rtol=1e-12)
    return found["Z"]


def test_a_reduction_drops_points_that_fail_a_condition_on_its_rank():
    holds("input x[p,m]\nZ[p] = sum[m](x[p,m] where m <= p)", [1, 9])
    holds("input x[p,m]\nZ[p] = max[m](x[p,m] where m <= p)", [1, 5])


@pytest.mark.parametrize(
    ("op", "value"), [("sum", 0), ("max", -INF), ("min", INF), ("prod", 1), ("count", 0)]
)
def test_a_reduction_of_no_point_is_its_identity_and_present(op, value):
    holds(f"input x[p,m]\nZ[p] = {op}[m](x[p,m] where m < 0)", [value, value])
    holds(f"input x[p,m]\nZ[p] = {op}[m](x[p,m])", [value, value], x=np.zeros((2, 0)))


def test_any_and_all_of_no_point():
    found = outputs(
        "input x[p,m]\nY[p] = any[m](x[p,m] > 0 where m < 0)\n"
        "N[p] = all[m](x[p,m] < 0 where m < 0)\noutput Y, N"
    )
    assert found["Y"].tolist() == [False, False]
    assert found["N"].tolist() == [True, True]


def test_mean_divides_by_the_present_points_and_is_absent_without_any():
    holds("input x[p,m]\nZ[p] = mean[m](x[p,m] where m < 2 * p)", [None, 4.5])


def test_argmax_is_absent_without_points_and_takes_the_lower_index_of_equals():
    holds("input x[p,m]\nZ[p] = argmax[m](min(x[p,m], 5) where m < 3 * p)", [None, 1])


def test_a_condition_of_another_rank_passes_through():
    holds("input x[p,m]\nZ[p] = sum[m](x[p,m] where p > 0)", [None, 15])
    holds("input x[p,m]\nZ[p] = sum[m](x[p,m] where p > 0)", [None, 0], x=np.zeros((2, 0)))


def test_an_implicit_sum_obeys_the_same_rule():
    text = "input q[p,e], k[m,e]\nZ[p,m] = q[p,e] * k[m,e] where m <= p"
    q, k = np.array([[1.0, 2], [3, 4]]), np.array([[1.0, 1], [0, 2]])
    holds(text, [[3, None], [7, 8]], q=q, k=k)


def test_a_condition_of_a_tensor_is_inherited_by_its_readers():
    text = "input x[p,m]\nA[p,m] = x[p,m] where m <= p\nZ[p] = sum[m](A[p,m])"
    holds(text, [1, 9])
    text = "input x[p,m]\nA[p,m] = x[p,m] where p > 0\nZ[p] = sum[m](A[p,m])"
    holds(text, [None, 15])


def test_an_inherited_condition_mentions_the_ranks_of_the_index():
    # A[0] is absent: read at m-p it depends on m, and its points leave the sum
    text = "input v[m], w[p]\nA[m] = v[m] where m > 0\nZ[p] = sum[m](A[m-p] * w[p])"
    holds(text, [5, 2], v=np.array([1.0, 2, 3]), w=np.array([1.0, 1]))


def test_a_read_outside_the_extent_is_absent():
    holds("input x[p,m]\nZ[p,m] = x[p,m+1]", [[2, 3, None], [5, 6, None]])
    holds("input x[p,m]\nZ[p,m] = x[p,m-1]", [[None, 1, 2], [None, 4, 5]])
    holds("input x[p,m]\nZ[p] = sum[m](x[p,m+1])", [5, 11])
    holds("input x[p,m]\nZ[p] = x[p,3]", [None, None])


def test_a_gather_at_a_negative_or_too_large_index_is_absent():
    i = np.array([2, -1, 3])
    text = "input x[p,m], i[j]: int\nZ[p,j] = x[p,i[j]]"
    holds(text, [[3, None, None], [6, None, None]], x=X, i=i)
    holds("input x[p,m], i[j]: int\nZ[p] = sum[j](x[p,i[j]])", [3, 6], x=X, i=i)


def test_a_map_of_an_absent_operand_is_absent():
    holds("input x[p,m]\nZ[p,m] = x[p,m] + x[p,m+1]", [[3, 5, None], [9, 11, None]])
    holds("input x[p,m]\nZ[p,m] = 0 * x[p,m+1]", [[0, 0, None], [0, 0, None]])


def test_default_is_the_value_where_present():
    holds("input x[p,m]\nZ[p,m] = x[p,m+1] ?? 0", [[2, 3, 0], [5, 6, 0]])
    text = "input x[p,m]\nZ[p,m] = (x[p,m+1] ?? (x[p,m] where p > 0))"
    holds(text, [[2, 3, None], [5, 6, 6]])


def test_default_joins_conditions_into_one():
    # one condition of m and p: the sum over m drops the point, although `p > 0` has no m
    text = "input x[p,m]\nZ[p] = sum[m](x[p,m+1] ?? (x[p,m] where p > 0))"
    holds(text, [5, 17])


def test_a_condition_that_always_holds_still_mentions_its_ranks():
    text = "input x[p,m], c[m]\nZ[p] = sum[m](((x[p,m] where p > 0 and c[m] > 0)) ?? (x[p,3]))"
    holds(text, [0, 15], x=X, c=np.array([1.0, 1, 1]))
    holds(text, [0, 10], x=X, c=np.array([1.0, 0, 1]))


def test_select_takes_the_presence_of_the_chosen_branch():
    text = "input x[p,m]\nZ[p,m] = select(m < 2, x[p,m+1], 0)"
    holds(text, [[2, 3, 0], [5, 6, 0]])
    text = "input x[p,m]\nZ[p,m] = select(m < 2, 0, x[p,m+1])"
    holds(text, [[0, 0, None], [0, 0, None]])


def test_select_is_absent_where_its_condition_is():
    text = "input x[p,m]\nZ[p,m] = select(x[p,m+1] > 2, 1, 2)"
    holds(text, [[2, 1, None], [1, 1, None]])


def test_a_comparison_with_an_absent_operand_is_unknown_and_keeps_no_point():
    text = "input x[p,m]\nZ[p] = count[m](x[p,m] where x[p,m+1] > 0)"
    holds(text, [2, 2])
    text = "input x[p,m]\nZ[p] = count[m](x[p,m] where not x[p,m+1] > 0)"
    holds(text, [0, 0])


def test_and_or_not_are_kleene():
    head = "input x[p,m]\nZ[p] = count[m](x[p,m] where "
    holds(head + "x[p,m+1] > 0 or m == 2)", [3, 3])
    holds(head + "x[p,m+1] > 0 or m == 0)", [2, 2])
    holds(head + "not (x[p,m+1] > 0 and m < 2))", [1, 1])
    holds(head + "not (x[p,m+1] > 0 and m <= 2))", [0, 0])


def test_a_truth_value_is_present_where_it_is_known():
    found = outputs(
        "input x[p,m]\nA[p,m] = x[p,m+1] > 2 or m == 1\n"
        "B[p,m] = (x[p,m+1] > 2 and m == 1) ?? true\noutput A, B"
    )
    assert found["A"].tolist() == [[False, True, False], [True, True, False]]
    assert found["B"].tolist() == [[False, True, False], [False, True, False]]


def test_a_statement_level_conjunct_of_left_ranks_guards_the_left_side():
    holds("input x[p,m]\nZ[p] = sum[m](x[p,m]) where p == 1", [None, 15])


def test_a_statement_level_conjunct_of_a_summed_rank_filters_the_sum():
    text = "input x[p,m], v[m]\nZ[p] = x[p,m] * v[m] where m > 0 and p > 0"
    holds(text, [None, 11], x=X, v=np.ones(3))


def test_count_of_truth_values_counts_the_true_ones():
    holds("input x[p,m]\nZ[p] = count[m](x[p,m] > 2)", [1, 3])
    holds("input x[p,m]\nZ[p] = count[m](x[p,m+1] > 2)", [1, 2])
    holds("input x[p,m]\nZ[p] = count[m](x[p,m+1])", [2, 2])


def test_absent_points_of_outputs_are_zero_false_and_minus_one():
    found = outputs(
        "input x[p,m]\nR[p] = sum[m](x[p,m]) where p > 0\nN[p] = p + 3 where p > 0\n"
        "B[p] = p < 9 where p > 0\noutput R, N, B"
    )
    assert found["R"].tolist() == [0, 15]
    assert found["N"].tolist() == [-1, 4]
    assert found["B"].tolist() == [False, True]


def test_a_fully_masked_row_of_attention_is_zero_and_its_lse_minus_infinity():
    text = (
        "import std\ninput q[p,m], v[m,f]\nS[p,m] = q[p,m] where m < 2 * p\n"
        "A[p,m] = softmax[m](S[p,m])\nO[p,f] = A[p,m] * v[m,f]\nL[p] = logsumexp[m](S[p,m])\n"
        "output O, L"
    )
    found = outputs(text, q=np.zeros((2, 3)), v=np.array([[1.0], [3], [9]]))
    assert found["O"].tolist() == [[0], [2]]
    np.testing.assert_allclose(found["L"], [-INF, math.log(2)])


def test_minus_infinity_is_a_value():
    text = "import std\ninput x[p,m]\nZ[p] = logsumexp[m](x[p,m])"
    holds(text, [-INF], x=np.full((1, 2), -INF))
    holds("input x[p,m]\nZ[p] = count[m](x[p,m])", [2], x=np.full((1, 2), -INF))


def test_top_and_argtop_beyond_the_present_points_are_absent():
    text = "input x[p,m]\nrank j < 4\nZ[p,j] = {}[m -> j](x[p,m] where m <= p)"
    holds(text.format("top"), [[1, None, None, None], [5, 4, None, None]])
    holds(text.format("argtop"), [[0, None, None, None], [1, 0, None, None]])


def test_absence_beyond_the_present_points_mentions_the_target_rank():
    text = "input x[p,m]\nrank j < 4\nZ[p] = sum[j](top[m -> j](x[p,m] where m <= p))"
    holds(text, [1, 9])


def test_equal_values_are_selected_by_the_lower_index():
    text = "input x[p,m]\nrank j < 3\nZ[p,j] = argtop[m -> j](min(x[p,m], 2))"
    holds(text, [[1, 2, 0], [0, 1, 2]])


def test_order_is_the_descending_position_of_the_present_points():
    holds("input x[p,m]\nZ[p,m] = order[m](x[p,m])", [[2, 1, 0], [2, 1, 0]])
    holds("input x[p,m]\nZ[p,m] = order[m](x[p,m] where m < 2)", [[1, 0, None], [1, 0, None]])


def test_the_ragged_tail_of_a_partition_is_absent():
    head = "input v[m]\nrank m = m1*M0 + m0\nparam M0 = 2\n"
    v = np.array([1.0, 2, 3])
    holds(head + "Z[m1,m0] = v[m]", [[1, 2], [3, None]], v=v)
    holds(head + "Z[m1] = sum[m0](v[m])", [3, 3], v=v)
    holds(head + "Z[m1] = count[m0](m)\nS = v[0]", [2, 1], v=v)
    holds(head + "A[m1] = max[m0](v[m])\nZ = sum[m1](A[m1])", 5, v=v)
    holds(head + "Z[m1,m0] = v[m] ?? 0", [[1, 2], [3, None]], v=v)


def test_a_partition_that_fits_has_no_tail():
    head = "input v[m]\nrank m = m1*M0 + m0\nparam M0 = 2\n"
    holds(head + "Z[m1,m0] = v[m] + m", [[1, 3], [5, 7]], v=np.array([1.0, 2, 3, 4]))


def test_an_absent_update_of_a_recurrence_stays_absent():
    text = "input v[i]\ninit S[0] = 1\nS[i+1] = S[i] + v[i] where v[i] > 0\nZ[i] = S[i+1]"
    holds(text, [3, None, None], v=np.array([2.0, -1, 3]))


def test_a_recurrence_keeps_its_state_with_a_default():
    text = "input v[i]\ninit S[0] = 1\nS[i+1] = (S[i] + v[i] where v[i] > 0) ?? S[i]\nZ = S[I]"
    holds(text, 6, v=np.array([2.0, -1, 3]))


def test_a_condition_of_an_iterative_tensor_mentions_its_step():
    # S is absent from slot 2 on: the sum over its slots has the first two
    text = (
        "input v[i]\ninit S[0] = 1\nS[i+1] = S[i] + v[i] where i < 1\nrank j < 4\nZ = sum[j](S[j])"
    )
    holds(text, 4, v=np.array([2.0, 5, 7]))


def test_conditions_of_one_set_of_ranks_are_joined_in_a_recurrence():
    text = (
        "input n[h,p], t[i,p]: bool\ninit S[p,0] = 0\n"
        "S[p,i+1] = max((n[p,1] where t[i,p]), n[p-1,p])\nZ[p] = S[p,1]"
    )
    n = np.array([[3.0, 1, 1], [-1, 4, -1]])
    holds(text, [None, 4, None], n=n, t=np.ones((1, 3), bool))


def test_a_selection_lies_along_the_rank_of_a_substitution():
    text = (
        "input x[p,m]\nY[p] = top[m -> p](x[0,m]) + sum[u](Y[u] where u < p)\nrank u < P\n"
        "Z[p] = Y[p]"
    )
    holds(text, [3, 5])


def test_the_conditions_of_a_substitution_mention_the_same_ranks_at_each_step():
    # at h = 0 the mean has no point; whether it has depends on p too, so the sum over p is 0
    text = (
        "input x[p,m]\nrank h < 2\nrank u < 2\n"
        "Y[h,p] = (x[p,h] where p == h) + mean[u](Y[u,p] where u < h)\nZ[h] = sum[p](Y[h,p])"
    )
    holds(text, [0, 0])


def test_a_substitution_without_points_keeps_the_conditions_of_other_ranks():
    text = "input v[m]\nrank p < 0\nrank u < 0\nY[p] = v[9] - sum[u](Y[u] where u < p)\n"
    holds(text + "Z = sum[p](Y[p])", None, v=np.ones(3))
    holds(text.replace("v[9]", "v[0]") + "Z = sum[p](Y[p])", 0, v=np.ones(3))


def test_a_masked_sum_of_integers_stays_an_integer():
    text = "input n[p]: int\nrank h < 2\nZ[p] = sum[h](n[p] * n[p] where h == 1)"
    assert holds(text, [9, 4], n=np.array([3, -2])).dtype.kind == "i"


def test_inlining_a_statement_never_changes_a_meaning():
    body = "(x[p,m] where m <= p)"
    named = f"input x[p,m]\nA[p,m] = {body}\nZ[p] = mean[m](A[p,m]) - max[m](A[p,m] where m > 0)"
    inlined = f"input x[p,m]\nZ[p] = mean[m]({body}) - max[m]({body} where m > 0)"
    expected = [1 + INF, 4.5 - 5]
    holds(named, expected)
    holds(inlined, expected)


def test_arithmetic_on_present_values_is_ieee():
    text = "input v[m]\nZ[m] = select(v[m] > 5, 1 / (v[m] - v[m]), log(v[m]))"
    holds(text, [-INF, 0, INF], v=np.array([0.0, 1, 6]))
