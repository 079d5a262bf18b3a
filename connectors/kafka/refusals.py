"""What a start refuses about topic and offsets, and the sentences that say what to do."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from connectors.kafka.boxes import Place
from connectors.kafka.options import NO_ID
from streamlearn.events import Resume, StateMismatch


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
    if is_other(known, id) or resume.topic != topic:
        raise StateMismatch(
            f"topic {topic} is not the one that this state has learned from ({resume.topic}, id {known}; now "
            f"id {id}): it was deleted and made anew, or it is another; start with another source.group_id "
            "and checkpoint.folder"
        )


def is_other(known: str, id: str) -> bool:
    """Are these ids of two topics, though their name is one? Where one isn't known, nobody can say so."""
    return known != id and not {known, id} & {"", NO_ID}


def refuse_anew(topic: str, known: str, id: str, events: bool) -> None:
    """Raises StateMismatch where a topic that is read, with the id `known`, has another id by now.

    events: whether it is theirs: the state is of them. Of commands it only knows how far it has come.
    """
    if is_other(known, id):
        what = (
            "the state is of the old one, and kept; start with another source.group_id and checkpoint.folder"
            if events
            else "a new start goes on with the same state, and carries out the commands of the new one from "
            "its beginning"
        )
        raise StateMismatch(
            f"topic {topic} was deleted and made anew while it was read (id {known}, now {id}): {what}"
        )


def refuse_fewer(group: str, topic: str, committed: Collection[Place], there: Collection[Place]) -> None:
    """Raises StateMismatch where partitions of `topic` were committed that are not there any more."""
    unknown = [partition for of, partition in committed if of == topic and (of, partition) not in there]
    if unknown:
        count = sum(of == topic for of, _ in there)
        raise StateMismatch(
            f"group {group} has committed partition {unknown[0]} of {topic}, which has only {count}: the "
            "topic was made anew; start with another source.group_id and checkpoint.folder"
        )


def refuse_beyond(group: str, published: Mapping[Place, int], last: Mapping[Place, int]) -> None:
    """Raises StateMismatch where P is not in the log, which ends at `last`: outputs would be left out."""
    for (topic, partition), offset in published.items():
        end = last.get((topic, partition), offset)
        if offset > end:
            raise StateMismatch(
                f"group {group} has committed offset {offset} of {topic}:{partition}, but the log ends at "
                f"{end}: it was cut, or the offset was set by hand. `streamlearn checkpoints use ID` (with "
                "these settings) sets it to the end"
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
