"""Kafka's jars are fetched once, complete or not at all. Maven is played by a script here: no network."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ops.kafka.jars import BROKER, TOOLS, BrokerError, fetch
from tests.processes import count_lines

ARTIFACTS = ("org.example:one:1.0", "org.example:two:2.0")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache; on the PATH there are only the usual programs and what `maven` puts there."""
    monkeypatch.setenv("STREAMLEARN_KAFKA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path / "cache"


def maven(tmp_path: Path, ending: str) -> Path:
    """An `mvn` that writes one jar of two and then does `ending`; the file of its calls."""
    calls, program = tmp_path / "calls", tmp_path / "bin" / "mvn"
    program.parent.mkdir(exist_ok=True)
    program.write_text(
        f"""#!/bin/sh
echo "$@" >> {calls}
for word; do case "$word" in -DoutputDirectory=*) jars="${{word#*=}}";; esac; done
mkdir "$jars" && echo 1 > "$jars/one.jar"
cp "$(dirname "$jars")/pom.xml" "$jars/"
{ending}
""",
        "utf-8",
    )
    program.chmod(0o755)
    return calls


def test_of_several_one_fetches(cache: Path, tmp_path: Path) -> None:
    calls = maven(tmp_path, 'echo 2 > "$jars/two.jar"')
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(fetch, [ARTIFACTS] * 4))
    assert count_lines(calls) == 1
    (folder,) = folders
    assert {path.name for path in folder.iterdir()} == {"one.jar", "two.jar", "pom.xml"}
    text = (folder / "pom.xml").read_text("utf-8")
    assert "<groupId>org.example</groupId><artifactId>two</artifactId><version>2.0</version>" in text
    assert fetch(ARTIFACTS) == folder
    assert count_lines(calls) == 1
    assert {path.name for path in cache.iterdir()} == {folder.name, f"{folder.name}.lock"}
    assert fetch(ARTIFACTS[:1]) != folder


def test_what_failed_leaves_nothing_and_is_tried_again(cache: Path, tmp_path: Path) -> None:
    maven(tmp_path, "echo no route to Maven Central; exit 1")
    with pytest.raises(BrokerError, match=r"(?s)status 1.*no route to Maven Central"):
        fetch(ARTIFACTS)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    # Nor does what one left that was killed.
    leftover = next(cache.iterdir()).with_suffix(".making")
    leftover.mkdir()
    maven(tmp_path, 'echo 2 > "$jars/two.jar"')
    assert (fetch(ARTIFACTS) / "two.jar").exists()
    assert not leftover.exists()


def test_without_maven_it_says_what_to_install(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(cache))
    with pytest.raises(BrokerError, match="apt-get install maven"):
        fetch(ARTIFACTS)


def test_the_tools_are_of_the_brokers_version() -> None:
    assert {artifact.split(":")[2] for artifact in (*BROKER, *TOOLS) if "kafka" in artifact} == {"4.3.1"}
