#!/bin/sh
# A stand-in: where it is asked for, worker_processes of nginx.conf becomes a number; a file without it stays as it is.
set -e
[ -n "${NGINX_ENTRYPOINT_WORKER_PROCESSES_AUTOTUNE:-}" ] || exit 0
main=/etc/nginx/nginx.conf
touch "$main" 2>/dev/null || { echo "30-tune: ERROR: $main cannot be written"; exit 0; }
sed -i.bak -E "s/^(worker_processes)(.*)$/# was\n#\1\2\n\1 $(nproc);/" "$main"
