# SPDX-License-Identifier: Apache-2.0
"""From which profiles plain fine-tuning can go on."""

from __future__ import annotations

import pytest

from t3s_megatron.method.branching import unlike_plain_fine_tuning
from t3s_megatron.options import all_values
from tests.support.asked import asked


def test_a_profile_that_is_measured_at_every_step_is_plain_fine_tuning():
    assert unlike_plain_fine_tuning(all_values(asked())) is None


@pytest.mark.parametrize(
    "changed",
    [{"simple": True}, {"signal": "confidence"}, {"accuracy_blocks": 2}, {"accuracy_overlap": 1},
     {"stop_after": "selection"}],
    ids=str,
)  # fmt: skip
def test_what_plain_fine_tuning_does_not_do_is_named(changed):
    said = unlike_plain_fine_tuning(all_values(asked(**changed)))
    (name,) = changed
    assert said is not None and said.startswith("--t3s-" + name.replace("_", "-"))
