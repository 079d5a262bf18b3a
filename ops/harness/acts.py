"""What is done to the workers and the broker. Each act leaves a group that goes on, or is started again."""

from __future__ import annotations

import time
from collections.abc import Callable

from ops.harness.campaign import BROKER_SECONDS, WORK_SECONDS, Act, Campaign
from ops.harness.life import HarnessError
from ops.harness.member import Member
from ops.harness.place import scan

WRITE_SECONDS, TRANSACTION_SECONDS = 5.0, 5.0
"""For so long a moment is waited for; then it is killed anyway."""
LONGEST_DELAY = 2.0


def act(campaign: Campaign, kind: str, aim: str = "", seconds: float = 0.0) -> Act:
    """Do it. Raises HarnessError."""
    begun = time.monotonic()
    done = Act(kind, aim)
    _ACTS[kind](campaign, done, seconds)
    done.seconds = round(time.monotonic() - begun, 2)
    return done


def _at_work(campaign: Campaign) -> tuple[Member, int]:
    """A learner whose outputs grow, and P when it was first looked at."""
    while True:
        member = campaign.learner()
        before = campaign.committed().total
        campaign.feed()
        if campaign.worked(member, before):
            return member, before


def _kill(campaign: Campaign, done: Act, _: float) -> None:
    dice = campaign.dice
    if done.aim == "reading again":
        # What it reads first, it reads for the second time.
        member = campaign.learner()
        before = campaign.committed().total
        campaign.feed()
        campaign.wait(dice.uniform(0, 0.3))
    else:
        member, before = _at_work(campaign)
    if done.aim == "progress":
        left = campaign.fed - campaign.committed().total
        campaign.wait(dice.uniform(0, min(LONGEST_DELAY, 0.8 * left / max(1.0, campaign.rate))))
    elif done.aim == "write":
        suffix = dice.choice([".tmp", ".memory.tmp", ".parts.tmp", ".json.tmp", ".json.tmp"])
        _moment(member, lambda: any(e.name.endswith(suffix) for e in scan(member.folder)), WRITE_SECONDS)
        if dice.random() < 0.5:
            time.sleep(dice.uniform(0, 0.005))
    elif done.aim == "transaction":
        name = campaign.group.name
        _moment(member, lambda: campaign.asker.in_transaction(name), TRANSACTION_SECONDS)
        time.sleep(dice.choice([0.0, dice.uniform(0, 0.03)]))
    _killed(campaign, done, member, before)
    campaign.reap()
    if campaign.members and dice.random() < 0.5:
        campaign.start()  # at once: it is known again, and those that stand by go on doing so


def _moment(member: Member, what: Callable[[], bool], seconds: float) -> None:
    """Wait for a moment of a few milliseconds, without rest."""
    deadline = time.monotonic() + seconds
    while not what() and member.status is None and time.monotonic() < deadline:
        pass


def _killed(campaign: Campaign, done: Act, member: Member, before: int) -> None:
    """Kill it, and see what it was in."""
    member.kill()
    done.epoch = member.epoch
    done.during = member.was_in()
    done.in_transaction = campaign.asker.in_transaction(campaign.group.name)
    campaign.promised()
    now = campaign.committed().total
    done.records = now - before
    unfinished = now < campaign.fed or done.in_transaction or done.in_write
    done.counted = member.status == -9 and done.records > 0 and unfinished


def _start_up(campaign: Campaign, done: Act, _: float) -> None:
    """Killed somewhere between its start and its being ready."""
    usual = sorted(campaign.start_seconds)[len(campaign.start_seconds) // 2 :][:1] or [3.0]
    member = campaign.start()
    campaign.wait(campaign.dice.uniform(0, 1.2 * usual[0]))
    member.kill()
    if not campaign.members:
        campaign.promised()


def _terminate(campaign: Campaign, done: Act, _: float) -> None:
    member, _before = _at_work(campaign)
    status = campaign.end(member)
    done.epoch, done.survived = member.epoch, False
    if status != 0:
        raise HarnessError(f"{member.log}: status {status} after SIGTERM while the broker was there")


def _broker_kill(campaign: Campaign, done: Act, _: float) -> None:
    member, _before = _at_work(campaign)
    campaign.feed()
    campaign.broker.kill()
    campaign.asker.forget()
    campaign.broker.start(BROKER_SECONDS)
    _goes_on(campaign, done, member)


def _absence(campaign: Campaign, done: Act, seconds: float) -> None:
    """The broker is gone, or hangs, for so long; aim: killed / frozen / killed, worker too."""
    member, before = _at_work(campaign)
    campaign.feed()
    now = campaign.committed().total
    done.records, unfinished = now - before, now < campaign.fed
    frozen = done.aim == "frozen"
    if frozen:
        campaign.broker.freeze()
    else:
        campaign.broker.kill()
    campaign.asker.forget()
    if done.aim == "killed, worker too":
        early = campaign.dice.uniform(seconds / 4, seconds / 2)
        campaign.wait(early)
        member.kill()
        campaign.start()
        campaign.wait(seconds - early)  # the new one waits for a minute, its source.deadline
    else:
        campaign.wait(seconds)
    if frozen:
        campaign.broker.thaw()
    else:
        campaign.broker.start(BROKER_SECONDS)
    # Nothing became visible meanwhile: it was in the middle of something when it was killed.
    done.counted = member.killed and member.status == -9 and unfinished
    _goes_on(campaign, done, member)


def _goes_on(campaign: Campaign, done: Act, member: Member) -> None:
    """Wait for progress, by whichever worker."""
    now = campaign.committed().total
    if now == campaign.fed:
        campaign.feed()
    campaign.until(
        lambda: (campaign.members or [campaign.start()]) and campaign.committed().total > now,
        WORK_SECONDS,
        "nothing goes on",
    )
    done.epoch = done.epoch or member.epoch
    done.survived = member in campaign.members


def _stop(campaign: Campaign, done: Act, _: float) -> None:
    """The learner is stopped for longer than its session; another takes over; then it wakes up."""
    campaign.learner()
    second = campaign.standby()
    member, _before = _at_work(campaign)
    others = [m for m in campaign.members if m is not member]
    if not others:
        raise HarnessError(f"{second.name} didn't stay to stand by")
    if campaign.dice.random() < 0.5:
        _moment(member, lambda: campaign.asker.in_transaction(campaign.group.name), TRANSACTION_SECONDS)
    member.freeze()
    done.epoch = member.epoch
    successor = campaign.learner()
    done.taken_over = True
    now = campaign.committed().total
    campaign.feed()
    campaign.worked(successor, now)
    now = campaign.committed().total
    member.thaw()
    # It may not go on: what it holds is another worker's by now.
    campaign.until(lambda: member not in campaign.members, WORK_SECONDS, f"{member.name} went on as a zombie")
    campaign.feed()
    _goes_on(campaign, done, successor)


def _standby(campaign: Campaign, done: Act, _: float) -> None:
    """A standby joins, which the learner must not mind; then one of the two is killed or ended."""
    dice = campaign.dice
    member, _before = _at_work(campaign)
    second = campaign.standby()
    now = campaign.committed().total
    campaign.feed()
    done.survived = campaign.worked(member, now)
    done.epoch = member.epoch
    if second not in campaign.members or member not in campaign.members:
        return
    aim = done.aim or dice.choice(["standby killed", "standby ended", "learner killed"])
    done.aim = aim
    if aim == "standby killed":
        second.kill()
    elif aim == "standby ended":
        campaign.end(second)
    else:
        member, before = _at_work(campaign)
        _killed(campaign, done, member, before)
        successor = campaign.learner()
        done.taken_over = successor is second
    _goes_on(campaign, done, campaign.learner())


_ACTS: dict[str, Callable[[Campaign, Act, float], None]] = {
    "kill": _kill,
    "start-up": _start_up,
    "SIGTERM": _terminate,
    "broker kill": _broker_kill,
    "absence": _absence,
    "stop": _stop,
    "standby": _standby,
}
