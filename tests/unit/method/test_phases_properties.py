# SPDX-License-Identifier: Apache-2.0
"""What holds on every path: one candidate is enough, budgets are exact, resuming changes nothing.

Plans and accuracy curves are drawn at random. That the single candidate slot, theta_0 and the live
weights hold what each action needs is asserted inside `Walk`.
"""

from __future__ import annotations

import json
import math

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from phase_walk import Walk

from t3s_megatron.method.arguments import SIGNALS
from t3s_megatron.method.options import MethodOptions
from t3s_megatron.method.phases import Phase, PhaseMachine
from t3s_megatron.method.selection import METHODS
from tests.support.asked import asked

quick = settings(max_examples=300, suppress_health_check=[HealthCheck.filter_too_much])


@st.composite
def plans(draw) -> MethodOptions:
    method = METHODS[draw(st.sampled_from(sorted(METHODS)))]
    of_method = {"soft_temperature": 0.5, "min_probability": 0.1, "reference": ("c",)}
    given = {name: value for name, value in of_method.items() if name in method.requires}
    share = 0.25 if method.baseline and draw(st.booleans()) else None
    if "mask_share" in method.requires:
        share = 0.25
    load = "s" if method.selects and draw(st.booleans()) else None
    decided = load or share or not method.has_theta_b
    signals = [(signal, False) for signal in SIGNALS] + [("accuracy", True)]
    signal, simple = ("accuracy", False) if decided else draw(st.sampled_from(signals))
    budget = draw(st.integers(1, 9))
    no_shock = draw(st.sampled_from(["simple", "sft", "stop"]))
    fewest = budget if method.transfers else 1
    profile_iters = draw(st.integers(fewest, max(fewest, budget if no_shock == "sft" else 9)))
    last = profile_iters if method.selects else budget
    return asked(
        method.name,
        budget=budget,
        signal=signal,
        simple=simple,
        simple_step=draw(st.integers(1, last)),
        profile_iters=profile_iters,
        accuracy_interval=draw(st.integers(1, 4)),
        targeted_accuracy_interval=draw(st.integers(0, 4)),
        patience=draw(st.integers(1, 4)),
        min_delta=draw(st.sampled_from([0.0, 0.125])),
        confirm_level=draw(st.sampled_from([0.0, 0.3])),
        shock_level=draw(st.sampled_from([0.0, 0.0, 0.3])),
        accuracy_interval_coarse=draw(st.sampled_from([4, 5] if signal == "both" else [0, 4, 5])),
        no_shock=no_shock,
        selection_load=load,
        mask_share=share,
        **given,
    )


@st.composite
def curves(draw):
    """Accuracies of few values, some void; that of step 0 seldom."""
    values = st.one_of(st.integers(0, 8).map(lambda k: k / 8), st.just(math.nan))
    first = draw(st.sampled_from([*(k / 8 for k in range(9)), math.nan]))
    accuracies = [first, *draw(st.lists(values, min_size=1, max_size=12))]
    return lambda phase, step: accuracies[min(step, len(accuracies) - 1)]


@quick
@given(plans(), curves())
def test_budgets_are_exact_and_iterations_never_go_back(plan, curve):
    walk = Walk(plan, curve).run()
    assume(not walk.refused)
    machine, steps = walk.machine, walk.steps
    assert machine.total_steps == sum(steps.values()) == machine.train_iters_now
    assert steps["targeted"] in (0, plan.budget)
    if machine.goes_on_as_sft:
        assert steps == {"profile": plan.budget, "targeted": 0}
    if plan.trains_to_theta_f:
        assert steps == {"profile": plan.budget, "targeted": 0}
    if plan.simple and plan.chosen.selects:
        assert steps["profile"] == plan.simple_step
    ends = [0, *(record["last_iteration"] for record in machine.records)]
    starts = [record["first_iteration"] - 1 for record in machine.records]
    assert starts == ends[:-1] and ends[-1] == machine.total_steps


@quick
@given(plans(), curves())
def test_a_run_that_selects_does_so_once_after_its_rewind(plan, curve):
    walk = Walk(plan, curve).run()
    assume(not walk.refused)
    kinds = [action.split(": ")[1] for action in walk.trace]
    assert kinds.count("finish") == 1 and kinds[-1] == "finish"
    assert kinds.count("keep theta_0") <= 1 and kinds.count("rewind") <= 1
    selects = walk.steps["targeted"] > 0 and not plan.selection_load
    assert kinds.count("select") == selects
    if "rewind" in kinds:
        at = kinds.index("rewind")
        assert kinds[at - 1].startswith("score theta_b")
        assert kinds[at + 1 : at + 3] == ["score theta_0", "select"]


@quick
@given(plans(), curves())
def test_theta_b_is_the_lowest_measured_accuracy_of_the_profile(plan, curve):
    """Eq. 1 by brute force over the trace, where a shock decided theta_b."""
    walk = Walk(plan, curve).run()
    assume(not walk.refused)
    machine = walk.machine
    if not plan.detects or plan.min_delta or plan.chosen.transfers or machine.theta_b_step is None:
        return
    if plan.by_confidence:
        return
    if plan.shock_level:  # what is lowest may be so by chance, or be taken over too late
        return
    measured = [
        int(a.split()[1][:-1])
        for a in walk.trace
        if a.startswith("profile") and a.endswith("measure")
    ]
    finite = {step: curve("profile", step) for step in measured}
    finite = {step: a for step, a in finite.items() if math.isfinite(a)}
    lowest = min(finite.values())
    if lowest < finite[0]:
        assert machine.theta_b_step == min(s for s, a in finite.items() if a == lowest)
    else:
        assert plan.no_shock == "simple" and machine.theta_b_step == plan.simple_step


@quick
@given(plans().filter(lambda plan: plan.by_confidence and plan.detects), curves())
def test_by_confidence_theta_b_is_the_first_lowest_fall_and_nothing_is_asked(plan, curve):
    walk = Walk(plan, curve).run()
    assume(not walk.refused)
    assert not any(a.startswith("profile") and a.endswith("measure") for a in walk.trace)
    scored = [int(a.split()[1][:-1]) for a in walk.trace if a.endswith(": score")]
    assert scored == list(range(scored[-1] + 1))
    falls = {step: walk.fall(step) for step in scored[1:]}
    lowest = min(falls.values())
    if lowest < 0:
        assert walk.machine.theta_b_step == min(s for s, f in falls.items() if f == lowest)
    elif plan.no_shock == "simple":
        assert walk.machine.theta_b_step == plan.simple_step


@quick
@given(plans(), curves())
def test_a_run_is_refused_when_its_start_or_all_that_it_goes_by_says_nothing(plan, curve):
    """Anything else goes on with void measurements, and ends."""
    walk = Walk(plan, curve).run()
    measured = [action.split(": ")[0].split() for action in walk.trace if "measure" in action]
    found = {(phase, int(step)): curve(phase, int(step)) for phase, step in measured}
    # That of theta_0 before the first step of the run, if it is measured there: where nothing
    # measures the profile, the first measurement comes after it, and is one of many.
    began = walk.trace[0].split()[0]
    first = [a for (phase, step), a in found.items() if step == 0 and phase == began][:1]
    seeks = plan.detects and plan.measures_profile
    useless = [math.isnan(a) or (seeks and a <= plan.min_delta) for a in first]
    later = [a for (phase, step), a in found.items() if step and phase == "profile"]
    blind = seeks and bool(later) and all(map(math.isnan, later))
    assert bool(walk.refused) == (any(useless) or blind)
    assert (walk.machine.phase is Phase.DONE) == (not walk.refused)


@quick
@given(plans(), curves())
def test_a_run_that_dies_at_every_point_makes_the_same_run(plan, curve):
    whole = Walk(plan, curve).run()
    resumed = Walk(plan, curve, resume_at=lambda event: True).run()
    assert resumed.trace == whole.trace and resumed.log == whole.log
    assert resumed.refused == whole.refused
    assert resumed.machine.records == whole.machine.records
    assert resumed.machine.state_dict() == whole.machine.state_dict()


@settings(max_examples=40)
@given(plans(), curves())
def test_a_run_that_dies_once_makes_the_same_run_wherever_that_is(plan, curve):
    whole = Walk(plan, curve).run()
    for point in range(whole.events):
        resumed = Walk(plan, curve, resume_at=lambda event, point=point: event == point).run()
        assert (resumed.trace, resumed.log) == (whole.trace, whole.log), f"died at event {point}"


@quick
@given(plans())
def test_a_state_is_a_copy(plan):
    """A checkpoint that is written later must not change with the run."""
    walk = Walk(plan)
    state = walk.machine.state_dict()
    frozen = json.dumps(state)
    walk.run()
    assert json.dumps(state) == frozen
    PhaseMachine(plan).load_state_dict(state)
