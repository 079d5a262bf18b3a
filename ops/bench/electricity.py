"""Electricity (Harries 1999: 45,312 half-hours, real drift) through the CSV source, in its own order.

A real `streamlearn run` with default settings, beside River's logistic regression behind a standard scaler
(each event predicted, then learned) and beside "the previous label".
"""

from __future__ import annotations

import csv
import itertools
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ops.bench.common import (
    arguments,
    data_dir,
    made_with,
    needed,
    say,
    streamlearn,
    table,
    work_dir,
    write,
)

LABEL = "class"


def rows(path: Path) -> Iterator[tuple[dict[str, float], str]]:
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            label = row.pop(LABEL)
            yield {name: float(value) for name, value in row.items()}, label


def river_accuracy(path: Path) -> float:
    """River's own defaults; its first answer, made of nothing, counts as well."""
    from river import linear_model, preprocessing

    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    correct = total = 0
    for x, label in rows(path):
        y = label == "1"
        correct += bool(model.predict_one(x)) == y
        model.learn_one(x, y)
        total += 1
    return correct / total


def previous_label(path: Path) -> float:
    labels = [label for _, label in rows(path)]
    same = sum(a == b for a, b in itertools.pairwise(labels))
    return same / len(labels)


def head(path: Path, target: Path, events: int) -> Path:
    """The first `events` rows of a CSV file, in a file of their own."""
    with open(path) as source, open(target, "w") as file:
        file.writelines(itertools.islice(source, events + 1))
    return target


def main() -> None:
    parser = arguments("electricity", __doc__)
    data_dir(parser)
    parser.add_argument("--seeds", type=int, default=3, help="learners, seeds counted from --seed")
    parser.add_argument("--events", type=int, help="only so many (default: all)")
    options = parser.parse_args()
    path = needed(options.data_dir / "elec.csv")
    about = made_with()
    flags = ["--codec.label", LABEL]
    with work_dir(options.work_dir) as folder:
        if options.events:
            path = head(path, folder / "elec.csv", options.events)
        ours = []
        for seed in range(options.seed, options.seed + options.seeds):
            run = streamlearn(folder / str(seed), ["--source.path", str(path), "--seed", str(seed), *flags])
            figures = run.learner
            ours.append(
                {
                    "seed": seed,
                    "accuracy": run.accuracy,
                    "kappa_no_change": figures["prequential"]["cumulative"]["kappa_no_change"],
                    "last_1000": figures["prequential"]["window"]["accuracy"],
                    "events": figures["predicted"],
                    "dead_letters": sum(figures["dead_letters"].values()),
                    "events_per_second": figures["predicted"] / run.seconds,
                }
            )
            say(f"seed {seed}: {run.accuracy:.4f}")
        logistic, previous = river_accuracy(path), previous_label(path)
    accuracies = [float(one["accuracy"]) for one in ours]
    shown: list[dict[str, Any]] = [
        {"learner": "streamlearn, defaults", "accuracy": statistics.mean(accuracies)},
        {"learner": "River StandardScaler | LogisticRegression", "accuracy": logistic},
        {"learner": "the previous label", "accuracy": previous},
    ]
    for row in shown:
        row["accuracy"] = f"{row['accuracy']:.4f}"
    table(ours)
    table(shown)
    result = {
        "settings": flags,
        "streamlearn": ours,
        "mean_accuracy": statistics.mean(accuracies),
        "river_logistic_regression": logistic,
        "previous_label": previous,
        "ahead_of_river": min(accuracies) > logistic,
        "ahead_of_previous_label": min(accuracies) > previous,
    }
    write(options.out, about, options, result)


if __name__ == "__main__":
    main()
