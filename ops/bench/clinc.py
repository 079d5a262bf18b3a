"""CLINC150 as a mixed stream of plain JSON lines: text, a category (the domain) and named numbers.

A real `streamlearn run` over one file: the shuffled training texts with their intents, then the test texts
without labels, whose predictions are scored here. With and without the domain, beside the majority class and
beside River on the same events in the same order (each predicted, then learned).

The file holds no domains: they are taken from `DOMAINS`, by the intent. So a learner that is given the
domain is told something of the label; the comparison is fair because all are given the same.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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

# The ten domains of fifteen intents of Larson et al., "An evaluation dataset for intent classification and
# out-of-scope prediction", EMNLP 2019, table of the appendix (domains.json of their repository).
DOMAINS: dict[str, str] = {
    "banking": "freeze_account routing pin_change bill_due pay_bill account_blocked interest_rate "
    "min_payment bill_balance transfer order_checks balance spending_history transactions report_fraud",
    "credit_cards": "replacement_card_duration expiration_date damaged_card improve_credit_score "
    "report_lost_card card_declined credit_limit_change apr redeem_rewards credit_limit rewards_balance "
    "application_status credit_score new_card international_fees",
    "kitchen_and_dining": "food_last confirm_reservation how_busy ingredients_list calories nutrition_info "
    "recipe restaurant_reviews restaurant_reservation meal_suggestion restaurant_suggestion "
    "cancel_reservation ingredient_substitution cook_time accept_reservations",
    "home": "what_song play_music todo_list_update reminder reminder_update calendar_update order_status "
    "update_playlist shopping_list calendar next_song order todo_list shopping_list_update smart_home",
    "auto_and_commute": "current_location oil_change_when oil_change_how uber traffic tire_pressure "
    "schedule_maintenance gas mpg distance directions last_maintenance gas_type tire_change jump_start",
    "travel": "plug_type travel_notification translate flight_status international_visa timezone "
    "exchange_rate travel_suggestion travel_alert vaccines lost_luggage book_flight book_hotel carry_on "
    "car_rental",
    "utility": "weather alarm date find_phone share_location timer make_call calculator definition "
    "measurement_conversion flip_coin spelling time roll_dice text",
    "work": "pto_request_status next_holiday insurance_change insurance meeting_schedule payday taxes "
    "income rollover_401k pto_balance pto_request w2 schedule_meeting direct_deposit pto_used",
    "small_talk": "who_made_you meaning_of_life who_do_you_work_for do_you_have_pets what_are_your_hobbies "
    "fun_fact what_is_your_name where_are_you_from goodbye thank_you greeting tell_joke are_you_a_bot "
    "how_old_are_you what_can_i_ask_you",
    "meta": "change_speed user_name whisper_mode yes change_volume no change_language repeat change_accent "
    "cancel sync_device change_user_name change_ai_name reset_settings maybe",
}
DOMAIN_OF = {intent: domain for domain, intents in DOMAINS.items() for intent in intents.split()}


@dataclass(frozen=True)
class Utterance:
    id: str
    text: str
    intent: str

    def features(self, domain: bool) -> dict[str, Any]:
        """What is sent: text, two numbers, and the category."""
        x: dict[str, Any] = {
            "text": self.text,
            "words": len(self.text.split()),
            "characters": len(self.text),
        }
        return x | {"domain": DOMAIN_OF[self.intent]} if domain else x

    def counts(self, domain: bool) -> dict[str, int]:
        """What River's naive Bayes counts: words, and the category as one more; numbers would mislead it."""
        words = Counter(self.text.lower().split())
        return dict(words) | {f"domain={DOMAIN_OF[self.intent]}": 1} if domain else dict(words)


def utterances(data: dict[str, Any], split: str) -> list[Utterance]:
    return [Utterance(f"{split}-{i}", text, intent) for i, (text, intent) in enumerate(data[split])]


def write_events(path: Path, train: Sequence[Utterance], test: Sequence[Utterance], domain: bool) -> None:
    with open(path, "w") as file:
        for item in train:
            file.write(json.dumps({"id": item.id, "x": item.features(domain), "y": item.intent}) + "\n")
        for item in test:
            file.write(json.dumps({"id": item.id, "x": item.features(domain)}) + "\n")


def predictions(path: Path) -> Iterator[tuple[str, str | None]]:
    with open(path) as file:
        for line in file:
            one = json.loads(line)
            yield one["id"], one["label"]


def ours(
    folder: Path, train: Sequence[Utterance], test: Sequence[Utterance], domain: bool, flags: Sequence[str]
) -> dict[str, Any]:
    folder.mkdir(parents=True)
    path = folder / "events.jsonl"
    write_events(path, train, test, domain)
    run = streamlearn(folder, ["--source.path", str(path), *flags])
    truth = {item.id: item.intent for item in test}
    answers = [(truth[id], label) for id, label in predictions(folder / "predictions.jsonl") if id in truth]
    if len(answers) != len(test):
        raise SystemExit(f"{len(answers)} predictions for {len(test)} test texts")
    return {
        "learner": "streamlearn",
        "domain": domain,
        "prequential": run.accuracy,
        "test": sum(intent == label for intent, label in answers) / len(answers),
        "events_per_second": (len(train) + len(test)) / run.seconds,
        "known_classes": run.learner["known_classes"],
    }


def naive_bayes(train: Sequence[Utterance], test: Sequence[Utterance], domain: bool) -> dict[str, Any]:
    from river import naive_bayes

    model: Any = naive_bayes.MultinomialNB()  # type: ignore[no-untyped-call]
    correct = sum(_predict_learn(model, item.counts(domain), item.intent) for item in train)
    hits = sum(model.predict_one(item.counts(domain)) == item.intent for item in test)
    return {
        "learner": "River MultinomialNB",
        "domain": domain,
        "prequential": correct / len(train),
        "test": hits / len(test),
    }


def softmax(train: Sequence[Utterance], test: Sequence[Utterance], domain: bool) -> dict[str, Any]:
    from river import linear_model

    model: Any = linear_model.SoftmaxRegression()
    correct = sum(_predict_learn(model, item.counts(domain), item.intent) for item in train)
    hits = sum(model.predict_one(item.counts(domain)) == item.intent for item in test)
    return {
        "learner": "River SoftmaxRegression",
        "domain": domain,
        "prequential": correct / len(train),
        "test": hits / len(test),
    }


def _predict_learn(model: Any, x: dict[str, int], y: str) -> bool:
    right = bool(model.predict_one(x) == y)
    model.learn_one(x, y)
    return right


def majority(train: Sequence[Utterance], test: Sequence[Utterance]) -> dict[str, Any]:
    """The most frequent intent so far."""
    seen: Counter[str] = Counter()
    correct = 0
    for item in train:
        correct += bool(seen) and seen.most_common(1)[0][0] == item.intent
        seen[item.intent] += 1
    best = seen.most_common(1)[0][0]
    return {
        "learner": "majority so far",
        "domain": False,
        "prequential": correct / len(train),
        "test": sum(item.intent == best for item in test) / len(test),
    }


def main() -> None:
    parser = arguments("clinc", __doc__)
    data_dir(parser)
    parser.add_argument("--train", type=int, help="only so many training texts (default: all)")
    parser.add_argument("--test", type=int, help="only so many test texts (default: all)")
    parser.add_argument("--no-river", action="store_true", help="leave River out")
    parser.add_argument("--softmax", action="store_true", help="River's softmax regression too: takes long")
    options, flags = parser.parse_known_args()
    data = json.loads(needed(options.data_dir / "clinc150.json").read_bytes())
    rng = random.Random(options.seed)
    train, test = utterances(data, "train"), utterances(data, "test")
    rng.shuffle(train)
    rng.shuffle(test)
    train, test = train[: options.train], test[: options.test]
    about = made_with()
    flags = ["--seed", str(options.seed), *flags]
    rows: list[dict[str, Any]] = []
    with work_dir(options.work_dir) as folder:
        for domain in (True, False):
            rows.append(ours(folder / f"domain-{domain}", train, test, domain, flags))
            say(f"streamlearn, domain {domain}: test {rows[-1]['test']:.4f}")
            baselines = [naive_bayes, softmax] if options.softmax else [naive_bayes]
            for baseline in () if options.no_river else baselines:
                rows.append(baseline(train, test, domain))
                say(f"{rows[-1]['learner']}, domain {domain}: test {rows[-1]['test']:.4f}")
    rows.append(majority(train, test))
    table([{name: row[name] for name in ("learner", "domain", "prequential", "test")} for row in rows])
    write(options.out, about, options, {"settings": flags, "rows": rows})


if __name__ == "__main__":
    main()
