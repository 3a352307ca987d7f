"""The matching of two sets against every matching there is."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from eyas.ops.matching import match


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (3, 5), (5, 3), (1, 1)])
def test_the_total_cost_is_the_least_of_all_matchings(rows: int, columns: int) -> None:
    cost = torch.rand(2, 3, rows, columns, generator=torch.Generator().manual_seed(1))
    found, partners = match(cost)
    assert found.shape == partners.shape == (2, 3, min(rows, columns))
    for index in range(6):
        matrix, own, others = cost.flatten(0, 1)[index], found.flatten(0, 1)[index], partners.flatten(0, 1)[index]
        assert len(set(own.tolist())) == len(set(others.tolist())) == len(own)
        assert own.equal(own.sort().values)
        long = matrix if rows <= columns else matrix.T
        every = (
            sum(float(long[row, column]) for row, column in enumerate(order))
            for order in permutations(range(long.shape[1]), long.shape[0])
        )
        assert float(matrix[own, others].sum()) == pytest.approx(min(every))


def test_what_is_not_finite_is_chosen_last() -> None:
    cost = torch.tensor([[[float("nan"), 5.0], [1.0, float("inf")]]])
    assert [part.tolist() for part in match(cost)] == [[[0, 1]], [[1, 0]]]
    assert match(torch.zeros(0, 2, 3))[0].shape == (0, 2)


def test_one_matrix_alone_and_none() -> None:
    rows, columns = match(torch.tensor([[2.0, 1.0], [1.0, 9.0]]))
    assert (rows.tolist(), columns.tolist()) == ([0, 1], [1, 0])
    assert match(torch.zeros(0, 2, 3))[0].shape == (0, 2) and match(torch.zeros(2, 0, 3))[0].shape == (2, 0)
