"""Parts of a worker that hang on demand, for finding out what /healthz and the log say then.

Named in the settings by their import strings. They hang while there is a file of the fault's name (`decode`,
`read`, `loop`, `deliver`) in the folder that the environment variable STREAMLEARN_TEST_HANG names.
"""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

from connectors.files import FileSource
from connectors.kafka import KafkaSource
from streamlearn.codec import Codec
from streamlearn.events import Record, Resume, Standing

VARIABLE = "STREAMLEARN_TEST_HANG"
PAUSE = threading.Event()


def wanted(fault: str) -> bool:
    return (Path(os.environ[VARIABLE]) / fault).exists()


def begins(fault: str) -> None:
    """Say that from here on it hangs, by a file beside: what was under way before still goes through."""
    (Path(os.environ[VARIABLE]) / f"{fault}.hangs").touch()


def hang(fault: str) -> None:
    if wanted(fault):
        begins(fault)
    while wanted(fault):
        PAUSE.wait(0.02)


class HangingCodec(Codec):
    """The learner's thread hangs with records in its hands: `decode`."""

    def decode(self, records: Any) -> Any:
        hang("decode")
        return super().decode(records)


class HangingFile(FileSource):
    """A read of the learner's thread doesn't return: `read`."""

    def poll(self, max_records: int, timeout: float) -> list[Record]:
        hang("read")
        return super().poll(max_records, timeout)


class HangingKafka(KafkaSource):
    """The Kafka loop hangs in a callback (`loop`), or the client hands nothing over any more (`deliver`)."""

    beside = True

    def _tell(self) -> None:
        loop = self.link._loop
        if wanted("loop") and loop is not None:
            loop.call_soon_threadsafe(hang, "loop")

    def open(self, resume: Resume) -> None:
        super().open(resume)
        consumer: Any = self.link.plane.consumer
        getmany = consumer.getmany

        async def held(*partitions: Any, **options: Any) -> Any:
            if wanted("deliver"):
                begins("deliver")
            while wanted("deliver"):
                await asyncio.sleep(0.02)
            return await getmany(*partitions, **options)

        consumer.getmany = held

    def poll(self, max_records: int, timeout: float) -> list[Record]:
        self._tell()
        return super().poll(max_records, timeout)

    def standing(self) -> Standing:
        """For one that stands by."""
        self._tell()
        return super().standing()
