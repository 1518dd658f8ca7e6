#!/usr/bin/env bash
# Everything that is tested, in the order in which it costs time; what ./setup.sh test runs. See usage below for parts.
#
# Installs what is missing, where apt and root (or sudo without a password) are to be had. With CI=true nothing is
# skipped: a test that cannot run is a failure. Ends with a summary, and with status 1 if anything failed.
#
# shellcheck disable=SC2317  # functions are called by name, through "step"
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
# shellcheck source=setup.sh
source ./setup.sh
set +e

usage() {
  cat <<'TEXT'
usage: ./setup.sh test [STEP...]

steps, all of them by default:
  lint        rustfmt, clippy, rustdoc, shellcheck, the licences and sources of the dependencies
  unit        the test suite with the system's nginx
  newer       of it what nginx has a part in, with Debian forky's, whatever the system's is, and some with nginx 1.28
  containers  real containers, on nginx 1.30 and 1.22, compiled in a builder stage and outside, and every example
  demo        ./setup.sh up in containers and as processes, and the page in a browser
TEXT
}

steps=()
for argument in "$@"; do
  case $argument in
    lint | unit | newer | containers | demo) steps+=("$argument") ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
done
((${#steps[@]})) || steps=(lint unit newer containers demo)
wants() { [[ " ${steps[*]} " == *" $1 "* ]]; }

ci=${CI:-}
out=${CARGO_TARGET_DIR:-$PWD/target}
# Nothing is built twice on a clean clone, so what it takes to build a part anew is not kept.
[[ $ci != true ]] || export CARGO_INCREMENTAL=0
# Most tests wait most of the time; those that take a whole core are told apart in .config/nextest.toml.
export NEXTEST_TEST_THREADS=${NEXTEST_TEST_THREADS:-$((2 * $(nproc)))}
images=$out/test-images
scratch=$(mktemp -d "${TMPDIR:-/tmp}/nginit-tests.XXXXXX")
# A name of its own, so that a demo that runs on this machine stays as it is.
export NGINIT_DEMO_NAME=nginit-test-$$
results=()
failed=0
demo_pid=''
borrowed=()

# Nothing stays behind: no demo, no tag that was only lent.
tidy() {
  trap '' INT TERM
  if [[ -n $demo_pid ]]; then kill -TERM "$demo_pid" 2>/dev/null; wait "$demo_pid"; fi
  ./setup.sh down >/dev/null 2>&1
  local tag
  for tag in "${borrowed[@]}"; do docker rmi "$tag" >/dev/null 2>&1; done
  rm -rf "$scratch"
}
trap tidy EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# step NAME COMMAND...: run it, note how it went and how long it took, go on either way.
step() {
  local name=$1 began=$SECONDS
  shift
  printf '\n==== %s\n' "$name"
  if "$@"; then
    results+=("ok      $name ($((SECONDS - began)) s)")
  else
    local status=$?
    failed=1
    printf '==== FAILED: %s (status %s)\n' "$name" "$status"
    results+=("FAILED  $name (status $status, $((SECONDS - began)) s)")
  fi
}

# skip NAME WHY: only where a person watches.
skip() {
  if [[ $ci == true ]]; then
    failed=1
    results+=("FAILED  $1: cannot run, $2")
  else
    results+=("skipped $1: $2")
  fi
}

# ---- what the tests need ---------------------------------------------------------------------------------------------

install() {
  local wanted=() pair
  # program:package
  for pair in nginx:nginx-light mmdebstrap:mmdebstrap tini:tini curl:curl cc:gcc shellcheck:shellcheck ps:procps \
    unshare:util-linux ip:iproute2 script:bsdutils python3:python3 openssl:openssl serf:serf faketime:faketime; do
    have "${pair%%:*}" || [[ -x /usr/sbin/${pair%%:*} ]] || wanted+=("${pair#*:}")
  done
  python3 -c 'import ensurepip, venv' 2>/dev/null || wanted+=(python3-venv)
  have chromium || wanted+=(chromium fonts-liberation)
  if have docker && ! docker compose version >/dev/null 2>&1 && ! have docker-compose; then wanted+=(docker-compose); fi
  if ((${#wanted[@]})); then
    if ! may_install; then
      echo "missing, and not to be installed without root and apt: ${wanted[*]}"
      return 1
    fi
    echo "installing ${wanted[*]}"
    apt_install "${wanted[@]}" || return
  fi
  if ! have cargo; then
    echo "cargo is missing; install Rust (https://rustup.rs)"
    return 1
  fi
  if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
    rustup component add rustfmt clippy
  fi
}

# ---- the steps -------------------------------------------------------------------------------------------------------

shell_files() {
  # SC1090: a file that is known only when it runs cannot be followed, and need not be.
  git ls-files -co --exclude-standard -z -- '*.sh' .ci/run | xargs -0 shellcheck -x -e SC1090
}

documentation() {
  RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked --document-private-items
}

# venv NAME REQUIREMENTS: a Python of the tests' own, and its path.
venv() {
  local dir=$out/$1
  [[ -x $dir/bin/pip ]] || python3 -m venv "$dir" || return
  "$dir/bin/pip" install --quiet -r "$2" >&2 || return
  echo "$dir/bin/python"
}

# What no nginx has a part in is tested once.
without_nginx='kind(lib) + package(dynamic) + binary(model) + binary(names) + binary(layering) + binary(orders) + binary(admin)
  + test(no_environment_makes_reading_it_panic) + test(no_value_becomes_a_directive)'

# What depends on how nginx follows servers.
with_resolve='binary(live) + binary(live_storm) + binary(live_dns) + binary(race) + binary(sticky) + binary(boot)'

# suite NGINX [FILTER]: the test suite but the containers, with that nginx; whole, or what the filter of nextest lets through.
suite() {
  local filter=${2:-all()}
  local -x NGINX_BIN=$1 REQUIRE_NGINX=1 REQUIRE_SERF=1 REQUIRE_FAKETIME=1 NGINIT_TEST_PYTHON
  "$NGINX_BIN" -v || return
  NGINIT_TEST_PYTHON=$(venv test-grpc tests/grpc/requirements.txt) || [[ $ci != true ]] || return
  if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --workspace --locked --no-fail-fast -E "$filter"
  else
    cargo test --workspace --locked --no-fail-fast
  fi
}

system_nginx() {
  command -v nginx || echo /usr/sbin/nginx
}

make_base() {
  tests/images/make-base.sh --dir "$images" "$@"
}

# lend NAME IMAGE: an image a Dockerfile names by default is there under that name; if no registry gives it, a tag on one
# of our own stands in while the tests run.
lend() {
  docker image inspect "$1" >/dev/null 2>&1 && return
  timeout 900 docker pull --quiet "$1" 2>/dev/null && return
  docker tag "$2" "$1" && borrowed+=("$1")
}

# containers BASE: the container tests on that image, but those of a swarm.
containers() {
  NGINIT_TEST_BASE=$1 NGINIT_TEST_BINARY=$PWD/dist/nginit NGINIT_TEST_DYNAMIC=$PWD/dist/dynamic \
    cargo test --workspace --locked --test containers -- --ignored --test-threads=4 --skip swarm::
}

# swarm BASE: those of a swarm. The engine enters one and leaves it, which containers of other tests would not survive.
swarm() {
  NGINIT_TEST_BASE=$1 NGINIT_TEST_BINARY=$PWD/dist/nginit NGINIT_TEST_DYNAMIC=$PWD/dist/dynamic \
    cargo test --workspace --locked --test containers -- --ignored --test-threads=1 swarm::
}

# examples BASE: each of examples/, started by Compose; what they show does not hang on nginx's version.
examples() {
  NGINIT_TEST_BASE=$1 NGINIT_TEST_BINARY=$PWD/dist/nginit NGINIT_TEST_DYNAMIC=$PWD/dist/dynamic \
    cargo test --workspace --locked --test examples -- --ignored --test-threads=4
}

# browser URL NAME: the page in a real browser; screenshots go to the build directory.
browser() {
  local python
  python=$(venv test-venv tests/browser/requirements.txt) || return
  "$python" tests/browser/check.py "$1" --screenshot-dir "$out/screenshots/$2"
}

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# leftovers: containers and networks of the tests' demo that are still there.
leftovers() {
  docker ps -aq --filter "name=$NGINIT_DEMO_NAME"
  docker network ls -q --filter "name=$NGINIT_DEMO_NAME"
}

# A tree as a reader has it who has built nothing yet. Sets reader.
reader_tree() {
  reader=$scratch/reader
  mkdir -p "$reader" && git ls-files -coz --exclude-standard | xargs -0 cp -P --parents -t "$reader"
}

# compile: the static binaries by this machine's cargo, and the demo's images in the builder stage, which each keep one core busy;
# what they say is kept apart.
compile() {
  local images=0 status=0
  if wants demo; then
    lend nginx:1.30 nginit-test/nginx:1.30
    lend rust:1.95-bookworm nginit-test/rust:debian
    reader_tree || return
    (cd "$reader" && build_images) >"$scratch/images.log" 2>&1 &
    images=$!
  fi
  static_binaries || status=1
  if ((images)) && ! wait "$images"; then
    cat "$scratch/images.log"
    status=1
  fi
  return "$status"
}

# The demo as a reader of the README starts it: in containers, everything compiled in the builder stage.
demo_docker() {
  local port
  port=$(free_port)
  (cd "$reader" && NGINIT_DEMO=docker PORT=$port ./setup.sh up) || return
  browser "http://localhost:$port/" docker || return
  ./setup.sh down || return
  [[ -z $(leftovers) ]] || { echo "left behind: $(leftovers)"; return 1; }
}

# The same as processes; "up" stays in the foreground, so here it is put in the background and stopped as Ctrl-C would. How fast
# the programs are, and how small, is not what is looked at, so the compiler need not take its time.
demo_local() {
  local port deadline=$((SECONDS + 600)) status=0
  local -x CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1
  port=$(free_port)
  export XDG_RUNTIME_DIR=$scratch
  NGINIT_DEMO=local PORT=$port ./setup.sh up >"$scratch/up.log" 2>&1 &
  demo_pid=$!
  until grep -q 'The demo runs' "$scratch/up.log"; do
    if ((SECONDS > deadline)) || ! kill -0 "$demo_pid" 2>/dev/null; then
      cat "$scratch/up.log"
      return 1
    fi
    sleep 0.2
  done
  browser "http://127.0.0.1:$port/" local || status=1
  local pids
  pids=$(cut -d' ' -f1 "$scratch/$NGINIT_DEMO_NAME-$UID"/*.pid)
  kill -TERM "$demo_pid"
  wait "$demo_pid" || { echo "up ended with status $?, not 0"; status=1; }
  demo_pid=''
  local pid
  for pid in $pids; do
    ! kill -0 "$pid" 2>/dev/null || { echo "process $pid was left behind"; status=1; }
  done
  [[ ! -e $scratch/$NGINIT_DEMO_NAME-$UID ]] || { echo "its directory was left behind"; status=1; }
  ((status == 0)) || cat "$scratch/up.log"
  return "$status"
}

# ---- all of it -------------------------------------------------------------------------------------------------------

step "what the tests need is installed" install

if wants lint; then
  step "rustfmt" cargo fmt --all --check
  step "clippy" cargo clippy --workspace --all-targets --locked -- -D warnings
  step "fuzz targets compile" cargo check --locked --manifest-path fuzz/Cargo.toml --target-dir "$out"
  step "rustdoc" documentation
  step "shellcheck" shell_files
  step "licences and sources of the dependencies" python3 tests/licences.py
fi

if wants unit; then
  step "test suite, the system's nginx" suite "$(system_nginx)"
  step "examples of the documentation" cargo test --workspace --locked --doc
fi

if wants newer; then
  step "nginx 1.30 from Debian forky" make_base nginx-1.30
  step "test suite, nginx 1.30" suite "$images/nginx-1.30" "not ($without_nginx)"
  # The stable branch before, which follows servers without a reload and has no cookies of its own.
  step "nginx 1.28 from its source" tests/images/build-nginx.sh --dir "$images" 1.28
  step "what nginx follows, nginx 1.28" suite "$images/nginx-1.28" "$with_resolve"
fi

if wants containers || wants demo; then
  if engine_answers; then
    step "base images" make_base image-1.30 nginx-1.22 builder
    step "static binaries, and images compiled in the builder stage" compile
  else
    skip "containers" "no Docker engine answers"
  fi
fi

if wants containers && engine_answers; then
  step "containers, nginx 1.30" containers nginit-test/nginx:1.30
  step "containers, nginx 1.22" containers nginit-test/nginx:1.22
  step "a swarm, nginx 1.30" swarm nginit-test/nginx:1.30
  step "examples, nginx 1.30" examples nginit-test/nginx:1.30
fi

if wants demo; then
  if engine_answers; then
    step "demo in containers, compiled in the builder stage" demo_docker
  fi
  step "demo as processes" demo_local
fi

printf '\n==== summary, %s minutes\n' "$(((SECONDS + 59) / 60))"
printf '%s\n' "${results[@]}"
exit "$failed"
