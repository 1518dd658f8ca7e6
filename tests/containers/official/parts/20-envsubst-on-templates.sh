#!/bin/sh
# A stand-in: every template becomes a file, with the variables that are set, and pass the filter, in it.
set -e
from=${NGINX_ENVSUBST_TEMPLATE_DIR:-/etc/nginx/templates}
suffix=${NGINX_ENVSUBST_TEMPLATE_SUFFIX:-.template}
to=${NGINX_ENVSUBST_OUTPUT_DIR:-/etc/nginx/conf.d}
stream_suffix=${NGINX_ENVSUBST_STREAM_TEMPLATE_SUFFIX:-.stream-template}
stream_to=${NGINX_ENVSUBST_STREAM_OUTPUT_DIR:-/etc/nginx/stream-conf.d}
main=/etc/nginx/nginx.conf
say() {
  if [ -z "${NGINX_ENTRYPOINT_QUIET_LOGS:-}" ]; then echo "20-envsubst: $*"; fi
}

# each SUFFIX DIRECTORY: the templates of that suffix into that directory, in directories as they are in.
each() {
  find "$from" -follow -type f -name "*$1" | while read -r template; do
    name=${template#"$from"/}
    out=$2/${name%"$1"}
    say "$template becomes $out"
    mkdir -p "$(dirname "$out")"
    # Stands in for gettext's envsubst with a list of names.
    perl -pe 's/\$(?:\{(\w+)\}|(\w+))/my $n = $1 \/\/ $2; exists $ENV{$n} && $n =~ m{(?:$ENV{NGINX_ENVSUBST_FILTER})} ? $ENV{$n} : $&/ge' \
      <"$template" >"$out"
  done
}

export NGINX_ENVSUBST_FILTER="${NGINX_ENVSUBST_FILTER:-}"
[ -d "$from" ] || exit 0
if [ ! -w "$to" ]; then
  say "ERROR: $to cannot be written"
  exit 0
fi
each "$suffix" "$to"
if [ -n "$(find "$from" -name "*$stream_suffix" -print -quit)" ]; then
  mkdir -p "$stream_to"
  if ! grep -q '^ *stream *{' "$main"; then
    printf 'stream {\n  include %s/*.conf;\n}\n' "$stream_to" >>"$main"
  fi
  each "$stream_suffix" "$stream_to"
fi
