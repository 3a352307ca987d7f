"""The two waves of a comparison: its arms, and then the baselines that train for as long as the arms took."""

from __future__ import annotations

from dataclasses import replace

from eyas.comparison.equal_time import decide, missing_baselines, read_decided, write_decided
from eyas.comparison.plan import Plan, refuse_patience
from eyas.comparison.trainings import threads_so_far, train_missing


def with_decided(plan: Plan) -> Plan:
    """The plan with the baselines of equal time that an earlier call decided."""
    return plan.adding(missing_baselines(plan.arms, read_decided(plan.out)))


def train_in_waves(
    plan: Plan, *, equal_time: bool, jobs: int | None = None, threads: int | None = None
) -> dict[str, str]:
    """Train what is not finished; then, with ``equal_time``, decide on baselines of equal time and train them.

    Args:
        plan: the plan of the comparison.
        equal_time: whether there are to be baselines of equal time.
        jobs, threads: as for `train_missing`; without either, threads are those of the trainings before.

    Returns:
        Run name -> what went wrong with it.

    Raises:
        EyasError: the existing runs had another teacher or other options, or runs of equal time could end early.
    """
    if equal_time:
        refuse_patience(plan.arms, "--equal_time")
    plan = with_decided(plan) if equal_time else plan

    def train(some: Plan) -> dict[str, str]:
        before = threads_so_far(plan) if threads is None and jobs is None else None
        return train_missing(some, jobs=jobs, threads=threads or before)

    failed = train(plan)
    if not equal_time:
        return failed
    before = read_decided(plan.out)
    decided = decide(plan.arms, plan.times(), len(plan.seeds), before)
    write_decided(plan.out, decided)
    for each in decided[len(before) :]:
        print(f"equal time: {each}")
    second = plan.adding(missing_baselines(plan.arms, decided)).arms[len(plan.arms) :]
    return failed | train(replace(plan, arms=second)) if second else failed
