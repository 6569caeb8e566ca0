#!/bin/sh
# probe.sh liveness|readiness, in container `redis`.
# Alive is any answer of Redis's own (LOADING, a refused password, too many clients): a restart would only make it load again.
# Ready is a master, or a replica in sync: the next pod of an upgrade or a drain waits for that.
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
answer=$(here 'INFO replication persistence') || {
  echo 'Redis does not answer'
  exit 1
}
case $answer in
  *loading:1*) echo 'Redis is loading its data' ;;
  *role:master* | *master_link_status:up*) exit 0 ;;
  *role:slave*) echo 'a replica that is not in sync with its master' ;;
  *) echo "$answer" | head -n 1 ;;
esac
exit 1
