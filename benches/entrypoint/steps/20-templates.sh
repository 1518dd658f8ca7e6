#!/bin/sh
# Puts the variables that are set, and no others, into every template.
set -e

name=$(basename "$0")
[ -d "$TEMPLATES" ] && [ -w "$CONF_DIR" ] || exit 0
variables=$(awk 'BEGIN { for (v in ENVIRON) if (v ~ /^[A-Za-z_]/) printf "${%s} ", v }')
find "$TEMPLATES" -type f -name '*.template' -print | while read -r template; do
    path=${template#"$TEMPLATES"/}
    mkdir -p "$CONF_DIR/$(dirname "$path")"
    echo "$name: $path"
    envsubst "$variables" <"$template" >"$CONF_DIR/${path%.template}"
done
