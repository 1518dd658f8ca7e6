#!/usr/bin/env bash
# usage: ./setup.sh [up | down | test | help]
#
#   up      build everything and start the demo on http://localhost:7777/: two static servers, two API servers, and
#           nginit with nginx in front of them. The default.
#   down    stop the demo and remove its containers and its network
#   test    install what the tests need, then run all of them
#   help    this text
#
# With Docker the demo runs in containers. Where no engine answers, or the images it starts from cannot be had, the same
# programs run as processes on 127.0.0.1, until Ctrl-C or ./setup.sh down.
#
# environment:
#   PORT          port of the demo (7777)
#   BASE          image with nginx (nginx:1.30); one that is on this machine is used as it is, else it is pulled
#   BUILDER       image with Rust (rust:1.95-bookworm), in the same way; if it cannot be had, this machine's cargo builds
#   NGINIT_DEMO   docker or local: that way or not at all (auto)
#   NGINX_BIN     nginx for the processes (the one in PATH, installed from the system's packages if there is none)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

PORT=${PORT:-7777}
BASE=${BASE:-nginx:1.30}
BUILDER=${BUILDER:-rust:1.95-bookworm}
MODE=${NGINIT_DEMO:-auto}
# The prefix of everything the demo leaves outside this directory; the tests take another one.
DEMO=${NGINIT_DEMO_NAME:-nginit-demo}
STATE=${XDG_RUNTIME_DIR:-/tmp}/$DEMO-$UID

say() { printf '%s\n' "$@"; }
warn() { printf 'setup: %s\n' "$*" >&2; }
die() { warn "$@"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# ---- what both ways need ---------------------------------------------------------------------------------------------

# http_status PORT PATH: the status of a GET on 127.0.0.1, 000 when there is no answer. Bash alone, for bare machines.
http_status() {
  (
    exec 3<>"/dev/tcp/127.0.0.1/$1"
    printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$2" >&3
    IFS=' ' read -r -t 5 -u 3 _ status _
    printf '%s\n' "$status"
  ) 2>/dev/null || echo 000
}

# wait_ready ALIVE: until the page and the API answer 200; gives up after a while or when the command ALIVE fails.
wait_ready() {
  local deadline=$((SECONDS + 30)) page='' api=''
  while ((SECONDS < deadline)); do
    page=$(http_status "$PORT" /)
    api=$(http_status "$PORT" /api/student)
    [[ $page == 200 && $api == 200 ]] && return
    "$@" || break
    sleep 0.2
  done
  warn "the demo does not answer: GET / gives $page, GET /api/student gives $api (000 is no answer)"
  return 1
}

# as_root COMMAND...: as root if we are, else by sudo if that asks nothing.
as_root() {
  if ((UID == 0)); then "$@"; else sudo -n "$@"; fi
}

may_install() {
  have apt-get && { ((UID == 0)) || sudo -n true 2>/dev/null; }
}

# apt_install PACKAGE...: from the system's packages. No package may start a service: Debian's nginx would take port 80.
apt_install() {
  local policy=/usr/sbin/policy-rc.d ours=''
  if [[ ! -e $policy ]]; then
    ours=1
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 0755 "$policy"
  fi
  local status=0
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" ||
    { as_root apt-get update &&
      as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } || status=$?
  [[ -z $ours ]] || as_root rm -f "$policy"
  return "$status"
}

# ---- containers ------------------------------------------------------------------------------------------------------

engine_answers() {
  have docker && docker version --format '{{.Server.Version}}' >/dev/null 2>&1
}

have_image() {
  docker image inspect "$1" >/dev/null 2>&1 || {
    say "pulling $1"
    docker pull --quiet "$1"
  }
}

# static_binaries: nginit and the demo API as dist/nginit and dist/dynamic, by this machine's cargo, without libraries.
static_binaries() {
  [[ $(uname -s) == Linux ]] || die "only Linux's cargo can build for the images; let Docker have the image $BUILDER"
  local target out=${CARGO_TARGET_DIR:-$PWD/target}
  target=$(rustc -vV | sed -n 's/^host: //p')
  # One after the other: built together, nginit would get all features of libraries that the demo API needs, 25 kB.
  local program
  for program in nginit dynamic; do
    RUSTFLAGS='-C target-feature=+crt-static -C force-frame-pointers=yes' \
      cargo build --release --locked -p "$program" --bins --target "$target" --target-dir "$out" || return
  done
  mkdir -p dist && cp "$out/$target/release/nginit" "$out/$target/release/dynamic" dist/
}

# build_images: the three images, from BASE, and compiled by BUILDER or by this machine's cargo.
build_images() {
  local builder=$BUILDER nginit='' dynamic=''
  if ! have_image "$BUILDER"; then
    have cargo || die "neither the image $BUILDER nor cargo is to be had; install Rust (https://rustup.rs)," \
      "or name an image with cargo and a C linker: BUILDER=... ./setup.sh"
    say "no image $BUILDER here, so this machine's cargo builds the programs"
    static_binaries
    builder=$BASE nginit=dist/nginit dynamic=dist/dynamic
  fi
  docker build -f nginx/Dockerfile -t nginit \
    --build-arg "BASE=$BASE" --build-arg "BUILDER=$builder" --build-arg "BINARY=$nginit" .
  docker build -f nginx/Dockerfile -t nginit:unprivileged --target unprivileged \
    --build-arg "BASE=$BASE" --build-arg "BUILDER=$builder" --build-arg "BINARY=$nginit" .
  docker build -f static/Dockerfile -t nginit-demo/static --build-arg "BASE=$BASE" .
  docker build -f dynamic/Dockerfile -t nginit-demo/dynamic \
    --build-arg "BUILDER=$builder" --build-arg "BINARY=$dynamic" .
}

proxy_runs() {
  [[ $(docker inspect --format '{{.State.Running}}' "$DEMO-proxy" 2>/dev/null) == true ]]
}

up_docker() {
  build_images
  down_docker
  docker network create "$DEMO" >/dev/null
  local n
  for n in 1 2; do
    docker run -d --network "$DEMO" --name "$DEMO-static-$n" --hostname "static-$n" nginit-demo/static >/dev/null
    docker run -d --network "$DEMO" --name "$DEMO-dynamic-$n" --hostname "dynamic-$n" nginit-demo/dynamic >/dev/null
  done
  if ! docker run -d --network "$DEMO" --name "$DEMO-proxy" -p "$PORT:80" \
    -e STATIC_BACKEND="$DEMO-static-1 $DEMO-static-2" \
    -e DYNAMIC_BACKEND="$DEMO-dynamic-1:8080 $DEMO-dynamic-2:8080" \
    nginit >/dev/null || ! wait_ready proxy_runs; then
    for n in static-1 static-2 dynamic-1 dynamic-2 proxy; do
      warn "---- the log of $DEMO-$n ----"
      docker logs --tail 50 "$DEMO-$n" >&2 || true
    done
    down_docker
    die "the demo did not start; the logs are above"
  fi
  say "" "The demo runs: http://localhost:$PORT/"
  say "its log: docker logs -f $DEMO-proxy    its end: ./setup.sh down"
}

down_docker() {
  local found
  found=$(docker ps -aq --filter "name=^/?$DEMO-(static-[12]|dynamic-[12]|proxy)\$")
  # shellcheck disable=SC2086  # a list of ids
  [[ -z $found ]] || docker rm -f -v $found >/dev/null
  [[ -z $(docker network ls -q --filter "name=^$DEMO\$") ]] || docker network rm "$DEMO" >/dev/null
}

# ---- processes -------------------------------------------------------------------------------------------------------

# find_nginx: sets nginx to a program that can be run.
find_nginx() {
  local candidate
  for candidate in "${NGINX_BIN:-}" nginx /usr/sbin/nginx /usr/local/sbin/nginx; do
    nginx=$(command -v "$candidate" 2>/dev/null) && return
  done
  may_install || die "nginx is missing and must be installed by you: on Debian and Ubuntu 'sudo apt-get install nginx-light'," \
    "on Fedora 'sudo dnf install nginx', on Alpine 'apk add nginx', on Arch 'sudo pacman -S nginx'"
  say "installing nginx from the system's packages"
  apt_install nginx-light || die "apt could not install nginx-light; see above"
  hash -r
  nginx=$(command -v nginx || echo /usr/sbin/nginx)
}

# birth PID: when that process started, to tell it from a later one of the same number; fails if there is none.
birth() {
  local stat
  [[ -r /proc/$1/stat ]] && stat=$(<"/proc/$1/stat") && [[ -n $stat ]] || return
  stat=${stat##*) }
  # shellcheck disable=SC2086  # fields
  set -- $stat
  [[ $1 != Z ]] && echo "${20}"
}

# is_ours NAME: is the process we once started under that name still there? Sets pid.
is_ours() {
  local started
  [[ -r $STATE/$1.pid ]] && read -r pid started <"$STATE/$1.pid" && [[ $(birth "$pid") == "$started" ]]
}

# start NAME COMMAND...: in the background, its output in a log.
start() {
  local name=$1
  shift
  "$@" >"$STATE/$name.log" 2>&1 </dev/null &
  echo "$! $(birth $!)" >"$STATE/$name.pid"
}

# free_port: the next port nobody answers on. Sets port.
free_port() {
  port=$((port + 1))
  while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
}

servers='static-1 static-2 dynamic-1 dynamic-2'

all_run() {
  local name
  for name in $servers proxy; do
    is_ours "$name" || { warn "$name has ended"; return 1; }
  done
}

show_logs() {
  local name
  for name in $servers proxy; do
    [[ -s $STATE/$name.log ]] || continue
    warn "---- the log of $name ----"
    tail -n 50 "$STATE/$name.log" >&2
  done
}

up_local() {
  [[ $(uname -s) == Linux ]] || die "only Linux can run the demo as processes; start Docker and try again"
  have cargo || die "cargo is missing; install Rust (https://rustup.rs) and try again"
  local nginx=''
  find_nginx
  down_local
  if (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; then
    die "port $PORT is in use; choose another one: PORT=8888 ./setup.sh"
  fi
  say "building the programs"
  local out=${CARGO_TARGET_DIR:-$PWD/target}
  cargo build --release --locked --workspace --bins --target-dir "$out"

  # In /tmp anyone may have made it before us.
  (umask 077 && mkdir -p "$STATE")
  [[ -O $STATE && ! -L $STATE ]] || die "$STATE belongs to somebody else; set XDG_RUNTIME_DIR to a directory of yours"
  trap 'down_local' EXIT
  trap 'say "" "stopping the demo"; exit 0' INT TERM HUP

  # Root's workers must reach what is below a home directory.
  local user='' n port=$PORT static='' dynamic=''
  ((UID)) || user='user root;'
  local mime
  mime=$("$nginx" -V 2>&1 | sed -n 's/.*--conf-path=\([^ ]*\)\/[^ /]*.*/\1/p')/mime.types

  for n in 1 2; do
    free_port
    mkdir -p "$STATE/static-$n"
    static_conf "$STATE/static-$n" >"$STATE/static-$n/nginx.conf"
    start "static-$n" "$nginx" -e stderr -c "$STATE/static-$n/nginx.conf" -g 'daemon off;'
    static+=" 127.0.0.1:$port"
    free_port
    start "dynamic-$n" "$out/release/dynamic" --listen "127.0.0.1:$port"
    dynamic+=" 127.0.0.1:$port"
  done

  # The image's nginx.conf, with this machine's directories.
  mkdir -p "$STATE/proxy/conf.d"
  {
    [[ -z $user ]] || say "$user"
    sed -e "s|/run/nginit/|$STATE/proxy/|" -e "s|/etc/nginx/mime.types|$mime|" -e '\|include /etc/nginx/conf.d|d' \
      nginx/nginx.conf
  } >"$STATE/proxy/nginx.conf"
  start proxy env -u NGINIT_DEMO -u NGINIT_DEMO_NAME STATIC_BACKEND="${static# }" DYNAMIC_BACKEND="${dynamic# }" NGINIT_LISTEN="127.0.0.1:$PORT" \
    NGINIT_CONF_DIR="$STATE/proxy/conf.d" NGINIT_NGINX="$nginx" \
    "$out/release/nginit" run -- "$nginx" -c "$STATE/proxy/nginx.conf" -g 'daemon off;'

  if ! wait_ready all_run; then
    show_logs
    die "the demo did not start; the logs are above"
  fi
  say "" "The demo runs: http://127.0.0.1:$PORT/" \
    "its logs: $STATE/*.log    its end: Ctrl-C here, or ./setup.sh down elsewhere"
  while true; do
    wait -n || true
    [[ ! -e $STATE/stopping && -e $STATE/proxy.pid ]] || break # ./setup.sh down
    all_run || { show_logs; die "the demo ended by itself; the logs are above"; }
  done
}

# static_conf DIR: a server for the demo page, on $port, that writes nothing outside DIR.
static_conf() {
  cat <<CONF
$user
pid $1/nginx.pid;
error_log stderr notice;
worker_processes 1;
events {}
http {
    access_log off;
    client_body_temp_path $1/client_body;
    proxy_temp_path       $1/proxy;
    fastcgi_temp_path     $1/fastcgi;
    uwsgi_temp_path       $1/uwsgi;
    scgi_temp_path        $1/scgi;
    server {
        listen 127.0.0.1:$port;
        root "$PWD/static/html";
        include "$PWD/static/site.conf";
    }
}
CONF
}

# down_local: end what "up" started, the proxy first so that its requests finish, and nothing else.
down_local() {
  [[ -d $STATE && -O $STATE && ! -L $STATE ]] || return 0
  local name pid deadline
  : >"$STATE/stopping"
  for name in proxy $servers; do
    if is_ours "$name"; then
      kill -TERM "$pid" 2>/dev/null || true
      deadline=$((SECONDS + 12))
      while is_ours "$name"; do
        if ((SECONDS > deadline)); then kill -KILL "$pid" 2>/dev/null || true; fi
        sleep 0.05
      done
    fi
  done
  rm -rf "$STATE"
}

# ---- the commands ----------------------------------------------------------------------------------------------------

up() {
  case $MODE in
    docker)
      engine_answers || die "no Docker engine answers: $(docker version 2>&1 | tail -n 1)"
      have_image "$BASE" || die "the image $BASE cannot be had"
      up_docker
      ;;
    local) up_local ;;
    auto)
      if ! engine_answers; then
        say "No Docker engine answers, so the demo runs as processes on 127.0.0.1."
        up_local
      elif ! have_image "$BASE"; then
        say "The image $BASE cannot be had, so the demo runs as processes on 127.0.0.1."
        up_local
      else
        up_docker
      fi
      ;;
    *) die "NGINIT_DEMO is docker, local or auto, not \"$MODE\"" ;;
  esac
}

down() {
  if engine_answers; then down_docker; fi
  down_local
  say "The demo is stopped."
}

# tests/all.sh takes the functions alone.
[[ ${BASH_SOURCE[0]} == "$0" ]] || return 0

case ${1:-up} in
  up) up ;;
  down) down ;;
  test) exec tests/all.sh "${@:2}" ;;
  help | -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" ;;
  *)
    warn "there is no command \"$1\"; see ./setup.sh help"
    exit 2
    ;;
esac
