"""The broker that tests run against is a real one: it keeps, refuses, dies and comes back as it should."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from ops.kafka.broker import Broker
from ops.kafka.jars import TOOLS as TOOL_ARTIFACTS
from ops.kafka.jars import BrokerError, fetch
from ops.kafka.ports import free_ports, outgoing_ports
from ops.kafka.tools import TOOLS
from tests.kafka import Message, connection, fresh_group, fresh_topic, produce, read_all, running
from tests.processes import DEADLINE, ROOT, wait_for


def command(*words: str, status: int = 0) -> str:
    """Both outputs of `python -m ops.kafka`, which needs no package of others (-S)."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "ops.kafka", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=4 * DEADLINE,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


def kcat(broker: Broker, *words: str) -> str:
    done = subprocess.run(
        ["kcat", "-b", broker.address, *words], capture_output=True, timeout=DEADLINE, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def values(broker: Broker, topic: str) -> list[bytes | None]:
    return [each.value for each in read_all(broker, topic)]


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text("utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_is_written_is_read(broker: Broker) -> None:
    topic = fresh_topic(broker, partitions=2)
    written = [
        Message(b"zero", key=b"k", headers=(("h", b"v"),), partition=1, timestamp=1_700_000_000_000),
        Message(None, key=b"k", partition=0, timestamp=1_700_000_000_001),
        Message(b"two", partition=1, timestamp=1_700_000_000_002),
    ]
    assert produce(broker, topic, written) == [(1, 0), (0, 0), (1, 1)]
    found = read_all(broker, topic)
    assert [each.offset for each in found] == [0, 0, 1]
    assert [Message(**{**vars(each), "offset": None}) for each in found] == [
        written[1],
        written[0],
        written[2],
    ]
    assert read_all(broker, fresh_topic(broker)) == []


def test_what_a_transaction_took_back_is_not_read(broker: Broker) -> None:
    topic = fresh_topic(broker)

    async def transactions() -> None:
        producer = AIOKafkaProducer(**connection(broker), transactional_id=fresh_group())
        await producer.start()
        try:
            for value in (b"committed", b"aborted", b"open"):
                await producer.begin_transaction()
                await producer.send_and_wait(topic, value)
                if value == b"committed":
                    await producer.commit_transaction()
                elif value == b"aborted":
                    await producer.abort_transaction()
            # Behind the open one, so read only by those who don't mind.
            await asyncio.to_thread(produce, broker, topic, [b"plain"])
            committed = await asyncio.to_thread(values, broker, topic)
            everything = await asyncio.to_thread(read_all, broker, topic, "read_uncommitted")
            assert committed == [b"committed"]
            assert [each.value for each in everything] == [b"committed", b"aborted", b"open", b"plain"]
            await producer.abort_transaction()
        finally:
            await producer.stop()

    asyncio.run(transactions())
    wait_for(lambda: values(broker, topic) == [b"committed", b"plain"], "the last transaction has ended")


def test_kcat_reads_what_was_written_and_the_other_way_round(broker: Broker, tmp_path: Path) -> None:
    topic = fresh_topic(broker)
    produce(broker, topic, [b"one", b"two"])
    lines = tmp_path / "lines"
    lines.write_text("three\n", "utf-8")
    kcat(broker, "-P", "-t", topic, "-l", str(lines))
    assert kcat(broker, "-C", "-t", topic, "-o", "beginning", "-e", "-q") == "one\ntwo\nthree\n"
    assert values(broker, topic) == [b"one", b"two", b"three"]


def test_a_topic_has_the_settings_it_was_asked_for_and_none_appears_by_itself(broker: Broker) -> None:
    topic = fresh_topic(broker, partitions=3, retention_ms=1234567)
    said = command("tool", "topics", "--bootstrap-server", broker.address, "--describe", "--topic", topic)
    assert "PartitionCount: 3" in said
    assert "retention.ms=1234567" in said
    with pytest.raises(UnknownTopicOrPartitionError, match="never-made"):
        read_all(broker, "never-made")
    assert "never-made" not in command("tool", "topics", "--bootstrap-server", broker.address, "--list")


def test_kafkas_own_tool_sees_a_group(broker: Broker) -> None:
    topic, group = fresh_topic(broker), fresh_group()
    produce(broker, topic, [b"one", b"two", b"three"])
    kcat(broker, "-G", group, "-c", "2", "-q", "-X", "auto.offset.reset=earliest", topic)
    asked = ("--bootstrap-server", broker.address, "--describe", "--group", group)
    said = command("tool", "consumer-groups", *asked)
    row = next(line.split() for line in said.splitlines() if line.startswith(group))
    assert row[1:6] == [topic, "0", "2", "3", "1"]


@pytest.mark.slow
def test_every_tool_is_in_its_jars() -> None:
    classes: set[str] = set()
    for jar in fetch(TOOL_ARTIFACTS).glob("*.jar"):
        classes.update(zipfile.ZipFile(jar).namelist())
    assert {name for name, main in TOOLS.items() if main.replace(".", "/") + ".class" not in classes} == set()


@pytest.mark.slow
def test_its_data_outlives_a_kill_and_a_stop(tmp_path: Path) -> None:
    with running(tmp_path / "kafka") as broker:
        address, topic = broker.address, fresh_topic(broker)
        produce(broker, topic, [b"one"])
        first = broker.pid
        broker.kill()
        assert first is not None
        assert not alive(first)
        assert not broker.serves()
        broker.start()
        assert broker.pid != first
        assert broker.address == address
        assert values(broker, topic) == [b"one"]
        produce(broker, topic, [b"two"])
        broker.stop()
        assert not broker.running()
        broker.start()
        assert values(broker, topic) == [b"one", b"two"]
        with pytest.raises(BrokerError, match="runs already"):
            broker.start()
        # Another name of the same broker.
        Broker(tmp_path / "kafka").wipe()
        assert not broker.serves()
        assert not (tmp_path / "kafka").exists()
        broker.start()
        with pytest.raises(UnknownTopicOrPartitionError):
            read_all(broker, topic)


@pytest.mark.slow
def test_a_frozen_one_answers_nobody_and_goes_on(tmp_path: Path) -> None:
    with running(tmp_path / "kafka") as broker:
        topic = fresh_topic(broker)
        produce(broker, topic, [b"one"])
        broker.freeze()
        assert broker.frozen
        with socket.create_connection(("127.0.0.1", int(broker.address.split(":")[1])), DEADLINE):
            assert not broker.serves()
        broker.thaw()
        wait_for(broker.serves, "it serves again")
        produce(broker, topic, [b"two"])
        broker.freeze()
        broker.stop()
        broker.start()
        assert values(broker, topic) == [b"one", b"two"]


@pytest.mark.slow
def test_the_secure_listener_wants_the_right_password_and_shows_a_certificate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "kafka"
    with running(folder, secure=True) as broker:
        topic = fresh_topic(broker)
        produce(broker, topic, [b"one"])
        assert values(broker, topic) == [b"one"]
        for attempt in (
            lambda: produce(broker, topic, [b"two"], password="wrong"),
            lambda: read_all(broker, topic, password="wrong"),
        ):
            caplog.clear()
            with pytest.raises(KafkaError):
                attempt()
            assert "SaslAuthenticationFailed" in caplog.text
        host, _, port = broker.secure_address.partition(":")
        with (
            socket.create_connection((host, int(port)), DEADLINE) as connection,
            pytest.raises(ssl.SSLCertVerificationError),
        ):
            ssl.create_default_context().wrap_socket(connection, server_hostname=host)
        context = ssl.create_default_context(cafile=str(broker.ca_file))
        context.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python 3.13 does
        with (
            socket.create_connection((host, int(port)), DEADLINE) as connection,
            context.wrap_socket(connection, server_hostname="localhost") as secured,
        ):
            assert secured.version() == "TLSv1.3"
        broker.kill()
        again = Broker(folder)  # needs no telling that it is secure
        again.start()
        assert again.secure_address == broker.secure_address
        assert values(again, topic) == [b"one"]


@pytest.mark.slow
def test_it_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import sys, signal, threading; from pathlib import Path; from ops.kafka.broker import Broker\n"
        "broker = Broker(Path(sys.argv[1]))\n"
        # That thread's end must not be taken for the process's.
        "starter = threading.Thread(target=broker.start); starter.start(); starter.join()\n"
        "print(broker.serves(), broker.pid, flush=True)\n"
        "signal.pause()\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "kafka")]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        serves, pid = process.stdout.readline().split()
        assert serves == "True"
        assert alive(int(pid))
        process.kill()
    wait_for(lambda: not alive(int(pid)), "it is dead")


@pytest.mark.slow
def test_the_command_line(tmp_path: Path) -> None:
    folder = ("--folder", str(tmp_path / "kafka"))
    assert command("status", *folder, status=3) == "not made yet\n"
    said = command("start", *folder, "--port", "0", "--set", "log.retention.hours=7")
    try:
        broker = Broker(tmp_path / "kafka")
        assert said == f"serves at {broker.address} (pid {broker.pid})\n"
        topic = fresh_topic(broker)
        produce(broker, topic, [b"one"])
        settings = ("--bootstrap-server", broker.address, "--describe", "--broker", "1", "--all")
        assert "log.retention.hours=7 " in command("tool", "configs", *settings)
        command("freeze", *folder)
        assert "frozen" in command("status", *folder, status=3)
        command("thaw", *folder)
        wait_for(broker.serves, "it serves again")
        assert command("status", *folder) == said
        assert "runs already" in command("start", *folder, status=1)
        command("kill", *folder)
        assert command("status", *folder, status=3) == "stopped\n"
        command("start", *folder, "--port", str(free_ports(1)[0]))
        moved = Broker(tmp_path / "kafka")
        assert moved.address != broker.address
        assert values(moved, topic) == [b"one"]
        command("stop", *folder)
        assert command("status", *folder, status=3) == "stopped\n"
        command("stop", *folder)  # nothing to do
    finally:
        command("wipe", *folder)
    assert not (tmp_path / "kafka").exists()


@pytest.mark.slow
def test_one_that_can_not_start_says_why(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "kafka", settings={"num.network.threads": "none"})
    with pytest.raises(BrokerError, match=r"num\.network\.threads"):
        broker.start()
    assert broker.pid is None
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(BrokerError, match="already in use"):
            Broker(tmp_path / "other", port).start()


@pytest.mark.slow
def test_two_on_one_port_are_told_apart(broker: Broker, tmp_path: Path) -> None:
    port = int(broker.address.split(":")[1])
    with pytest.raises(BrokerError, match="already in use"):
        Broker(tmp_path / "kafka", port).start()
    assert broker.serves()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "thesis.txt").write_text("mine", "utf-8")
    monkeypatch.setattr("ops.kafka.broker.prepared", list)
    broker = Broker(tmp_path)
    with pytest.raises(BrokerError, match="holds something else"):
        broker.start()
    broker.wipe()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_another_process_of_the_same_number_is_left_alone(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "kafka")
    broker.folder.mkdir()
    (broker.folder / "pid").write_text(f"{os.getpid()} 1\n", "utf-8")
    assert broker.pid is None
    broker.kill()
    with pytest.raises(BrokerError, match="isn't running"):
        broker.freeze()


def test_free_ports_are_none_of_the_outgoing_ones() -> None:
    low, high = outgoing_ports()
    found = free_ports(3)
    assert len(set(found)) == 3
    assert not [port for port in found if low <= port <= high]
    for port in found:
        socket.create_server(("127.0.0.1", port)).close()
