"""`streamlearn checkpoints` and `streamlearn methods`: what is there, on standard output."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

from streamlearn import cuts, packs
from streamlearn.broker_commands import split
from streamlearn.checkpoint import (
    CheckpointStore,
    Damaged,
    Locked,
    Manifest,
    NothingWhole,
    Withdrawn,
    WrongFormat,
)
from streamlearn.events import ConnectorError, GroupSource, StateMismatch, UsageError
from streamlearn.flags import load_settings
from streamlearn.logs import complain, setup
from streamlearn.parts import sealed
from streamlearn.settings import Settings, SettingsError

VERBS = ("list", "show", "verify", "use")
REFUSED, UNREACHABLE, NOT_WRITABLE = 3, 4, 6


def checkpoints(words: Sequence[str]) -> int:
    """List, show, verify or go back to checkpoints. Returns the exit status."""
    given = split(words, {"json", "skip-lost"}, ())
    plain, as_json, skip = given.plain, "json" in given.own, "skip-lost" in given.own
    if not plain or plain[0] not in VERBS:
        raise SettingsError(f"streamlearn checkpoints wants one of {', '.join(VERBS)}")
    verb, *rest = plain
    if skip and verb != "use":
        raise SettingsError("--skip-lost belongs to `streamlearn checkpoints use`")
    settings = load_settings(given.settings, os.environ)
    if settings.log.format == "json":
        setup(settings.log.level, settings.log.format)
    # In either order: an id and a folder can't be mistaken for each other.
    name = next((word for word in rest if _is_id(word) and not os.path.isdir(word)), None)
    if name is not None:
        rest.remove(name)
    if len(rest) > 1:
        odd = next((word for word in rest if not os.path.isdir(word)), rest[1])
        raise SettingsError(f"{odd!r} is no checkpoint id (they look like 000001-000004-9f3a1c2b)")
    folder = rest[0] if rest else settings.checkpoint.folder
    if not os.path.isdir(folder):
        raise SettingsError(f"{folder} is no folder: give the state folder, or set checkpoint.folder")
    store = CheckpointStore(folder, settings.checkpoint.keep)
    try:
        if verb == "use":
            return _use(settings, store, name, as_json, skip)
        return {"list": _list, "show": _show, "verify": _verify}[verb](store, name, as_json)
    except (Damaged, NothingWhole, Withdrawn, WrongFormat, Locked, StateMismatch) as error:
        complain(str(error))
        return REFUSED
    except UsageError as error:
        raise SettingsError(str(error)) from error
    except ConnectorError as error:
        complain(str(error))
        return UNREACHABLE
    except BrokenPipeError:
        raise  # whoever read our standard output is gone: `main` knows what to do
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}")
        return NOT_WRITABLE


def _is_id(word: str) -> bool:
    return word.count("-") == 2 and os.sep not in word


def _newest(store: CheckpointStore) -> Manifest:
    """The newest whole checkpoint, beside a worker that writes and prunes. Raises NothingWhole."""
    damaged: dict[str, str] = {}
    names = store.names()
    while names:
        for name in names:
            try:
                return store.verify(name)
            except Damaged as error:
                if _stands(store, name):
                    damaged.setdefault(name, str(error))
                    complain(f"checkpoint {name} is damaged: {error}")
        # All others were pruned while they were read: then there are newer ones.
        names = [name for name in store.names() if name not in damaged]
    if damaged:
        last = list(damaged.values())[-1]
        raise NothingWhole(f"none of the {len(damaged)} checkpoints in {store.folder} is whole; {last}")
    raise NothingWhole(f"there is no checkpoint in {store.folder}")


def _stands(store: CheckpointStore, name: str) -> bool:
    """Is it still there? A worker at work prunes, manifests first: what has gone is not damaged."""
    return name in store.names()


def _row(manifest: Manifest, store: CheckpointStore) -> dict[str, Any]:
    body = manifest.body
    return {
        "id": manifest.id,
        "created": body["created"],
        "epoch": body["epoch"],
        "step": body["step"],
        "events_learned": body["events_learned"],
        "events_held_out": body["events_held_out"],
        "events_forgotten": body.get("events_forgotten", 0),
        "known_classes": len(body["classes"]),
        "offsets": body.get("position", {}).get("offsets", {}),
        "bytes": store.size(manifest),
    }


def _list(store: CheckpointStore, name: str | None, as_json: bool) -> int:
    rows: list[dict[str, Any]] = []
    for each in store.names() if name is None else [name]:
        try:
            rows.append(_row(store.read(each), store))
        except (Damaged, WrongFormat, FileNotFoundError) as error:
            if each == name or _stands(store, each):
                rows.append({"id": each, "damaged": str(error)})
    if as_json:
        print(json.dumps(rows, indent=1))
        return 0
    if not rows:
        print(f"there is no checkpoint in {store.folder}")
    for row in rows:
        if "damaged" in row:
            print(f"{row['id']}  DAMAGED: {row['damaged']}")
            continue
        offsets = ", ".join(f"{t}:{p}:{o}" for t, by in row["offsets"].items() for p, o in by.items())
        print(
            f"{row['id']}  {row['created']}  step {row['step']}  learned {row['events_learned']}  "
            f"held out {row['events_held_out']}  "
            f"classes {row['known_classes']}  next {offsets or 'start'}  {row['bytes'] / 1e6:.1f} MB"
        )
    return 0


def _show(store: CheckpointStore, name: str | None, as_json: bool) -> int:
    manifest = store.verify(name) if name else _newest(store)
    body = manifest.body
    parts = {part: entry["sha256"] for part, entry in sorted(body["parts"].items())}
    shown = _row(manifest, store) | {
        "classes": body["classes"],
        "outputs": body.get("outputs", {}),
        "copy_of": body.get("copy_of"),
        "runtime": body["runtime"],
        "settings": body["settings"],
        **({"ledger": body["ledger"]} if "ledger" in body else {}),
        "parts": parts,
    }
    if as_json:
        print(json.dumps(shown, indent=1, ensure_ascii=False))
        return 0
    for key, value in shown.items():
        if key not in ("parts", "settings", "classes"):
            print(f"{key:<15} {value}")
    print(f"{'classes':<15} {', '.join(body['classes'][:20])}{' …' if len(body['classes']) > 20 else ''}")
    print("parts")
    for part, digest in parts.items():
        print(f"  {part:<13} {digest}")
    return 0


def _verify(store: CheckpointStore, name: str | None, as_json: bool) -> int:
    results = []
    for each in [name] if name else store.names():
        try:
            _read_every_byte(store, each)
            results.append({"id": each, "whole": True, "problem": None})
        except (Damaged, WrongFormat) as error:
            if each == name or _stands(store, each):
                results.append({"id": each, "whole": False, "problem": str(error)})
    damage: list[str] = []
    if not name:
        cuts.read(store, damage.append)
    results += [{"id": cuts.NAME, "whole": False, "problem": problem} for problem in damage]
    if as_json:
        print(json.dumps(results, indent=1))
    elif not results:
        print(f"there is no checkpoint in {store.folder}")
    else:
        for result in results:
            print(f"{result['id']}  {'whole' if result['whole'] else 'DAMAGED: ' + str(result['problem'])}")
    return 0 if all(result["whole"] for result in results) else REFUSED


def _read_every_byte(store: CheckpointStore, name: str) -> None:
    """Also those that no state needs: superseded segments of packs, white space. Raises Damaged."""
    manifest = store.verify(name)
    for pack, digest in zip(manifest.body["packs"], manifest.body["pack_sha256"], strict=True):
        packs.check(manifest.path.parent / f"{pack}.memory", digest)
    try:
        raw = manifest.path.read_bytes()
    except OSError as error:
        raise Damaged(f"{manifest.path}: {error.strerror}") from error
    if raw != sealed(manifest.body):
        raise Damaged(f"{manifest.path}: not byte for byte what was written")


def _use(settings: Settings, store: CheckpointStore, name: str | None, as_json: bool, skip: bool) -> int:
    if name is None:
        raise SettingsError("streamlearn checkpoints use wants the ID of a checkpoint (`list` shows them)")
    store.lock()
    source: GroupSource | None = None
    try:
        chosen = store.verify(name)
        source = _group(settings, chosen)
        made: list[Manifest] = []

        def make(least: int, begin: Mapping[str, Mapping[int, int]]) -> tuple[str, int]:
            made.append(store.use(name, least, _moved(chosen.body["position"], begin) if begin else None))
            return made[0].id, made[0].epoch

        published = None
        if source is not None:
            from streamlearn.durable import resume_of  # (only here: others need not wait for it)

            published = source.use(name, resume_of(chosen), _reached(store), make, skip)
        else:
            if skip:
                raise SettingsError("--skip-lost is for checkpoints of a Kafka topic")
            make(0, {})
    finally:
        if source is not None:
            source.close()
        store.unlock()
    manifest = made[0]
    if as_json:
        more = {} if published is None else {"published": {str(p): o for p, o in published.items()}}
        print(json.dumps({"id": manifest.id, "copy_of": name, **more}))
    else:
        print(f"{manifest.id} is now the newest, a copy of {name}: the next run goes on from it")
        if published is not None:
            print(f"the group's commit names it; outputs of records below {published} don't come again")
    return 0


def _moved(position: Mapping[str, Any], begin: Mapping[str, Mapping[int, int]]) -> dict[str, Any]:
    """A place to go on from, with C raised to `begin`."""
    offsets = {topic: dict(by) for topic, by in position["offsets"].items()}
    cursors = dict(position["cursors"])
    for topic, by_partition in begin.items():
        raised = {str(partition): offset for partition, offset in by_partition.items()}
        offsets[topic] |= raised
        if topic == position["topic"]:
            cursors |= raised
    return {**position, "offsets": offsets, "cursors": cursors}


def _group(settings: Settings, manifest: Manifest) -> GroupSource | None:
    """The source whose group's commit has to name the checkpoint. Raises SettingsError if it isn't given."""
    if "topic_id" not in manifest.body.get("position", {}).get("fingerprint", {}):
        return None
    if settings.source.topic is None:
        raise SettingsError(
            f"{manifest.id} was taken of a Kafka topic, and the group's commit has to name it: give the "
            "worker's settings too (--config FILE, or --source.bootstrap_servers, --source.topic, …)"
        )
    from streamlearn.wiring import make_sink, make_source  # (only here: others need not wait for it)

    source = make_source(settings)
    if not getattr(make_sink(settings, source), "grouped", False):
        return None
    return cast(GroupSource, source)


def _reached(store: CheckpointStore) -> list[tuple[str, dict[str, dict[int, int]], str]]:
    """Of every checkpoint, newest first: id, C by topic and partition, the id of the topic of commands."""
    reached = []
    for name in store.names():
        try:
            place = store.read(name).body["position"]
        except (Damaged, WrongFormat, KeyError):
            continue
        offsets = {topic: {int(p): at for p, at in by.items()} for topic, by in place["offsets"].items()}
        reached.append((name, offsets, str(place.get("commands_id", ""))))
    return reached


def methods(words: Sequence[str]) -> int:
    """Print the methods and modifiers, a line each, their parameters below."""
    if words:
        raise SettingsError("streamlearn methods takes no arguments")
    from streamlearn import methods as method_files
    from streamlearn import modifiers as modifier_files
    from streamlearn.method import available

    for title, kind in (("methods", method_files), ("modifiers", modifier_files)):
        print(title)
        for name, cls in available(kind).items():
            print(f"  {name:<18} {cls.summary} ({cls.paper})")
            for parameter, field in cls.Params.model_fields.items():
                print(
                    f"  {'':<18}   --method.{name}.{parameter} (default {field.default}): {field.description}"
                )
    return 0
