#!/bin/sh
# probe.sh liveness|readiness, in container `redis`.
# Alive is any answer of Redis's own (LOADING, a refused password, too many clients): a restart would only make it load again.
# Ready is PONG, from a master or from a replica in sync: the next pod of an upgrade or a drain waits for that.
set -u
: "${CONF:=/etc/redis}"
. "$CONF/topology.sh"
. "$CONF/lib.sh"
. "$CONF/aof.sh"

if [ -e "$RUN/refused" ]; then
  echo 'the append-only file is damaged: the log of this container says what to do'
  [ "$1" = liveness ]
  exit
fi
if [ "$1" = liveness ]; then
  REDISCLI_AUTH=$(cat "$KEYS") timeout 4 redis-cli --no-auth-warning --user "$AGENT" -s "$SOCKET" PING 2>&1 | grep -vq '^Could not\|^Error'
  exit
fi
LIMIT=4
answer=$(here 'PING
INFO replication') || {
  echo 'Redis does not answer'
  exit 1
}
case $answer in
  PONG*role:master*) ;;
  PONG*master_link_status:up*) ;;
  PONG*)
    echo 'a replica that is not in sync with its master'
    exit 1
    ;;
  *)
    echo "$answer" | head -n 1
    exit 1
    ;;
esac
