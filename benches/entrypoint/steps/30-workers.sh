#!/bin/sh
# Would set worker_processes to the container's share; nobody asked for it.
set -eu

name=$(basename "$0")
[ "${WITH_WORKERS:-}" ] || exit 0
echo "$name: not needed here"
