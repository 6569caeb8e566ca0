#!/bin/sh
# Container `haproxy`: fill the monitor's password into the configuration, on a memory volume; reload when it or the CA changed.
set -u
umask 077
: "${CONF:=/etc/haproxy}" "${RUN:=/run/haproxy}" "${SECRETS:=/run/secrets}"

render() {
  # A pod of Redis knows the new password a moment earlier or later than this one: log in with both, the last good one counts.
  for key in monitor-previous monitor; do
    [ ! -s "$SECRETS/monitor/$key" ] || printf 'AUTH monitor %s\\\\r\\\\n' "$(cat "$SECRETS/monitor/$key")"
  done >"$RUN/auth"
  sed "s|@AUTH@|$(cat "$RUN/auth")|" "$CONF/haproxy.cfg" >"$RUN/haproxy.cfg.new"
  rm -f "$RUN/auth"
  haproxy -c -q -f "$RUN/haproxy.cfg.new" && mv "$RUN/haproxy.cfg.new" "$RUN/haproxy.cfg"
}

stamp() { cat "$SECRETS"/monitor/* "$SECRETS"/redis-tls/* 2>/dev/null | cksum; }

trap 'kill -TERM "$haproxy"' TERM INT
render || exit 1
seen=$(stamp)
haproxy -W -db -f "$RUN/haproxy.cfg" &
haproxy=$!
while kill -0 "$haproxy" 2>/dev/null; do
  sleep 2 &
  wait $!
  now=$(stamp)
  if [ "$now" != "$seen" ] && render; then
    seen=$now
    kill -USR2 "$haproxy"
    echo 'session-store: a changed Secret was taken over, without a restart' >&2
  fi
done
wait "$haproxy"
