"""Starts as apache/kafka does: properties from KAFKA_ variables, storage formatted once, then Kafka."""

import os
import subprocess
import sys
from collections.abc import Mapping

NOT_PROPERTIES = (
    "KAFKA_VERSION KAFKA_HEAP_OPTS KAFKA_LOG4J_OPTS KAFKA_OPTS KAFKA_JMX_OPTS KAFKA_JVM_PERFORMANCE_OPTS "
    "KAFKA_GC_LOG_OPTS KAFKA_LOG4J_ROOT_LOGLEVEL KAFKA_LOG4J_LOGGERS KAFKA_TOOLS_LOG4J_LOGLEVEL"
).split()
FILE = "/opt/kafka/config/server.properties"
JAVA = ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dstreamlearn.level=INFO"]
JAVA += ["-Dlog4j2.configurationFile=/opt/kafka/log4j2.properties", "-cp", "/opt/kafka/libs/*"]


def name_of(variable: str) -> str:
    """KAFKA_ABC_DEF is abc.def; two underscores are one, three are a dash."""
    word = variable.removeprefix("KAFKA_").lower()
    for underscores, sign in (("___", "-"), ("__", "\0"), ("_", "."), ("\0", "_")):
        word = word.replace(underscores, sign)
    return word


def properties(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name_of(variable): value
        for variable, value in environment.items()
        if variable.startswith("KAFKA_") and variable not in NOT_PROPERTIES
    }


def main() -> None:
    with open(FILE, "w", encoding="utf-8") as file:
        file.writelines(f"{name}={value}\n" for name, value in sorted(properties(os.environ).items()))
    words = [
        "kafka.tools.StorageTool",
        "format",
        "--ignore-formatted",
        "-t",
        os.environ["CLUSTER_ID"],
        "-c",
        FILE,
    ]
    done = subprocess.run([*JAVA, *words], check=False)
    if done.returncode:
        sys.exit(done.returncode)
    heap = os.environ.get("KAFKA_HEAP_OPTS", "-Xmx1G -Xms1G").split()
    os.execvp("java", [*JAVA[:1], *heap, *JAVA[1:], "kafka.Kafka", FILE])


if __name__ == "__main__":
    main()
