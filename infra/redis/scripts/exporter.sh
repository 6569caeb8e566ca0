#!/bin/sh
# Container `exporter`: redis_exporter, which tells Prometheus about the Redis of this pod ($ADDRESS, with $CA over TLS).
# It reads the CA with each scrape and the password only once: it is started anew when that changed. This container never ends by
# itself, for a pod that is not ready leaves its Service, and people need Redis more than its metrics.
set -u
umask 077
: "${RUN:=/run/exporter}" "${SECRETS:=/run/secrets}"
key=$SECRETS/monitor/monitor

# As Debian and the official image (the one with a shell) call it.
for program in prometheus-redis-exporter redis_exporter /redis_exporter; do
  ! command -v "$program" >/dev/null || break
done

start() {
  # A password of letters and digits (infra/credentials.py), in a file on a memory volume.
  printf '{"%s": "%s"}\n' "$ADDRESS" "$(cat "$key")" >"$RUN/passwords.json"
  "$program" -redis.addr "$ADDRESS" -redis.user monitor -redis.password-file "$RUN/passwords.json" \
    ${CA:+-tls-ca-cert-file "$CA"} -web.listen-address "${LISTEN:-:9121}" \
    -config-command - -set-client-name=false -redis-only-metrics &
  exporter=$!
}

pause() {
  sleep "$1" &
  wait $!
}

trap 'kill -TERM "$exporter" 2>/dev/null; exit 0' TERM INT
start
seen=$(cksum <"$key")
while :; do
  pause 2
  now=$(cksum <"$key")
  if [ "$now" != "$seen" ]; then
    pause 5 # Redis knows the new one by then, and still the one before
    seen=$now
    kill -TERM "$exporter" 2>/dev/null
    wait "$exporter" 2>/dev/null
    start
    echo 'session-store: a changed Secret was taken over, without a restart' >&2
  elif ! kill -0 "$exporter" 2>/dev/null; then
    echo 'session-store: the exporter ended: starting it again' >&2
    start
  fi
done
