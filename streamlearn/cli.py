"""The command line: `streamlearn COMMAND [--section.name VALUE ...]`.

Only what a command needs is imported: `--help` answers before torch is loaded.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from streamlearn import __version__
from streamlearn.settings import SettingsError
from streamlearn.settings_help import settings_help

USAGE = 2


class Command(NamedTuple):
    arguments: str
    summary: str
    module: str
    function: str
    more: str = ""


COMMANDS = {
    "demo": Command(
        "",
        "learn the handwritten digits, class after class, with and without replay; no broker needed",
        "streamlearn.demo",
        "demo",
        "Stopped by a signal, it shows the table so far and writes no report.",
    ),
    "run": Command(
        "",
        "the worker: read events, predict, learn, checkpoint, until the source ends or a signal comes",
        "streamlearn.start",
        "run",
    ),
    "check": Command(
        "",
        "validate settings, reach source and sink, say what `run` would do; changes nothing",
        "streamlearn.check",
        "check",
    ),
    "checkpoints": Command(
        "list|show|verify|use [DIR] [ID] [--json] [--skip-lost]",
        "what the state folder holds, whether it is whole; `use` goes back to an older checkpoint",
        "streamlearn.inspect",
        "checkpoints",
        "DIR is the state folder (default: checkpoint.folder of the settings), ID a checkpoint\n"
        "(default: the newest whole one; `use` wants one).\n"
        "  list    every checkpoint, newest first\n"
        "  show    id, step, events learned, offsets, classes, and the SHA-256 of every part\n"
        "  verify  read every byte of ID, or of all and of cuts.jsonl; status 3 if one is damaged\n"
        "  use     make ID the newest, so that the next `run` goes on from it; no worker may be running\n"
        "  --skip-lost  with `use`, on Kafka: leave out the records behind ID that the topic has lost\n"
        "  --json  for machines",
    ),
    "bench": Command(
        "[--tune] [--table] [--unequal] [--format text|markdown|json] [--results FILE]",
        "run a benchmark settings file: streams x rows x memory x budgets x seeds; table, curves, report",
        "streamlearn.bench",
        "bench",
        "--config NAME.toml holds the sections of `run`, for all runs, and tables of its own:\n"
        "  [bench]     budgets, memory, seeds (lists), baseline (a row), interval, test_per_class,\n"
        "              split (test|validation), validation, tolerance, unequal, processes\n"
        "  [[streams]] dataset, name, order, groups, classes, per_class or change_every, limit, blur,\n"
        "              repeats\n"
        "  [[rows]]    name, any settings of its own (method.name, model.head, ...), reference\n"
        "  [[tables]]  streams, rows, budgets, memory, seeds: several tables, each with its own\n"
        "  [tune]      seeds, grid (a setting: values), grids (by row), and what [[tables]] have\n"
        "What [bench] holds can also be said as --bench.NAME VALUE or STREAMLEARN_BENCH__NAME.\n"
        "Each run is a learner of its own process. A finished one is a line of the results, on disk; the\n"
        "same command does what is missing, after a kill too. A result counts while all settings of its\n"
        "run are the same (the table says so where code or machines are mixed).\n"
        "  --tune      try the settings of [tune] on its seeds, predicting training data set aside\n"
        "  --table     show what the results hold, run nothing\n"
        "  --unequal   rank rows whose memory or images per event differ\n"
        "  --format    text (default), markdown or json, on standard output\n"
        "  --results   default: results/NAME.jsonl beside the file (with --tune NAME.tune.jsonl)\n"
        "  --report    folder for report.html, summary.json and curves.csv, one for each table\n"
        "Status 1: some runs failed (the others are kept); 2 also: a table that compares unequals.",
    ),
    "publish": Command(
        "FILE|DATASET [--rate N] [--limit N] [--key FIELD] [--format json|msgpack] [--progress FILE] "
        "[--again]",
        "send the events of a file or a data set to the events topic, each exactly once, over any kill",
        "streamlearn.publish",
        "publish",
        "FILE is what --source.path takes (JSON lines, msgpack, CSV, NPZ, each also gzip; - is standard\n"
        "input), DATASET what --source.dataset takes. It goes to --source.topic. Lines and msgpack objects\n"
        "go out as their bytes; a CSV row as a JSON object with the column names, rows of arrays and of\n"
        "images as msgpack. An event's time (codec.time) becomes its Kafka timestamp.\n"
        "Events and how far it came are committed together: stopped, killed or cut off, the same command\n"
        "sends what is missing. Readers see each event once if they read `read_committed`, as\n"
        "`streamlearn run` does (many tools want isolation.level set to it).\n"
        "  --rate      events a second, at most (default 0: as fast as it goes)\n"
        "  --limit     so many events of the input, counting those that were sent before (default: all)\n"
        "  --key       path of the field that becomes the Kafka key (default: none)\n"
        "  --format    of rows: json or msgpack (default: json where it holds them)\n"
        "  --progress  names the publication; default: by input and topic, noted in\n"
        "              $XDG_STATE_HOME/streamlearn/publish; standard input goes on only with one\n"
        "  --again     from the start, whatever was sent before\n"
        "Status 3: the input is not the one that was sent before, or Kafka forgot how far it came;\n"
        "4 also: the broker was away for longer than source.patience.",
    ),
    "topics": Command(
        "[--check] [--partitions N] [--replication N]",
        "create the Kafka topics that a worker needs, or check them",
        "streamlearn.topics",
        "topics",
        "The topics are those of the settings: source.topic, source.commands, sink.predictions,\n"
        "sink.dead_letters and sink.answers, by default TOPIC, GROUP_ID.commands, TOPIC.predictions,\n"
        "TOPIC.dead_letters and GROUP_ID.answers. What is there already stays as it is.\n"
        "  --check        create nothing; status 4 if a topic is missing\n"
        "  --partitions   of a new events topic (default 1); new predictions and dead letters get as many\n"
        "                 as the events have, commands and answers one\n"
        "  --replication  copies of each partition of new topics (default: the broker's)\n"
        "Status 2 also: a topic is there and can't be used as it is.",
    ),
    "tell": Command(
        "checkpoint|pause|resume|forget [ID] [--timeout SECONDS] [--json]",
        "send a command to a running worker on Kafka, and wait for its answer",
        "streamlearn.tell",
        "tell",
        "  checkpoint  take one now\n"
        "  pause       read no more events, until `resume`; survives a restart\n"
        "  resume      go on\n"
        "  forget ID   the example leaves memory, held-out sets and older checkpoints; what the weights\n"
        "              have learned of it stays. An ID that begins with --: `forget --id=--x`, or, behind\n"
        "              all flags, `forget -- --x`\n"
        "The answer comes once a checkpoint that holds the effect is durable and committed, so it will not\n"
        "be undone. Give the worker's settings: --source.bootstrap_servers, --source.group_id, ….\n"
        "  --timeout   seconds to wait for it (60)\n"
        "  --json      the answer as it came\n"
        "Status 4: no broker, or no answer in time (the command stands, and will be carried out by the next\n"
        "worker of the group, unless that is its first start, which skips it).",
    ),
    "methods": Command(
        "",
        "the learning methods and modifiers, with their parameters and papers",
        "streamlearn.inspect",
        "methods",
    ),
}

STOPPABLE = ("run", "publish", "demo")
"""Commands that a signal ends in order."""

STATUS = """Exit status:
  0  done, or stopped by SIGINT or SIGTERM: `run` after a checkpoint, `demo` with its table so far
  1  unexpected error
  2  settings or usage
  3  state refused: checkpoint, offsets or fingerprint disagree; the message says what to do
  4  source or sink not reachable
  5  too many dead letters in a row
  6  disk full, or checkpoint not writable for longer than checkpoint.patience
  7  fenced: another worker or publisher took over, or the broker's transaction timeout passed"""


class StopSignals:
    """SIGINT and SIGTERM ask STOPPABLE to stop; a second one of them ends the process at once.

    In place before torch is imported, which takes seconds, and until the process has ended.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        """The first signal that came."""
        self._told: Callable[[signal.Signals], None] | None = None
        self._before: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        self.asked = self._told = None
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._first)

    def restore(self) -> None:
        """Everything as it was before `install`."""
        self.asked = self._told = None
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def ignore(self) -> None:
        """For the very end: Python puts the defaults back, which would make up another exit status."""
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    def tell(self, told: Callable[[signal.Signals], None] | None) -> None:
        """From now on `told` is called with the first signal; at once if it has come already."""
        self._told = told
        if self.asked is not None and told is not None:
            told(self.asked)

    def _first(self, number: int, _: object) -> None:
        for name in self._before:
            signal.signal(name, signal.SIG_DFL)
        self.asked = signal.Signals(number)
        if self._told is not None:
            self._told(self.asked)


STOP = StopSignals()


def overview() -> str:
    lines = [f"streamlearn {__version__}: a daemon that never stops learning", ""]
    lines += ["usage: streamlearn COMMAND [--config FILE] [--section.name VALUE ...]", ""]
    width = max(map(len, COMMANDS))
    lines += [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    lines += ["", "streamlearn COMMAND --help says more.", "", STATUS, "", settings_help()]
    return "\n".join(lines)


def command_help(name: str) -> str:
    command = COMMANDS[name]
    lines = [
        f"usage: streamlearn {name} {command.arguments}{' ' if command.arguments else ''}"
        "[--config FILE] [--section.name VALUE ...]",
        "",
        command.summary,
    ]
    if command.more:
        lines += ["", command.more]
    return "\n".join([*lines, "", STATUS, "", settings_help()])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    flags = words[1:]
    stoppable = bool(words) and words[0] in STOPPABLE
    if stoppable:
        STOP.install()
        if argv is None:
            atexit.register(STOP.ignore)
    try:
        status = _main(words)
        sys.stdout.flush()
        return status
    except SettingsError as error:
        _refuse(flags, str(error))
        return USAGE
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our standard output is gone; nothing more can be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 4
    finally:
        if stoppable and argv is not None:
            STOP.restore()


def _refuse(flags: list[str], text: str) -> None:
    """Say why the settings can't be used, also where they never came to set up the log."""
    from streamlearn.flags import log_format
    from streamlearn.logs import complain, setup

    if log_format(flags, os.environ) == "json":
        setup(format="json")
    complain(text)


def _main(words: list[str]) -> int:
    if not words or words[0] in ("--help", "-h", "help"):
        print(overview())
        return 0 if words else USAGE
    if words[0] in ("--version", "-V"):
        print(f"streamlearn {__version__}")
        return 0
    name = words.pop(0)
    if name not in COMMANDS:
        from difflib import get_close_matches

        near = get_close_matches(name, COMMANDS, 1)
        hint = f": did you mean {near[0]}?" if near else f"; there is {', '.join(COMMANDS)}"
        raise SettingsError(f"there is no command {name!r}{hint}")
    flags = words[: words.index("--")] if "--" in words else words
    if "--help" in flags or "-h" in flags:
        print(command_help(name))
        return 0
    from importlib import import_module

    command = COMMANDS[name]
    function: Callable[[list[str]], int] = getattr(import_module(command.module), command.function)
    return function(words)
