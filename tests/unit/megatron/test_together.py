# SPDX-License-Identifier: Apache-2.0
"""What one rank cannot do, all of them hear of."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from t3s_megatron.errors import MismatchError, WriteError

pytestmark = pytest.mark.child(processes=2)


def test_results_in_rank_order_on_every_rank():
    from t3s_megatron.megatron import layout

    assert layout.together(lambda: f"of {dist.get_rank()}") == ["of 0", "of 1"]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("error", "raised"), [(MismatchError("damaged"), MismatchError), (OSError("full"), WriteError)]
)
def test_the_error_of_one_is_raised_on_all(rank, error, raised):
    from t3s_megatron.megatron import layout

    def work():
        if dist.get_rank() == rank:
            raise error

    with pytest.raises(raised, match=str(error)):
        layout.together(work)
    assert layout.together(dist.get_rank) == [0, 1], "out of step"
