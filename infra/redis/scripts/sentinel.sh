#!/bin/sh
# Container `sentinel`: redis-sentinel, and the agent of this pod.
#
# Every agent looks after its own Redis. When the master is gone, the agent of the lowest pod that sees a majority of the pods
# has a majority of the Sentinels vote for a new epoch, promotes the Redis with the most data and announces it as a Sentinel
# would. Sentinel's own failover stands behind it, for when no agent is there to act (docs/adr/0006-failover.md).
set -u
umask 077
: "${CONF:=/etc/redis}"
. "$CONF/topology.sh"
. "$CONF/lib.sh"

FILE=$RUN/sentinel.conf
PATIENCE=4 # pings in a row that a master may leave unanswered

render() {
  view=$(survey)
  master=$(agreed "$view")
  cat "$CONF/sentinel.conf"
  render_sentinel_users | sed 's/^/user /'
  echo "sentinel myid $(identity "$SELF")"
  echo "sentinel announce-ip $(address "$SELF")"
  echo "sentinel announce-port $SENTINEL_PORT"
  echo "sentinel monitor $SERVICE $(address "${master:-0}") $PORT $MAJORITY"
  echo "sentinel down-after-milliseconds $SERVICE 2000"
  echo "sentinel failover-timeout $SERVICE 3000"
  echo "sentinel parallel-syncs $SERVICE $REPLICAS"
  echo "sentinel auth-user $SERVICE sentinel"
  echo "sentinel auth-pass $SERVICE $(client_key)"
  echo 'sentinel sentinel-user agent'
  echo "sentinel sentinel-pass $(client_key)"
  # Named from the start: no Sentinel ever takes a part of them for a majority.
  for i in $(indexes); do
    [ "$i" = "${master:-0}" ] || echo "sentinel known-replica $SERVICE $(address "$i") $PORT"
    [ "$i" = "$SELF" ] || echo "sentinel known-sentinel $SERVICE $(address "$i") $SENTINEL_PORT $(identity "$i")"
  done
}

render_sentinel_users() {
  internal=$(internal_hashes)
  echo "default on resetpass $internal ~* &* +@all"
  echo "agent on resetpass $internal ~* &* +@all"
  echo "monitor on resetpass $(monitor_hashes) resetchannels -@all +ping +sentinel|get-master-addr-by-name"
}

sentinel=
start_sentinel() {
  # What Sentinel has learned stays; passwords are as of now.
  if [ ! -s "$FILE" ]; then render >"$FILE.new" && mv "$FILE.new" "$FILE"; fi
  redis-server "$FILE" --sentinel &
  sentinel=$!
}

stop_sentinel() {
  kill -TERM "$sentinel" 2>/dev/null
  while kill -0 "$sentinel" 2>/dev/null; do wait "$sentinel"; done
}

# Changed Secrets: users and passwords go into the running Sentinel. It cannot read a certificate again, so that its process,
# not its container, is started anew; pod after pod, each in a second of its own.
apply() {
  answer=$(ask "$(address "$SELF")" "$SENTINEL_PORT" "$(render_sentinel_users | sed 's/^/ACL SETUSER /')
SENTINEL SET $SERVICE auth-pass $(client_key)
SENTINEL CONFIG SET sentinel-pass $(client_key)") || return 1
  case $answer in *ERR*) log "Sentinel: $(echo "$answer" | grep ERR | head -n 1)" ;; esac
  [ "$(tls_stamp)" != "$tls_seen" ] || return 0
  sleep $((SELF * 3))
  stop_sentinel
  start_sentinel
  tls_seen=$(tls_stamp)
  log 'Sentinel reads the new certificate'
}

tls_stamp() { cat "$SECRETS"/redis-tls/* 2>/dev/null | cksum; }

beat() {
  here "EVAL \"local n = math.max(tonumber(ARGV[1]), tonumber(redis.call('get', KEYS[1]) or '0') + 1) redis.call('set', KEYS[1], string.format('%.0f', n))\" 1 session-store:beat $(date +%s%3N)" >/dev/null
}

# ping_master HOST: ask it four times a second over one connection, as long as this pod follows it.
pinged=
ping_master() {
  [ -z "${pinger:-}" ] || kill "$pinger" 2>/dev/null
  pinged=$1 missed=0
  {
    printf 'AUTH agent %s\n' "$(client_key)"
    while echo PING; do sleep 0.25; done
  } | redis-cli -h "$1" -p "$PORT" ${TLS:+--tls --cacert "$SECRETS/redis-tls/ca.crt"} >"$RUN/pings" 2>"$RUN/pings.err" &
  pinger=$!
}

# answered: whether the master has answered since the last look; no fork, for it is asked with every tick.
answered() {
  if [ -s "$RUN/pings.err" ]; then
    missed=$PATIENCE
  elif [ "$RUN/pings" -nt "$RUN/looked" ]; then
    missed=0
  else
    missed=$((missed + 1))
  fi
  : >"$RUN/looked"
  [ $((tick % 4000)) -ne 0 ] || pinged= # a new file of answers now and then
  [ "$missed" -lt "$PATIENCE" ]
}

# healthy: whether this pod's Redis is what the Sentinels say, as cheaply as can be seen from here.
healthy() {
  if [ $((tick % 4)) -eq 0 ] || [ "$trouble" -gt 0 ]; then
    # shellcheck disable=SC2046 # words on purpose
    set -- $(redis_row "$SELF" "$SOCKET")
    role=${3:-} link=${4:-} follows=${5:-}
    [ "$role" != master ] || beat
  fi
  [ -n "$role" ] || return 1
  if [ $((tick % 12)) -eq 0 ] || [ "$trouble" -gt 0 ]; then
    # A master asks them all: its own Sentinel may be the one that missed the election of another.
    if [ "$role" = master ]; then view=$(sentinels); else view=$(sentinel_row "$SELF"); fi
    named=$(echo "$view" | awk -v i="$SELF" '$2 == i { print $3 }')
    master=$(agreed "$view")
    if [ -n "$master" ] && [ "$named" = "$(address "$SELF")" ]; then named=$(address "$master"); fi
  fi
  if [ "$role" = master ]; then
    [ -z "$pinged" ] || kill "$pinger" 2>/dev/null
    pinged= missed=0
    [ "$named" = "$(address "$SELF")" ]
    return
  fi
  [ "$pinged" = "$follows" ] || ping_master "$follows"
  answered && [ "$link" = up ] && [ "$named" = "$follows" ]
}

# heal: look at everybody and do what is mine to do. A pod does its own part at once; what concerns all is the acting pod's.
heal() {
  if [ "$missed" -ge "$PATIENCE" ]; then
    view=$(LIMIT=0.5 survey)
    pinged= # and is asked anew, over a new connection
  else
    view=$(survey)
  fi
  master=$(agreed "$view")
  role=$(row "$view" "$SELF" 3)
  follows=$(row "$view" "$SELF" 5)
  [ -n "$role" ] || return 0 # redis.sh starts it
  if [ -n "$master" ] && [ "$(row "$view" "$master" 3)" = master ]; then
    # A second look first: a handover may be on its way.
    if [ "$master" != "$SELF" ] && [ "$follows" != "$(address "$master")" ] && [ "$trouble" -gt 1 ]; then
      log "following $(address "$master"), which the Sentinels agree on"
      here "REPLICAOF $(address "$master") $PORT
CLIENT KILL TYPE normal SKIPME yes" >/dev/null
    fi
    # A Sentinel that missed it is told again.
    [ "$(sentinel_row "$SELF" | cut -d' ' -f3)" = "$(address "$master")" ] || [ "$trouble" -lt 5 ] || renew "$master" "$view"
    return 0
  fi
  act "$view" "$master"
}

renew() { acting "$2" && win_vote "$2" && announce "$1" "$2"; }

# acting VIEW: whether it is this pod's turn: the lowest at once, then one after the other, so that they do not all ask for votes
# at the same time.
acting() {
  rank=$(echo "$1" | awk -v me="$SELF" '$1 == "redis" && $2 < me' | wc -l)
  [ $((trouble / 2 % $(count "$1" redis))) -eq "$rank" ]
}

# act VIEW AGREED: there is no master. Choose one, if enough of us are there to know who has the most data.
act() {
  [ "$(count "$1" redis)" -ge "$MAJORITY" ] && [ "$(count "$1" sentinel)" -ge "$MAJORITY" ] || return 0
  if echo "$1" | awk '$1 == "redis" && $9 { found = 1 } END { exit !found }' && [ "$trouble" -lt 60 ]; then
    return 0 # one is still loading: it may be the one with the most
  fi
  if [ -n "$2" ] && [ -z "$(row "$1" "$2" 3)" ]; then
    # The agreed master does not answer. Its replicas must miss it too: else it is only this pod that cannot reach it.
    echo "$1" | awk '$1 == "redis" && $4 == "up" && $10 < 1 { alive = 1 } END { exit alive }' || return 0
  elif [ "$trouble" -lt 3 ] || { [ "$(count "$1" redis)" -lt "$REPLICAS" ] && [ "$trouble" -lt 8 ]; }; then
    return 0 # a handover on its way, or everybody is just starting: wait a moment for the rest
  fi
  acting "$1" || return 0
  if echo "$1" | awk '$1 == "redis" && $7 != "0" { found = 1 } END { exit found }'; then
    adopt "$1" && return 0
  fi
  [ "$(here 'EXISTS session-store:moved')" != 1 ] || return 0 # the standalone mode has the sessions now
  promote "$(best "$1")" "$1"
}

# adopt VIEW: nobody here has ever been master. Where the stack ran in standalone mode before, its data comes first.
adopt() {
  for from in $PREDECESSORS; do
    case $(old "$from" ROLE | head -n 1) in
      master) ;;
      '')
        # Silence is no proof that nothing is there: whoever went on without it would lose every session. Once the name server,
        # which knows this pod, does not know that one, it is gone; one that is there and never answers is waited for a minute.
        if resolves "$from" || ! resolves "$(address "$SELF")"; then
          [ "$trouble" -ge 60 ] || return 0
          log "going on without the sessions of $from, which does not answer"
        fi
        continue
        ;;
      *) continue ;;
    esac
    if [ "$(row "$1" "$SELF" 5)" != "$from" ]; then
      log "copying the sessions from $from"
      here "CONFIG SET masteruser default masterauth $(cat "$SECRETS/redis/password")
REPLICAOF $from $PORT" >/dev/null
    elif [ "$(row "$1" "$SELF" 4)" = up ]; then
      old "$from" 'CLIENT PAUSE 5000 WRITE' >/dev/null
      level "old $from" here || return 0 # and again with the next look
      here "CONFIG SET masteruser replication masterauth $(client_key)" >/dev/null
      promote "$SELF" "$1" || return 0
      old "$from" "REPLICAOF $ORPHAN
CLIENT KILL TYPE normal SKIPME yes" >/dev/null
      here 'DEL session-store:moved' >/dev/null
      log "took over from $from"
    fi
    return 0
  done
  return 1
}

old() (
  AGENT=default KEYS=$SECRETS/redis/password KEYS_PREVIOUS=$SECRETS/redis/previous
  ask "$1" "$PORT" "$2"
)

# Sentinel goes last: the handover (handover.sh) needs its vote.
trap 'stopping=1' TERM INT
stopping= tick=0 trouble=0 missed=0 role= link= follows= named= looking= seen=$(stamp) tls_seen=$(tls_stamp)
look_up
start_sentinel
while [ -z "$stopping" ]; do
  # Trouble that lasts is looked at once a second: looking costs something, and the machine may be what is in trouble.
  if [ "$trouble" -lt 12 ]; then pause=0.25; else pause=1; fi
  sleep "$pause" &
  wait $!
  tick=$((tick + 1))
  if ! kill -0 "$sentinel" 2>/dev/null; then
    log 'redis-sentinel ended: starting it again'
    start_sentinel
  fi
  if [ $((tick % 8)) -eq 0 ] && { [ -z "$looking" ] || ! kill -0 "$looking" 2>/dev/null; }; then
    look_up &
    looking=$!
  fi
  if [ $((tick % 8)) -eq 0 ] && now=$(stamp) && [ "$now" != "$seen" ]; then apply && seen=$now; fi
  if healthy; then
    trouble=0
  else
    trouble=$((trouble + 1))
    heal
  fi
done
for _ in $(seq 30); do
  [ "$(here ROLE | head -n 1)" = master ] || break
  sleep 0.3
done
stop_sentinel
