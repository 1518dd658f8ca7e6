#!/usr/bin/env bash
# Makes, from Debian packages alone, what the tests need and a registry would otherwise give:
#
#   nginx-1.30   an executable: Debian forky's nginx, run on this machine by its own loader
#   nginx-1.22   the image nginit-test/nginx:1.22, Debian bookworm's nginx
#   image-1.30   the image nginit-test/nginx:1.30, Debian forky's nginx with its stream module, and fcgiwrap
#   builder      the image nginit-test/rust:debian, Debian forky's cargo and rustc
#
# usage: tests/images/make-base.sh [--dir DIR] [WHAT...]      (default: all of them)
#
# Everything is kept in DIR (target/test-images), so a second run takes no time; remove DIR to make all anew. Each thing
# made is printed on stdout as "NAME=VALUE"; what happens on the way goes to stderr. Needs mmdebstrap, and Docker for
# the images.
set -euo pipefail

cd "$(dirname "$0")/../.."
dir=target/test-images
what=()
while (($#)); do
  case $1 in
    --dir) dir=${2:?--dir needs a directory}; shift 2 ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    -*) echo "make-base: unknown option \"$1\"; see --help" >&2; exit 2 ;;
    *) what+=("$1"); shift ;;
  esac
done
((${#what[@]})) || what=(nginx-1.30 nginx-1.22 image-1.30 builder)
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

command -v mmdebstrap >/dev/null || { echo "make-base: mmdebstrap is missing; install the package mmdebstrap" >&2; exit 1; }

# The certificates this machine trusts: behind a proxy with an authority of its own, a builder must trust it as well.
host_ca=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}

# rootfs NAME SUITE PACKAGES: a root file system of that suite as DIR/NAME.tar.
rootfs() {
  local name=$1 suite=$2 packages=$3
  local tar=$dir/$name.tar
  [[ -s $tar ]] && return
  local options=(--quiet --format=tar --variant=minbase "--include=$packages")
  # This machine's own word on outdated package lists holds inside as well (a frozen mirror, a clock that is off).
  local stale
  stale=$(apt-config dump --format '%v' Acquire::Check-Valid-Until 2>/dev/null || true)
  [[ -z $stale ]] || options+=("--aptopt=Acquire::Check-Valid-Until \"$stale\"")
  if [[ -r $host_ca ]]; then
    options+=("--customize-hook=upload '$host_ca' /etc/ssl/certs/ca-certificates.crt")
  fi
  echo "make-base: $name from Debian $suite ($packages)" >&2
  mmdebstrap "${options[@]}" "$suite" "$tar.part" >&2
  mv "$tar.part" "$tar"
}

# image NAME TAG: DIR/NAME.tar as the image TAG, unless the engine has that very one.
image() {
  local name=$1 tag=$2 id
  id=$(docker image inspect --format '{{.Id}}' "$tag" 2>/dev/null || true)
  if [[ -z $id || $id != "$(cat "$dir/$name.id" 2>/dev/null)" ]]; then
    echo "make-base: $tag" >&2
    # The variables of the official images that a Dockerfile may lean on.
    docker import --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
      --message "made by tests/images/make-base.sh" "$dir/$name.tar" "$tag" >"$dir/$name.id"
  fi
  echo "$tag"
}

# Both come out of one root file system; the stream module and fcgiwrap are for the examples.
forky=(forky-more forky "nginx-light,libnginx-mod-stream,fcgiwrap,openssl,ca-certificates")

for thing in "${what[@]}"; do
  case $thing in
    nginx-1.30)
      rootfs "${forky[@]}"
      root=$dir/forky-more
      if [[ ! -d $root || $root.tar -nt $root ]]; then
        rm -rf "$root" "$root.part"
        mkdir "$root.part"
        tar -x -f "$root.tar" -C "$root.part" --exclude='./dev/*'
        touch "$root.part"
        mv "$root.part" "$root"
      fi
      lib=lib/$(uname -m)-linux-gnu
      loader=$(cd "$root" && find lib64/ lib/ -maxdepth 1 -name 'ld-linux-*.so.*' -print -quit)
      cat >"$dir/nginx-1.30.part" <<WRAPPER
#!/bin/sh
# Debian forky's nginx on any Linux: its own loader and libraries, this machine's files.
exec '$root/$loader' --argv0 "\$0" --library-path '$root/$lib:$root/usr/$lib' '$root/usr/sbin/nginx' "\$@"
WRAPPER
      chmod +x "$dir/nginx-1.30.part"
      mv "$dir/nginx-1.30.part" "$dir/nginx-1.30"
      "$dir/nginx-1.30" -v 2>&1 | sed 's/^/make-base: /' >&2
      echo "nginx-1.30=$dir/nginx-1.30"
      ;;
    nginx-1.22)
      rootfs bookworm-nginx bookworm nginx-light,ca-certificates
      echo "nginx-1.22=$(image bookworm-nginx nginit-test/nginx:1.22)"
      ;;
    image-1.30)
      rootfs "${forky[@]}"
      echo "image-1.30=$(image forky-more nginit-test/nginx:1.30)"
      ;;
    builder)
      rootfs forky-rust forky cargo,rustc,gcc,libc6-dev,ca-certificates
      echo "builder=$(image forky-rust nginit-test/rust:debian)"
      ;;
    *)
      echo "make-base: nothing is called \"$thing\"; see --help" >&2
      exit 2
      ;;
  esac
done
