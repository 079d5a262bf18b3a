# shellcheck shell=bash
# Sourced by ops/demo and ops/test: `prepare run` or `prepare dev` makes the virtual environment and installs
# streamlearn into it, or finds that this was done. Afterwards $ROOT is the checkout and $VENV the environment.
#
#   STREAMLEARN_VENV         where the environment lies (default: .venv in the checkout)
#   STREAMLEARN_TORCH_INDEX  an extra package index for torch, e.g. https://download.pytorch.org/whl/cpu
#                            (CPU only, a tenth of the download; unset: torch of PyPI, with CUDA)

ROOT="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
VENV="${STREAMLEARN_VENV:-$ROOT/.venv}"
case "$VENV" in /*) ;; *) VENV="$PWD/$VENV" ;; esac

say() { printf '%s\n' "$*" >&2; }
die() { say "set-up failed: $*"; exit 1; }

# The first Python >= 3.11 by name, or nothing.
find_python() {
  local name
  for name in python3 python3.14 python3.13 python3.12 python3.11; do
    if command -v "$name" >/dev/null 2>&1 &&
      "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      command -v "$name"
      return 0
    fi
  done
  return 1
}

# install_packages_of_system WHY PACKAGE...: with apt-get, or says what to install because of WHY, and ends.
install_packages_of_system() {
  local why="$1" as_root=()
  shift
  if [ "$(id -u)" != 0 ]; then
    if command -v sudo >/dev/null 2>&1 && sudo -n true >/dev/null 2>&1; then as_root=(sudo -n); else as_root=(no); fi
  fi
  if [ "${as_root[0]-}" = no ] || ! command -v apt-get >/dev/null 2>&1; then
    die "$why. On Debian or Ubuntu run: sudo apt-get update && sudo apt-get install -y $*"
  fi
  say "$why: installing $* with apt-get"
  # One broken source or another update that is running must not stop us: the lists may do as they are.
  ${as_root[@]+"${as_root[@]}"} apt-get update -q </dev/null >&2 || say "apt-get update failed: trying without it"
  # A new machine's own updates may hold the lock: wait for them.
  ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 \
    install -y -q --no-install-recommends "$@" </dev/null >&2 ||
    die "$why, and apt-get could not install $*: see its message above"
}

# Debian and Ubuntu ship Python without what a virtual environment needs. Its own package is enough: python3-pip
# would bring a C compiler along.
need_ensurepip() {
  local python="$1" package
  "$python" -c 'import venv, ensurepip' >/dev/null 2>&1 && return 0
  package="$(basename -- "$python")-venv"
  install_packages_of_system "$python can't make virtual environments" "$package"
  "$python" -c 'import venv, ensurepip' >/dev/null 2>&1 ||
    die "$python still can't make virtual environments although $package is installed"
}

# The tests look at the report in a real browser: STREAMLEARN_CHROMIUM, or the first Chromium or Chrome that runs.
has_browser() {
  local name
  # Last: Ubuntu's chromium-browser may be a script that only says where to get one.
  for name in ${STREAMLEARN_CHROMIUM:+"$STREAMLEARN_CHROMIUM"} chromium google-chrome{,-stable} chromium-browser; do
    command -v "$name" >/dev/null 2>&1 && "$name" --version >/dev/null 2>&1 && return 0
  done
  return 1
}

need_browser() {
  has_browser && return 0
  install_packages_of_system "the tests need Chromium or Chrome (STREAMLEARN_CHROMIUM says where one is)" \
    chromium fonts-dejavu-core
  has_browser || die "there is still no Chromium or Chrome: install one, or say where it is by STREAMLEARN_CHROMIUM"
}

# The tests scrape workers with a real Prometheus, and have promtool check what they export.
need_prometheus() {
  command -v prometheus >/dev/null 2>&1 && command -v promtool >/dev/null 2>&1 && return 0
  install_packages_of_system "the tests need Prometheus and promtool" prometheus
}

has_java() {
  local version
  version="$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1)"
  [ "${version:-0}" -ge 17 ]
}

# The tests run against a real Kafka: ops/kafka. After `prepare dev`.
need_kafka() {
  local missing=() pair
  has_java || missing+=(default-jre-headless)
  for pair in mvn:maven kcat:kcat openssl:openssl; do
    command -v "${pair%:*}" >/dev/null 2>&1 || missing+=("${pair#*:}")
  done
  if [ "${#missing[@]}" != 0 ]; then
    install_packages_of_system "the tests need Java 17 or newer, Maven, kcat and openssl" "${missing[@]}"
    has_java || die "there is still no Java 17 or newer: install one, so that \`java\` is it"
  fi
  say "making Kafka ready (the first time its jars are fetched, about 90 MB)"
  (cd -- "$ROOT" && "$VENV/bin/python" -m ops.kafka fetch) </dev/null >&2 ||
    die "Kafka could not be made ready: see the message above"
}

# The compose file is brought up where there is a Docker engine (tests/test_compose.py). CI's machines get one for
# that; on others what is there is taken, and without it that test is skipped.
want_docker() {
  local missing=() pair
  for pair in dockerd:docker.io docker-compose:docker-compose debootstrap:debootstrap; do
    command -v "${pair%:*}" >/dev/null 2>&1 || missing+=("${pair#*:}")
  done
  if [ "${#missing[@]}" = 0 ] || [ "${CI:-}" != true ] || [ "$(id -u)" != 0 ]; then return 0; fi
  (install_packages_of_system "CI brings the compose file up" "${missing[@]}" iptables) ||
    say "no Docker engine can be had here: the compose file will not be brought up"
}

# Free KiB where $1 is or will be.
free_kib() {
  local folder="$1"
  while [ ! -d "$folder" ]; do folder="$(dirname -- "$folder")"; done
  df -Pk -- "$folder" | awk 'NR == 2 { print $4 }'
}

make_venv() {
  local python="$1"
  if [ -x "$VENV/bin/python" ] && [ "$(cat "$VENV/streamlearn.home" 2>/dev/null)" = "$VENV" ] &&
    "$VENV/bin/python" -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
    return 0
  fi
  # Half made, moved, or its Python is gone: made anew. Only ever what a set-up made is removed.
  if [ -n "$(ls -A -- "$VENV" 2>/dev/null)" ] && [ ! -e "$VENV/streamlearn.home" ]; then
    die "$VENV exists and was not made by this script, so it is left alone: set STREAMLEARN_VENV to a path of its own"
  fi
  mkdir -p -- "$VENV" || die "can't create $VENV"
  printf 'being made' >"$VENV/streamlearn.home" || die "can't write in $VENV"
  find "$VENV" -mindepth 1 -maxdepth 1 ! -name streamlearn.home -exec rm -rf -- {} +
  say "making a virtual environment in $VENV ($("$python" --version))"
  "$python" -m venv "$VENV" </dev/null >&2 || die "$python -m venv $VENV did not work: see its message above"
  printf '%s' "$VENV" >"$VENV/streamlearn.home"
}

# A line every 20 seconds for logs, where pip draws no progress bar. Ends with this shell, however it ends.
heartbeat() {
  local start="$SECONDS" parent="$$"
  while sleep 20 >/dev/null 2>&1 && kill -0 "$parent" 2>/dev/null; do
    say "  ... installing, $((SECONDS - start)) s, $(du -sm -- "$VENV" 2>/dev/null | cut -f1) MB so far"
  done
}

install_packages() {
  local extras="$1" target="$ROOT" need=10 free options=() pip=() beat='' try status
  [ "$extras" = dev ] && target="${ROOT}[dev]"
  [ -n "${STREAMLEARN_TORCH_INDEX:-}" ] && options+=(--extra-index-url "$STREAMLEARN_TORCH_INDEX") && need=3
  if ! ls "$VENV"/lib/python3*/site-packages/torch/version.py >/dev/null 2>&1; then
    free=$(($(free_kib "$VENV") / 1048576))
    [ "$free" -ge "$need" ] ||
      die "$VENV has $free GB free and torch wants $need GB during installation. Free some, put the" \
        "environment on another disk (STREAMLEARN_VENV=/path), or take the small CPU build" \
        "(STREAMLEARN_TORCH_INDEX=https://download.pytorch.org/whl/cpu)"
    [ "$free" -ge $((need * 3 / 2)) ] || options+=(--no-cache-dir)
    say "installing streamlearn and what it needs: torch is a large download (about $((need * 3 / 10)) GB), minutes"
  else
    say "installing what changed"
  fi
  for try in 1 2; do
    if [ ! -t 2 ]; then heartbeat & beat=$!; fi
    status=0
    # pip unpacks beside the environment: /tmp is often too small.
    rm -rf -- "$VENV/tmp" && mkdir -p -- "$VENV/tmp"
    pip=("$VENV/bin/python" -m pip install --disable-pip-version-check --no-input --root-user-action=ignore
      ${options[@]+"${options[@]}"} -c "$ROOT/ops/constraints.txt" -e "$target")
    if [ -t 2 ]; then
      TMPDIR="$VENV/tmp" "${pip[@]}" </dev/null >&2 || status=$?
    else # in a log: no line for each package that is there already
      TMPDIR="$VENV/tmp" "${pip[@]}" </dev/null | sed -u '/^Requirement already satisfied/d' >&2 || status=$?
    fi
    if [ -n "$beat" ]; then { kill "$beat" && wait "$beat"; } 2>/dev/null || true; fi
    rm -rf -- "$VENV/tmp"
    [ "$status" = 0 ] && return 0
    [ "$try" = 1 ] && say "pip failed (status $status): trying once more"
  done
  [ "$(free_kib "$VENV")" -ge 262144 ] || die "the disk of $VENV is full"
  die "pip could not install the packages: its last message above says why. Without a network connection" \
    "set PIP_INDEX_URL to a mirror, or HTTPS_PROXY to a proxy"
}

# prepare run|dev
prepare() {
  local extras="$1" python digest stamp started="$SECONDS"
  python="$(find_python)" || die "streamlearn needs Python >= 3.11 and found" \
    "$(python3 --version 2>/dev/null || echo no Python 3). On Debian >= 12 or Ubuntu >= 24.04:" \
    "sudo apt-get update && sudo apt-get install -y python3 python3-venv"
  digest="$({
    cat -- "$ROOT/pyproject.toml" "$ROOT/ops/constraints.txt"
    printf '%s\n' "$ROOT" "$VENV" "$("$python" --version)" "${STREAMLEARN_TORCH_INDEX:-}"
  } | sha256sum | cut -d' ' -f1)"
  # One set-up of this checkout at a time; the lock goes with the process.
  exec 9<"$ROOT"
  if command -v flock >/dev/null 2>&1 && ! flock -n 9; then
    say "another set-up of $ROOT is running: waiting for it"
    flock 9
  fi
  # What was installed for `dev` is enough for `run`.
  for stamp in "$extras" dev; do
    if [ "$(cat -- "$VENV/streamlearn.$stamp" 2>/dev/null)" = "$digest" ] && [ -x "$VENV/bin/python" ]; then
      exec 9<&-
      say "environment ready: $VENV (nothing to install)"
      return 0
    fi
  done
  need_ensurepip "$python" 9<&-
  make_venv "$python" 9<&-
  install_packages "$extras" 9<&-
  printf '%s' "$digest" >"$VENV/streamlearn.$extras"
  exec 9<&-
  say "environment ready: $VENV ($("$VENV/bin/python" --version), $(du -sm -- "$VENV" | cut -f1) MB," \
    "$((SECONDS - started)) s)"
}
