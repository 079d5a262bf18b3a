"""The *Worker* dashboard: does it work, how fast, and what is it waiting for?"""

from __future__ import annotations

from ops.grafana.alerts import ALERTS
from ops.grafana.queries import RATE, gauge, process, quantiles, rate, role
from ops.grafana.spec import (
    BLUE,
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

NO_GPU = "no GPU"
RECORDS, PER_SECOND, SECONDS, BYTES = "none", "cps", "s", "bytes"

LAG = 'sum(streamlearn_consumer_lag_events{job="$job"})'
LEARNED = rate("events_total", labels=',outcome="learned"')
KEPT_AT = (
    'streamlearn_last_checkpoint_timestamp_seconds{job="$job"}'
    ' and on (instance) streamlearn_role{job="$job",role="learner"} == 1'
)
UNKEPT = 'streamlearn_next_offset{job="$job"} > streamlearn_checkpointed_offset{job="$job"}'
SINCE_CHECKPOINT = f"max(time() - {KEPT_AT} and on (instance) ({UNKEPT})) or 0 * max({KEPT_AT})"

GLANCE = Row(
    "At a glance",
    (
        Panel(
            "Workers that learn",
            "Of the workers of a stream exactly one learns. 0: nobody does (StreamlearnNoLearner, "
            "StreamlearnWorkerAbsent).",
            RECORDS,
            (Query('sum(streamlearn_role{job="$job",role="learner"}) or vector(0)', "learners"),),
            Kind.NUMBER,
            width=4,
            limits=(Limit(1, GREEN), Limit(2, YELLOW)),
            below=RED,
        ),
        Panel(
            "Standbys",
            "Workers that would take over, which takes 5 seconds. None is fine where none was set up "
            "(StreamlearnNoStandby).",
            RECORDS,
            (Query('sum(streamlearn_role{job="$job",role="standby"}) or vector(0)', "standbys"),),
            Kind.NUMBER,
            width=4,
        ),
        Panel(
            "Health",
            "What /healthz says, of the sickest worker. Sick: records wait and nothing is applied, a thread "
            "died or hangs, or checkpoints fail for too long. /healthz has the sentence (StreamlearnStuck).",
            RECORDS,
            (Query('min(streamlearn_healthy{job="$job"})', "health"),),
            Kind.NUMBER,
            width=4,
            words={0: ("sick", RED), 1: ("well", GREEN)},
        ),
        Panel(
            "Records that wait",
            "Lag: records in the topic that were not applied yet. What counts is whether it falls.",
            "short",
            (Query(LAG, "records"),),
            Kind.NUMBER,
            width=4,
        ),
        Panel(
            "Since the last checkpoint",
            "What has been learned since would be read and learned again after a crash. Due every 10 s "
            "unless set; 0 while nothing is to be kept. Red from 15 minutes on (StreamlearnCheckpointOld).",
            SECONDS,
            (Query(SINCE_CHECKPOINT, "age"),),
            Kind.NUMBER,
            width=4,
            limits=(Limit(60, YELLOW), Limit(900, RED)),
        ),
        Panel(
            "Starts in the last hour",
            "How often workers were started. More than three in half an hour page (StreamlearnRestarting).",
            RECORDS,
            (Query('sum(changes(process_start_time_seconds{job="$job"}[1h]))', "starts"),),
            Kind.NUMBER,
            width=4,
            limits=(Limit(1, YELLOW), Limit(4, RED)),
        ),
    ),
)

RATES = Row(
    "Rates",
    (
        Panel(
            "Events by outcome",
            "Events a second. Every record ends as predicted or as dead_lettered; learned, held_out and "
            "forgotten ones were predicted before.",
            PER_SECOND,
            (Query(rate("events_total", "outcome"), "{{outcome}}"),),
            low=0,
        ),
        Panel(
            "Dead letters by reason",
            "Records refused a second, each kept with its bytes. None is normal; ops/RUNBOOK.md explains "
            "the reasons' alerts.",
            PER_SECOND,
            (
                Query(
                    f"{rate('dead_letters_total', 'reason')} > 0 or {rate('dead_letters_total')}",
                    "{{reason}}",
                ),
            ),
            low=0,
        ),
        Panel(
            "Updates",
            "Updates of the model a second, also those that are done again after a crash, and those left out "
            "because their loss was not a finite number.",
            PER_SECOND,
            (
                Query(rate("step_seconds_count", labels=',stage="update"'), "updates"),
                Query(rate("skipped_steps_total"), "left out"),
            ),
            low=0,
        ),
        Panel(
            "Bytes read",
            "Bytes a second of the records' values, as they came.",
            "Bps",
            (Query(rate("read_bytes_total"), "bytes"),),
            low=0,
        ),
        Panel(
            "Commits",
            "Small Kafka transactions a second in which answers become visible, ten unless "
            "sink.commit_interval is set. None while events come: nobody sees any answer.",
            PER_SECOND,
            (Query(rate("commits_total"), "commits"),),
            low=0,
        ),
        Panel(
            "Evaluated for each input learned",
            "Inputs that went through the network to ask what is still known, for each event learned.",
            RECORDS,
            (Query(f"{rate('evaluated_images_total')} / {LEARNED}", "inputs"),),
            low=0,
        ),
    ),
)

LAGS = Row(
    "Lag",
    (
        Panel(
            "Records that wait, by partition",
            "Records in each partition that were not applied yet. One that grows alone: is everything sent "
            "under one key?",
            "short",
            (Query(gauge("consumer_lag_events", "topic, partition"), "{{topic}} {{partition}}"),),
            low=0,
        ),
        Panel(
            "Time to catch up",
            "How long the records that wait take at the present speed, if no more came. Above ten minutes "
            "and growing, for half an hour, it opens a ticket (StreamlearnLagGrowing).",
            SECONDS,
            (Query('max(job:streamlearn_lag:seconds{job="$job"})', "at the present speed"),),
            limits=(Limit(600, RED),),
            low=0,
        ),
        Panel(
            "Applied, but not in a checkpoint",
            "Records between the newest checkpoint and what has been applied: after a crash these are read "
            "and learned again (and not answered again).",
            "short",
            (
                Query(
                    'sum(max by (topic, partition) (streamlearn_next_offset{job="$job"})'
                    ' - max by (topic, partition) (streamlearn_checkpointed_offset{job="$job"}))',
                    "records",
                ),
            ),
            low=0,
        ),
    ),
)

LATENCY = Row(
    "Latency and time",
    (
        Panel(
            "From reading to answering",
            "From reading an event to handing over its answer: half, 95 % and 99 % took no longer. The "
            "learner's own share of the time that a caller waits.",
            SECONDS,
            quantiles("prediction_latency_seconds"),
            low=0,
        ),
        Panel(
            "From the record's time to a visible answer",
            "From the timestamp that Kafka gave the record to the commit that made its answer visible: what "
            "a caller waits. A backlog shows here.",
            SECONDS,
            quantiles("event_to_prediction_seconds"),
            low=0,
        ),
        Panel(
            "Label delay",
            "From a labeled event's own time to its arrival: how old the truth is when it comes. Only where "
            "events name a time.",
            SECONDS,
            quantiles("label_delay_seconds"),
            low=0,
        ),
        Panel(
            "Time by stage, of each second",
            "How many seconds of each second the learner spends in each stage; together at most 1, then it "
            "can't go faster. The largest area is where making it faster pays.",
            "percentunit",
            (Query(rate("step_seconds_sum", "stage"), "{{stage}}"),),
            Kind.STACK,
            low=0,
        ),
        Panel(
            "Mean time of a stage",
            "How long one pass of each stage takes. A pass is a batch of records, or a step of the learner.",
            SECONDS,
            (
                Query(
                    f"{rate('step_seconds_sum', 'stage')} / ({rate('step_seconds_count', 'stage')} > 0)",
                    "{{stage}}",
                ),
            ),
            low=0,
        ),
        Panel(
            "Waiting in memory",
            "Records and outputs in the worker's queues. They are bounded in bytes: full ones mean that "
            "reading stops until the learner has caught up.",
            RECORDS,
            (Query(gauge("queue_depth", "queue"), "{{queue}}"),),
            low=0,
        ),
    ),
)

PAUSES = Row(
    "Pauses and checkpoints",
    (
        Panel(
            "Paused",
            "by a command: somebody said `streamlearn tell pause`. outputs: they can't be handed over (a "
            "full disk, a broker or reader that takes nothing).",
            RECORDS,
            (
                Query(gauge("paused"), "by a command"),
                Query(gauge("outputs_stalled"), "outputs"),
            ),
            Kind.STATES,
            words={0: ("no", GREEN), 1: ("yes", YELLOW)},
        ),
        Panel(
            "Reading paused",
            "Times a second that fetching stopped because the learner was behind, and rebalances of the "
            "group. Pauses are how memory stays flat; they are no fault.",
            PER_SECOND,
            (
                Query(rate("fetch_pauses_total"), "fetch pauses"),
                Query(rate("rebalances_total"), "rebalances"),
            ),
            low=0,
        ),
        Panel(
            "Learning stops for a checkpoint",
            "For so long learning stopped for a checkpoint: half, 95 % and 99 % took no longer.",
            SECONDS,
            quantiles("checkpoint_pause_seconds"),
            low=0,
        ),
        Panel(
            "Checkpoints",
            "Written and failed, a second. Failures without a success, or one that hangs, page within three "
            "minutes (StreamlearnCheckpointFailing); after five the worker ends.",
            PER_SECOND,
            (
                Query(rate("checkpoints_total"), "written"),
                Query(rate("checkpoint_failures_total"), "failed"),
            ),
            low=0,
        ),
        Panel(
            "From a checkpoint's begin to its end on disk",
            "Half, 95 % and 99 % took no longer. Learning goes on meanwhile.",
            SECONDS,
            quantiles("checkpoint_duration_seconds"),
            low=0,
        ),
        Panel(
            "Checkpoints that fit on the disk",
            "Free bytes on the disk of the state, by the size of a checkpoint. Below ten a ticket, below "
            "three a page (StreamlearnDiskNearlyFull, StreamlearnDiskFull).",
            RECORDS,
            (
                Query(
                    'min(streamlearn_checkpoint_free_bytes{job="$job"}'
                    ' / (streamlearn_checkpoint_bytes{job="$job"} > 0))',
                    "checkpoints",
                ),
            ),
            limits=(Limit(3, YELLOW), Limit(10, GREEN)),
            below=RED,
            low=0,
        ),
    ),
)

MACHINE = Row(
    "Process and machine",
    (
        Panel(
            "Role",
            "What each worker of the group is: one learns, the others stand by with the newest checkpoint "
            "at hand. One that starts is neither yet; for five minutes, it pages (StreamlearnNotReady).",
            RECORDS,
            (Query(f"{role('learner')} * 2 + {role('standby')}", "{{instance}}"),),
            Kind.STATES,
            words={0: ("starts", YELLOW), 1: ("stands by", BLUE), 2: ("learns", GREEN)},
        ),
        Panel(
            "Memory",
            "resident: what the process takes of the machine. replay memory: the part of it that holds "
            "examples, allocated whole from the start. Resident memory that grows for hours is a fault.",
            BYTES,
            (
                Query(process("resident_memory_bytes"), "resident {{instance}}"),
                Query(gauge("memory_bytes"), "replay memory"),
                Query(gauge("held_out_bytes"), "held-out sets"),
                Query(gauge("checkpoint_bytes"), "checkpoint, on disk"),
            ),
            low=0,
        ),
        Panel(
            "Processors",
            "Processors in use. One learner is one thread that computes; more are used within a step for "
            "large models.",
            RECORDS,
            (
                Query(
                    f'max by (instance) (rate(process_cpu_seconds_total{{job="$job"}}[{RATE}]))',
                    "{{instance}}",
                ),
            ),
            low=0,
        ),
        Panel(
            "GPU memory",
            "Of this process: allocated, and reserved by torch. Of the whole device: free and total.",
            BYTES,
            (Query(gauge("device_memory_bytes", "kind"), "{{kind}}"),),
            low=0,
            silent=NO_GPU,
        ),
        Panel(
            "GPU in use",
            "Share of the last moments in which the device was busy, with whatever process. Low with a lag: "
            "the learner waits for something else, see time by stage.",
            "percentunit",
            (Query(gauge("device_utilization_ratio"), "busy"),),
            low=0,
            high=1,
            silent=NO_GPU,
        ),
        Panel(
            "Open files",
            "File descriptors of each worker, and how many it may have.",
            RECORDS,
            (
                Query(process("open_fds"), "open {{instance}}"),
                Query(process("max_fds"), "allowed {{instance}}"),
            ),
            low=0,
        ),
    ),
)

WORKER = Dashboard(
    "streamlearn-worker",
    "Worker",
    "Does it work, how fast, and what does it wait for? Yellow lines are starts of a worker, blue ones new "
    "classes.",
    (GLANCE, ALERTS, RATES, LAGS, LATENCY, PAUSES, MACHINE),
    (STARTED, NEW_CLASS),
)
