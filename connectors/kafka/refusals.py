"""What a start refuses about topic and offsets, and the sentences that say what to do."""

from __future__ import annotations

from connectors.kafka.boxes import Place
from streamlearn.events import Resume, StateMismatch

NO_ID = "00000000-0000-0000-0000-000000000000"
"""What a broker says that knows no ids."""


def refuse_other(resume: Resume, topic: str, id: str) -> None:
    """Raises StateMismatch where the state was taken of another source than the topic with that id."""
    if not resume.fingerprint:
        return  # a first start
    known = resume.fingerprint.get("topic_id")
    if known is None:
        raise StateMismatch(
            f"the state was taken of another kind of source than topic {topic}: start with another "
            "--checkpoint.folder"
        )
    if known != id or resume.topic != topic:
        raise StateMismatch(
            f"topic {topic} is not the one that this state has learned from ({resume.topic}, id {known}; now "
            f"id {id}): it was deleted and made anew, or it is another; start with another source.group_id "
            "and checkpoint.folder"
        )


def refuse_anew(topic: str, known: str, id: str) -> None:
    """Raises StateMismatch where a topic that is read, with the id `known`, has another id by now."""
    if known != id and NO_ID not in (known, id):
        raise StateMismatch(
            f"topic {topic} was deleted and made anew while it was read (id {known}, now {id}): the state is "
            "of the old one, and kept; start with another source.group_id and checkpoint.folder"
        )


def refuse_outside(place: Place, at: int, first: int, last: int) -> None:
    """Raises StateMismatch where offset `at` is not in the log, which begins at `first`, ends at `last`."""
    if first <= at <= last:
        return
    topic, partition = place
    if at < first:
        # Which of them were marks nobody knows any more.
        what = f"the log begins at {first}: retention has passed it, up to {first - at} records are gone"
        what += " (marks of transactions count too)"
        way = "`streamlearn checkpoints use ID --skip-lost` (with these settings) goes on without them, or"
    else:
        what, way = f"the log ends at {last}: it was cut or made anew", "bring the records back, or"
    raise StateMismatch(
        f"the state goes on at offset {at} of {topic}:{partition}, but {what}. Nothing was skipped: {way} "
        "start with another source.group_id and checkpoint.folder"
    )
