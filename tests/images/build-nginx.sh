#!/usr/bin/env bash
# Builds nginx from source, for the versions that Debian has no package of, with the modules that Debian's nginx-light has.
#
# usage: tests/images/build-nginx.sh [--dir DIR] [--source TREE] VERSION...
#
# The stable branch's source comes out of the crate nginx-src: VERSION is 1.28 for the newest that there is of it. Other versions
# are built from TREE, which has the source: an unpacked tarball, or a checkout of nginx's repository; VERSION then is only a name.
#
# What is built is DIR/nginx-VERSION (default: target/test-images), a single file that runs with `-p` and `-c` anywhere on this
# machine. It stays, so a second run takes no time; remove it to build it anew. Each is printed on stdout as
# "nginx-VERSION=FILE"; what happens on the way goes to stderr. Takes a minute a version. Needs cargo, a C compiler, make and
# what Debian calls libpcre2-dev, zlib1g-dev and libssl-dev, which are installed where they are missing and apt-get is there.
set -euo pipefail

cd "$(dirname "$0")/../.."
dir=target/test-images
tree=
versions=()
while (($#)); do
  case $1 in
    --dir) dir=${2:?--dir needs a directory}; shift 2 ;;
    --source) tree=$(cd "${2:?--source needs a directory}" && pwd); shift 2 ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    -*) echo "build-nginx: unknown option \"$1\"; see --help" >&2; exit 2 ;;
    *) versions+=("$1"); shift ;;
  esac
done
((${#versions[@]})) || { echo "build-nginx: no version; see --help" >&2; exit 2; }
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# install_missing: the compiler and the headers, by apt.
install_missing() {
  local packages=()
  command -v cc >/dev/null || packages+=(gcc libc6-dev)
  command -v make >/dev/null || packages+=(make)
  [[ -e /usr/include/pcre2.h ]] || packages+=(libpcre2-dev)
  [[ -e /usr/include/zlib.h ]] || packages+=(zlib1g-dev)
  [[ -e /usr/include/openssl/ssl.h ]] || packages+=(libssl-dev)
  ((${#packages[@]})) || return 0
  command -v apt-get >/dev/null || { echo "build-nginx: missing: ${packages[*]}" >&2; exit 1; }
  echo "build-nginx: installing ${packages[*]}" >&2
  DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends "${packages[@]}" >&2
}

# unpack_crate VERSION: its source as $work/VERSION. Cargo fetches the crate and checks it, as part of a package that is there for
# that alone. The crate's own version ends with nginx's: 1.28.5+1.28.3.
unpack_crate() {
  local version=$1 package=$work/package manifest
  mkdir -p "$package/src"
  : >"$package/src/lib.rs"
  printf '[package]\nname = "source"\nedition = "2024"\n[dependencies]\nnginx-src = "~%s"\n' "$version" >"$package/Cargo.toml"
  manifest=$(cargo metadata --quiet --format-version 1 --manifest-path "$package/Cargo.toml" |
    grep -o '"manifest_path":"[^"]*/nginx-src-[^"]*/Cargo.toml"' | cut -d '"' -f 4) || true
  [[ -n $manifest ]] || { echo "build-nginx: there is no crate nginx-src $version; give --source" >&2; exit 1; }
  manifest=${manifest%/Cargo.toml}
  echo "build-nginx: ${manifest##*/}" >&2
  cp -R "$manifest/nginx" "$work/$version"
}

# build DIRECTORY: its objs/nginx. Paths and modules are Debian's, but for those that load at run time.
build() {
  local configure=./configure
  cd "$1"
  [[ -e $configure ]] || configure=auto/configure
  $configure \
    --prefix=/usr/share/nginx --conf-path=/etc/nginx/nginx.conf --pid-path=/run/nginx.pid --lock-path=/var/lock/nginx.lock \
    --error-log-path=stderr --http-log-path=/var/log/nginx/access.log --modules-path=/usr/lib/nginx/modules \
    --http-client-body-temp-path=/var/lib/nginx/body --http-proxy-temp-path=/var/lib/nginx/proxy \
    --http-fastcgi-temp-path=/var/lib/nginx/fastcgi --http-uwsgi-temp-path=/var/lib/nginx/uwsgi \
    --http-scgi-temp-path=/var/lib/nginx/scgi \
    --with-cc-opt=-O2 --with-compat --with-debug --with-pcre-jit --with-threads \
    --with-http_ssl_module --with-http_v2_module --with-http_realip_module --with-http_stub_status_module \
    --with-http_auth_request_module --with-http_dav_module --with-http_slice_module --with-http_addition_module \
    --with-http_flv_module --with-http_gunzip_module --with-http_gzip_static_module --with-http_mp4_module \
    --with-http_random_index_module --with-http_secure_link_module --with-http_sub_module \
    --with-stream --with-stream_ssl_module --with-stream_ssl_preread_module --with-stream_realip_module
  make -j "$(nproc)"
}

for version in "${versions[@]}"; do
  built=$dir/nginx-$version
  if [[ ! -x $built ]]; then
    install_missing
    if [[ -n $tree ]]; then
      mkdir "$work/$version"
      tar -c -C "$tree" --exclude=./.git --exclude=./objs . | tar -x -C "$work/$version"
    else
      unpack_crate "$version"
    fi
    echo "build-nginx: building nginx $version" >&2
    (build "$work/$version") >"$work/log" 2>&1 || { tail -n 30 "$work/log" >&2; exit 1; }
    strip -o "$built.part" "$work/$version/objs/nginx"
    mv "$built.part" "$built"
    rm -rf "${work:?}/$version"
  fi
  "$built" -v 2>&1 | sed 's/^/build-nginx: /' >&2
  echo "nginx-$version=$built"
done
