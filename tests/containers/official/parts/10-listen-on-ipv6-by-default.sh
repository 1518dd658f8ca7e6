#!/bin/sh
# A stand-in: the stock server listens on IPv6, too, if it is still the stock one.
set -e
conf=/etc/nginx/conf.d/default.conf
say() {
  if [ -z "${NGINX_ENTRYPOINT_QUIET_LOGS:-}" ]; then echo "10-ipv6: $*"; fi
}

[ -e /proc/net/if_inet6 ] || { say "no IPv6"; exit 0; }
[ -f "$conf" ] || { say "$conf is not there"; exit 0; }
touch "$conf" 2>/dev/null || { say "$conf cannot be changed"; exit 0; }
if grep -q 'listen  \[::\]:80;' "$conf"; then say "$conf listens already"; exit 0; fi
if ! cmp -s "$conf" /usr/share/stock-default.conf; then say "$conf is not the stock one"; exit 0; fi
sed -i 's/^\( *\)listen       80;/&\n\1listen  [::]:80;/' "$conf"
say "$conf listens on IPv6 now"
