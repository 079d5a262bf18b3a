"""docker-compose.yml: what it promises is in the files, and (slow) holds when it is brought up."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops.compose.__main__ import NO_ENGINE
from ops.compose.stack import PORTS
from ops.compose.stand_ins.kafka.run import name_of, properties
from streamlearn import __version__
from streamlearn.flags import load_settings

ROOT = Path(__file__).resolve().parent.parent
OVERRIDES = ("gpu", "standby", "gpu-standby", "stand-ins", "mounted")
LONG_RUNNING = ("kafka", "worker", "prometheus", "grafana")
ONE_SHOT = ("topics", "publisher")
OURS = ("topics", "worker", "publisher")


def loaded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / name).read_text("utf-8"))
    return found


BASE = loaded("docker-compose.yml")
STANDBY = loaded("ops/compose/standby.yml")["services"]["standby"]
SERVICES: Mapping[str, dict[str, Any]] = BASE["services"]
ALL = {**SERVICES, "standby": STANDBY}
FILES = {"docker-compose.yml": BASE} | {
    name: loaded(name) for name in (f"ops/compose/{each}.yml" for each in OVERRIDES)
}


def each_service() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in FILES.values():
        yield from file["services"].items()


def test_it_has_all_services() -> None:
    assert set(SERVICES) == {*LONG_RUNNING, *ONE_SHOT}
    for file in FILES.values():
        assert set(file["services"]) <= {*SERVICES, "standby"}


def test_ports_are_published_on_loopback_alone() -> None:
    ports = [port for _, service in each_service() for port in service.get("ports", ())]
    assert len(ports) == 5
    for port in ports:
        assert re.fullmatch(r"127\.0\.0\.1:\$\{\w+_PORT:-\d+\}:\d+", port), port
    assert {re.search(r"\w+_PORT", port)[0] for port in ports} == set(PORTS)  # type: ignore[index]
    assert "network_mode" not in str(FILES)


def test_images_are_pinned_by_version() -> None:
    images = {service["image"] for _, service in each_service() if "image" in service}
    bases = re.findall(r"^ARG BASE=(\S+)$", (ROOT / "ops" / "Dockerfile").read_text("utf-8"), re.M)
    assert len(images) == 8 and len(bases) == 1
    for image in [*images, *bases]:
        assert re.search(r":v?\d+\.\d+", image), f"{image} is not pinned"
    ours = [image for image in images if image.startswith("streamlearn:")]
    assert all(image.startswith(f"streamlearn:{__version__}") for image in ours)


@pytest.mark.parametrize("file", FILES)
def test_an_image_is_built_by_one_service(file: str) -> None:
    """Two builds of one name at a time can fail; the other services wait for that one."""
    assert [name for name, service in FILES[file]["services"].items() if "build" in service] in (
        ["topics"],
        [],
    )


@pytest.mark.parametrize("name", ALL)
def test_what_a_container_may_do_is_bounded(name: str) -> None:
    service = ALL[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(service[limit] for limit in ("mem_limit", "cpus", "pids_limit"))
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}
    assert "privileged" not in service and "/var/run/docker.sock" not in str(service)
    if name == "kafka":  # its image starts as a user of its own, and writes its configuration
        return
    assert service["read_only"] is True
    assert service["user"].partition(":")[0] not in ("0", "root")
    assert any(place.startswith("/tmp:") for place in service["tmpfs"])


@pytest.mark.parametrize("name", ALL)
def test_start_order_is_by_health(name: str) -> None:
    service = ALL[name]
    if name in ONE_SHOT:
        assert service["healthcheck"] == {"disable": True}
    elif name not in ("worker", "standby"):  # theirs is the image's
        assert service["healthcheck"]["test"][0] == "CMD"
    for other, how in service.get("depends_on", {}).items():
        wanted = "service_completed_successfully" if other == "topics" else "service_healthy"
        assert how == {"condition": wanted}
    assert ("depends_on" in service) == (name not in ("kafka", "prometheus"))
    assert service["restart"] in (
        {"topics": ["no"], "publisher": ["on-failure"]}.get(name, ["unless-stopped"])
    )


def test_every_path_that_is_mounted_is_there() -> None:
    mounted = [
        volume.split(":")
        for _, service in each_service()
        for volume in service.get("volumes", ())
        if volume.startswith(".")
    ]
    assert len(mounted) > 8
    for source, target, *mode in mounted:
        assert (ROOT / source).exists(), f"{source} is not there: the engine would make a folder of that name"
        assert mode == ["ro"] and target.startswith("/")


def test_volumes_keep_what_must_stay() -> None:
    used = {
        volume.partition(":")[0]
        for _, service in each_service()
        for volume in service.get("volumes", ())
        if not volume.startswith((".", "$"))
    }
    assert used == set(BASE["volumes"])
    dockerfile = (ROOT / "ops" / "Dockerfile").read_text("utf-8")
    for name, folder in (("worker", "state"), ("publisher", "publish")):
        place = f"/var/lib/streamlearn/{folder}"
        assert f"{'state' if name == 'worker' else name}:{place}" in SERVICES[name]["volumes"]
        assert place in dockerfile  # else the new volume would be root's


def test_the_standby_is_a_worker_like_the_other() -> None:
    worker = SERVICES["worker"]
    differ = {name for name in {*worker, *STANDBY} if worker.get(name) != STANDBY.get(name)}
    assert differ == {"ports", "depends_on"}


def test_the_gpu_override_takes_one_image_for_all() -> None:
    services = FILES["ops/compose/gpu.yml"]["services"]
    assert set(services) == set(OURS)
    services |= FILES["ops/compose/gpu-standby.yml"]["services"]
    assert {service["image"] for service in services.values()} == {f"streamlearn:{__version__}-cuda"}
    assert services["topics"]["build"] == {"args": {"TORCH": "cuda"}}
    for name in ("deploy", "environment", "mem_limit"):
        assert services["worker"][name] == services["standby"][name]


def test_the_stand_ins_change_nothing_but_images() -> None:
    services = FILES["ops/compose/stand-ins.yml"]["services"]
    assert set(services) == {*SERVICES} - {"worker", "publisher"}
    assert services.pop("grafana") == {"profiles": ["needs-its-image"]}
    for name, service in services.items():
        assert set(service) == ({"build"} if name == "topics" else {"image"})


def test_what_is_mounted_in_place_of_torch_changes_nothing_else() -> None:
    services = FILES["ops/compose/mounted.yml"]["services"]
    assert set(services) == set(OURS)
    for name, service in services.items():
        assert set(service) == {"image", "volumes"} | ({"build"} if name == "topics" else set())
        (volume,) = service["volumes"]
        assert volume.startswith("${PACKAGES:?") and volume.endswith(":/mnt/packages:ro")


def test_settings_are_ones_that_there_are() -> None:
    settings = load_settings(["--config", str(ROOT / "ops" / "compose" / "streamlearn.toml")], {})
    kafka = SERVICES["kafka"]["environment"]
    assert f"INTERNAL://{settings.source.bootstrap_servers}," in kafka["KAFKA_ADVERTISED_LISTENERS"]
    assert settings.model.threads == 2 and SERVICES["worker"]["cpus"] == "${WORKER_CPUS:-2}"
    for name in (*OURS, "standby"):
        said = ALL[name]["environment"]["STREAMLEARN_CONFIG"]
        assert f"./ops/compose/streamlearn.toml:{said}:ro" in ALL[name]["volumes"]


def test_the_dockerfile_ends_as_an_ordinary_user_and_without_a_shell() -> None:
    lines = (ROOT / "ops" / "Dockerfile").read_text("utf-8").splitlines()
    last = lines[max(i for i, line in enumerate(lines) if line.startswith("FROM ")) :]
    assert "USER 10001:10001" in last
    assert last.index('ENTRYPOINT ["streamlearn"]') > last.index("USER 10001:10001")
    assert 'CMD ["run"]' in last and any("GET /readyz" in line for line in last)
    assert not [line for line in last if re.match(r"(CMD|ENTRYPOINT)\s+[^\[]", line)]


def test_only_what_the_image_is_made_of_reaches_its_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    taken = {rule[1:] for rule in rules if rule.startswith("!")}
    assert taken == {"pyproject.toml", "LICENSE", "ops/constraints.txt", "streamlearn", "connectors"}


def test_grafana_has_no_password_to_leave_in_place() -> None:
    said = SERVICES["grafana"]["environment"]
    assert said["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert said["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert said["GF_AUTH_BASIC_ENABLED"] == "false" and said["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert not re.search(r"password", json.dumps(FILES), re.I)


def test_grafana_finds_its_data_and_its_dashboards() -> None:
    mounts = dict(volume.removesuffix(":ro").split(":") for volume in SERVICES["grafana"]["volumes"])
    mounts = {target: ROOT / source for source, target in mounts.items()}
    (source,) = loaded("ops/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    host, port = re.fullmatch(r"http://(\w+):(\d+)", source["url"]).groups()  # type: ignore[union-attr]
    assert source["type"] == "prometheus" and source["isDefault"] and host in SERVICES
    assert SERVICES[host]["ports"][0].endswith(f":{port}")
    (provider,) = loaded("ops/grafana/provisioning/dashboards/streamlearn.yml")["providers"]
    folder = mounts[provider["options"]["path"]]
    assert provider["type"] == "file" and not provider["allowUiUpdates"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.startswith(f"{provider['options']['path']}/")
    found = sorted(path.name for path in folder.glob("*.json"))
    assert not found or Path(home).name in found


def test_prometheus_scrapes_every_worker() -> None:
    config = loaded("ops/prometheus/prometheus.yml")
    assert config["rule_files"] == ["rules/*.yml"]
    workers, itself = config["scrape_configs"]
    assert workers["file_sd_configs"] == [{"files": ["targets/*.yml"]}]
    assert itself["static_configs"] == [{"targets": ["127.0.0.1:9090"]}]
    volumes = [*SERVICES["prometheus"]["volumes"]]
    volumes += FILES["ops/compose/standby.yml"]["services"]["prometheus"]["volumes"]
    files = [volume.split(":")[0] for volume in volumes if "/targets/" in volume]
    (first,), (second,) = (yaml.safe_load((ROOT / file).read_text("utf-8")) for file in files)
    assert [first["targets"], second["targets"]] == [["worker:9464"], ["standby:9464"]]


def test_kafkas_stand_in_reads_variables_as_the_image_does() -> None:
    assert name_of("KAFKA_ABC_DEF") == "abc.def"
    assert name_of("KAFKA_ABC__DEF") == "abc_def"
    assert name_of("KAFKA_ABC___DEF") == "abc-def"
    found = properties({str(k): str(v) for k, v in SERVICES["kafka"]["environment"].items()} | {"PATH": "/"})
    assert found["process.roles"] == "broker,controller" and found["node.id"] == "1"
    assert "cluster.id" not in found and "heap.opts" not in found and "path" not in found


WHOLE = bool(os.environ.get("STREAMLEARN_TEST_COMPOSE"))
"""With images of 7 GB, for up to half an hour; else quickly."""
MINUTES = 40 if WHOLE else 12


@pytest.mark.slow
@pytest.mark.timeout(60 * (MINUTES + 10))
def test_it_is_brought_up_and_keeps_its_promises() -> None:
    """Images, kills, restarts: ops/compose. Skipped where there is no Docker engine, and where that is."""
    command = [sys.executable, "-m", "ops.compose", "check", "--clean", "--minutes", str(MINUTES)]
    process = subprocess.Popen(
        [*command, *([] if WHOLE else ["--quick"])],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said, _ = process.communicate(timeout=60 * (MINUTES + 5))
    except BaseException:
        process.terminate()  # it takes down what it brought up
        process.communicate(timeout=240)
        raise
    if process.returncode == NO_ENGINE:
        pytest.skip(f"the compose file is not brought up here: {said.strip()}")
    print(said)
    assert process.returncode == 0, said
    assert "all kept" in said and "BROKEN" not in said
