#!/bin/sh
# Adds IPv6 to the server of the package, if that is as it was installed.
set -e

name=$(basename "$0")
conf=$CONF_DIR/default.conf
say() { echo "$name: $1"; }

[ -e /proc/net/if_inet6 ] || { say "no IPv6"; exit 0; }
touch "$conf" 2>/dev/null || { say "$conf is read-only"; exit 0; }
if grep -q 'listen *\[::\]:80;' "$conf"; then
    say "has IPv6"
    exit 0
fi
sum=$(grep "$conf" "$PACKAGED_SUM" | cut -d ' ' -f 1)
if ! echo "$sum  $conf" | md5sum --check --status -; then
    say "$conf is not the package's"
    exit 0
fi
sed -i 's/^\( *\)listen  *80;/&\n\1listen [::]:80;/' "$conf"
say "IPv6 added"
