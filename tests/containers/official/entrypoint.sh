#!/bin/sh
# Does what the official image's /docker-entrypoint.sh does, in words of our own: for nginx alone, every part of
# /docker-entrypoint.d in the order of versions, then the command. That a part is sourced in a pipe, so that what it exports
# reaches later parts and not nginx, is so there too.
set -e

say() {
  if [ -z "${NGINX_ENTRYPOINT_QUIET_LOGS:-}" ]; then echo "entrypoint: $*"; fi
}

case ${1:-} in
  nginx | nginx-debug)
    find /docker-entrypoint.d/ -follow -type f | sort -V | while read -r part; do
      if [ ! -x "$part" ]; then
        say "skips $part, which is not executable"
        continue
      fi
      case $part in
        *.envsh) say "sources $part"; . "$part" ;;
        *.sh) say "runs $part"; "$part" ;;
        *) say "ignores $part" ;;
      esac
    done
    say "is done"
    ;;
esac

exec "$@"
