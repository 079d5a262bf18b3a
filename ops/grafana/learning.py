"""The *Learning* dashboard: does the model still know what it learned last week?"""

from __future__ import annotations

from ops.grafana.alerts import ALERTS
from ops.grafana.queries import newest
from ops.grafana.spec import (
    GREEN,
    NEW_CLASS,
    RED,
    STARTED,
    YELLOW,
    Dashboard,
    Kind,
    Limit,
    Panel,
    Query,
    Row,
)

WEEK = "Appears after two hours of held-out evaluations."
SHARE = "percentunit"


GLANCE = Row(
    "At a glance",
    (
        Panel(
            "Right on the stream",
            "Share of the newest events (1,000 unless set otherwise) that were predicted right before they "
            "were learned. It follows what comes now and hides forgetting: compare it with the figures "
            "beside it.",
            SHARE,
            (newest("prequential_accuracy", ',kind="window"'),),
            Kind.NUMBER,
            width=4,
            low=0,
            high=1,
        ),
        Panel(
            "Right on everything taught",
            "Average accuracy: the mean over all held-out sets, one for each class or group of classes, old "
            "ones counting as much as new ones. Their examples are never learned.",
            SHARE,
            (newest("average_accuracy"),),
            Kind.NUMBER,
            width=4,
            low=0,
            high=1,
        ),
        Panel(
            "Worst case",
            "WC-ACC: what the model could be relied on at any moment since. The mean of the lowest that each "
            "older set has been since a newer class came, and of the newest set as it is. The older sets' "
            "part never rises again.",
            SHARE,
            (newest("worst_case_accuracy"),),
            Kind.NUMBER,
            width=4,
            low=0,
            high=1,
        ),
        Panel(
            "Forgotten, mean",
            "How far the held-out sets are below the best they have ever been. Yellow from .1; red from .2 "
            "on, about what the default learner loses on the README's hardest tables. Drift counts here, "
            "too: see below.",
            SHARE,
            (newest("forgetting"),),
            Kind.NUMBER,
            width=4,
            limits=(Limit(0.1, YELLOW), Limit(0.2, RED)),
        ),
        Panel(
            "Sets forgotten this week",
            "Held-out sets that are worse by more than .2 than in their best hour of the week, on their "
            "fixed and on their newest examples. One opens a ticket, a tenth of all pages "
            "(StreamlearnForgetting).",
            "none",
            (Query('max(job:streamlearn_sets_forgotten:count{job="$job"})', "sets"),),
            Kind.NUMBER,
            width=4,
            limits=(Limit(1, RED),),
            silent=WEEK,
        ),
        Panel(
            "Sets drifted this week",
            "The same on their fixed examples only: the stream shows these classes differently now, and the "
            "model went along. That is no fault (StreamlearnDrift).",
            "none",
            (Query('max(job:streamlearn_sets_drifted:count{job="$job"})', "sets"),),
            Kind.NUMBER,
            width=4,
            limits=(Limit(1, YELLOW),),
            silent=WEEK,
        ),
    ),
)

ACCURACY = Row(
    "Accuracy",
    (
        Panel(
            "On the stream, before learning",
            "Prequential accuracy: each labeled event is predicted before it is learned. window: the newest "
            "events; fading: older ones count less and less; cumulative: all since the first.",
            SHARE,
            (Query('max by (kind) (streamlearn_prequential_accuracy{job="$job"})', "{{kind}}"),),
            low=0,
            high=1,
        ),
        Panel(
            "On everything taught",
            "average: the mean over all held-out sets now. lowest: the mean of the lowest that each past "
            "set has been since a newer class came. worst case: that, and the newest set as it is now. The "
            "distance between average and lowest is what new classes have cost at their worst.",
            SHARE,
            (
                newest("average_accuracy", legend="average"),
                newest("min_accuracy", legend="lowest"),
                newest("worst_case_accuracy", legend="worst case"),
            ),
            low=0,
            high=1,
        ),
        Panel(
            "Better than a guess",
            "How much better than a trivial guess: 1 is always right, 0 is no better than it. majority: "
            "against the most frequent label so far; no change: against the label before, which looks "
            "excellent where the same label comes many times in a row; kappa: against chance. Below 0, the "
            "guess is better.",
            SHARE,
            (
                newest("prequential_kappa_majority", ',kind="window"', "majority"),
                newest("prequential_kappa_no_change", ',kind="window"', "no change"),
                newest("prequential_kappa", legend="kappa"),
            ),
            limits=(Limit(0, GREEN),),
            below=RED,
        ),
        Panel(
            "Recall by class",
            "Share of each class's labeled events that were predicted right before they were learned, since "
            "the first. The first fifty classes have a line, later ones share other.",
            SHARE,
            (Query('max by (label) (streamlearn_class_recall{job="$job"})', "{{label}}"),),
            low=0,
            high=1,
        ),
        Panel(
            "Loss",
            "What the last update tried to make small, by part; a method has parts of its own. It should "
            "settle. A jump that stays is a change in the stream, or too high a learning rate.",
            "none",
            (Query('max by (part) (streamlearn_loss{job="$job"})', "{{part}}"),),
        ),
        Panel(
            "Surprise",
            "Mean negative log-likelihood of the labels, in nats, before they were learned: how surprised "
            "the model is. A model that is often wrong and sure of it has a high value at the same "
            "accuracy.",
            "none",
            (Query('max by (kind) (streamlearn_prequential_log_loss{job="$job"})', "{{kind}}"),),
            low=0,
        ),
    ),
)

FORGETTING = Row(
    "What a new class costs",
    (
        Panel(
            "Stability gap",
            "Accuracy on what was known before that the last new class has cost, at its worst, until it "
            "recovered. Blue lines mark new classes. Above .1 for an hour of learning it opens a ticket "
            "(StreamlearnStabilityGapOpen).",
            SHARE,
            (newest("stability_gap", legend="gap"),),
            limits=(Limit(0.1, RED),),
            low=0,
        ),
        Panel(
            "Events until it had recovered",
            "Events from the last new class until accuracy on what was known before was back to within .01. "
            "Nothing while it isn't; 0 if it never fell.",
            "none",
            (newest("stability_gap_recovery_events", legend="events"),),
            low=0,
        ),
        Panel(
            "Drops and gains within few evaluations",
            "Mean over the sets of the largest drop (windowed forgetting) and the largest gain (windowed "
            "plasticity) within 10 or 100 evaluations in a row. Large drops with a small mean forgetting: "
            "it forgets and learns again.",
            SHARE,
            (
                Query('max by (window) (streamlearn_windowed_forgetting{job="$job"})', "drop, {{window}}"),
                Query('max by (window) (streamlearn_windowed_plasticity{job="$job"})', "gain, {{window}}"),
            ),
            low=0,
        ),
        Panel(
            "Forgetting by set",
            "A row for each held-out set: how far it is below the best it has been in the time that is "
            "shown. Bright rows are forgotten. One bright row is one class; a bright column, with a blue "
            "line at its beginning, a new class's cost.",
            SHARE,
            (
                Query(
                    "clamp_min(max_over_time(max by (set) (streamlearn_set_accuracy"
                    '{job="$job",kind="fixed"})[$__range:$__interval])'
                    ' - max by (set) (streamlearn_set_accuracy{job="$job",kind="fixed"}), 0)',
                    "{{set}}",
                ),
            ),
            Kind.HEAT,
            width=12,
            low=0,
            high=0.5,
        ),
        Panel(
            "Newest examples minus fixed ones",
            "Accuracy on a set's newest held-out examples minus that on its fixed, older ones. Far above 0: "
            "the stream has drifted and the model went along. Near 0 while both are low: it has forgotten.",
            SHARE,
            (
                Query(
                    'max by (set) (streamlearn_set_accuracy{job="$job",kind="rolling"})'
                    ' - on (set) max by (set) (streamlearn_set_accuracy{job="$job",kind="fixed"})',
                    "{{set}}",
                ),
            ),
            width=12,
            limits=(Limit(0.2, YELLOW),),
        ),
        Panel(
            "Accuracy by set",
            "On the fixed examples of each held-out set; of more than fifty, the 25 oldest and newest. Its "
            "standard error is beside it.",
            SHARE,
            (Query('max by (set) (streamlearn_set_accuracy{job="$job",kind="fixed"})', "{{set}}"),),
            low=0,
            high=1,
        ),
        Panel(
            "Standard error of a set's accuracy",
            "At most so far from the truth, two times out of three, since a set has few examples. "
            "Differences smaller than two of these say nothing.",
            SHARE,
            (Query('max by (set) (streamlearn_set_accuracy_standard_error{job="$job"})', "{{set}}"),),
            low=0,
        ),
        Panel(
            "Steps between two evaluations",
            "How often the held-out sets are asked. It follows from evaluation.images_per_image_learned, "
            "and grows with the sets; a large value hides short drops.",
            "none",
            (newest("evaluation_interval_steps", legend="steps"),),
            low=0,
        ),
    ),
)

MEMORY = Row(
    "Classes and memory",
    (
        Panel(
            "Most confused prototypes",
            "The pairs of classes whose prototypes lie nearest to each other (1 - cosine), at the last "
            "evaluation. Below .1 the model hardly tells them apart: are they one class, or the labels "
            "mixed up?",
            "none",
            (
                Query(
                    'sort(bottomk(5, max by (class, other) (streamlearn_prototype_distance{job="$job"})))',
                    "{{class}} – {{other}}",
                ),
            ),
            Kind.BARS,
            limits=(Limit(0.1, YELLOW), Limit(0.3, GREEN)),
            below=RED,
            low=0,
        ),
        Panel(
            "Nearest two prototypes",
            "The distance of the very nearest pair over time. It falls when a class arrives that looks like "
            "another.",
            "none",
            (newest("prototype_nearest_distance", legend="distance"),),
            low=0,
        ),
        Panel(
            "Known classes",
            "Classes the model can answer with; those of which the replay memory holds an example. A class "
            "without one is not rehearsed any more.",
            "none",
            (
                newest("known_classes", legend="known"),
                newest("memory_classes", legend="in the memory"),
            ),
            low=0,
        ),
        Panel(
            "What the memory is made of",
            "Each class's share of the examples in the replay memory. A share that goes to nothing is a "
            "class about to be forgotten. The first fifty classes have their own, later ones share other.",
            SHARE,
            (Query('max by (label) (streamlearn_memory_class_share{job="$job"})', "{{label}}"),),
            Kind.STACK,
            low=0,
            high=1,
        ),
        Panel(
            "How old its examples are",
            "Labeled events that came since the stored examples were stored. A reservoir grows old with the "
            "stream: it keeps all times alike. Where the oldest stands still, the memory has stopped "
            "changing.",
            "none",
            (Query('max by (statistic) (streamlearn_memory_age_events{job="$job"})', "{{statistic}}"),),
            low=0,
        ),
        Panel(
            "Recall interval",
            "Steps between two recalls of the same stored example: as it was, and as the number of examples "
            "by those recalled a step lets expect. A long one is a memory too large for its replay.",
            "none",
            (
                newest("recall_interval_steps", legend="as it was"),
                newest("expected_recall_interval_steps", legend="expected"),
            ),
            low=0,
        ),
        Panel(
            "Memory in use",
            "Examples in the replay memory, and how many it has room for.",
            "none",
            (
                newest("memory_examples", legend="examples"),
                newest("memory_capacity_examples", legend="room for"),
            ),
            low=0,
        ),
        Panel(
            "Held-out examples",
            "Examples kept for evaluation, never learned. None where memory.capacity is 500 or less and "
            "evaluation.held_out unset: then most panels here stay empty.",
            "none",
            (newest("held_out_examples", legend="examples"),),
            low=0,
        ),
        Panel(
            "Inputs for each event learned",
            "Inputs through the network for each event learned, replayed ones included, mean: what learning "
            "costs.",
            "none",
            (newest("images_per_event", legend="inputs"),),
            low=0,
        ),
    ),
)

LEARNING = Dashboard(
    "streamlearn-learning",
    "Learning",
    "Does the model still know what it learned last week? Blue lines are new classes, yellow ones starts of "
    "a worker.",
    (GLANCE, ALERTS, ACCURACY, FORGETTING, MEMORY),
    (NEW_CLASS, STARTED),
)
