#!/bin/sh
# preStop of container `redis`: a master that is asked to stop hands over first. Writes are held, not refused, until the heir has
# everything; then connections are cut and clients, connecting again, are led to it. No replica in sync: nothing is done, and
# what happens is what would have happened without this script.
set -u
: "${CONF:=/etc/redis}"
. "$CONF/topology.sh"
. "$CONF/lib.sh"
LIMIT=2 # a plan, not an emergency
# Into the container's log, too: what a hook prints goes nowhere.
say() {
  log "$*"
  { log "$*" 2>/proc/1/fd/2; } 2>/dev/null || :
}

[ "$(here ROLE | head -n 1)" = master ] || exit 0
view=$(survey)
# The lowest pod: an upgrade goes from the highest to the lowest, so that the master is on the old version until the last.
heir=$(echo "$view" | sort -k2,2n | awk -v me="$(address "$SELF")" '$1 == "redis" && $4 == "up" && $5 == me && !$9 { print $2; exit }')
if [ -z "$heir" ]; then
  say 'no replica is in sync: stopping without a handover'
  exit 0
fi
win_vote "$view" || exit 0
here 'CLIENT PAUSE 3000 WRITE' >/dev/null
if ! level here "ask $(address "$heir") $PORT"; then
  here 'CLIENT UNPAUSE' >/dev/null
  say "$(address "$heir") did not catch up: stopping without a handover"
  exit 0
fi
crown "$heir" "$view"
here 'CLIENT UNPAUSE' >/dev/null
say "handed over to $(address "$heir") (epoch $epoch)"
