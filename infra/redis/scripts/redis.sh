#!/bin/sh
# Container `redis`: render the passwords, decide whom to follow, keep redis-server running, apply changed Secrets to it.
# A redis-server that dies is started again here, without the kubelet's back-off of up to five minutes.
set -u
umask 077
: "${CONF:=/etc/redis}"
. "$CONF/topology.sh"
. "$CONF/lib.sh"
. "$CONF/aof.sh"

if [ ! -s "$SECRETS/redis/password" ]; then
  log "$SECRETS/redis/password is empty or missing: the password Secret has no key \"password\""
  exit 1
fi

render() {
  cp -f "$KEYS" "$RUN/applied"
  {
    printf 'requirepass "%s"\n' "$(sed 's/[\\"]/\\&/g' "$SECRETS/redis/password")"
    render_users
    if [ -n "$SENTINEL_PORT" ]; then
      printf 'masteruser replication\nmasterauth "%s"\n' "$(client_key)"
      printf 'replica-announce-ip %s\nreplica-announce-port %s\n' "$(address "$SELF")" "$PORT"
    else
      printf 'masteruser default\nmasterauth "%s"\n' "$(client_key | sed 's/[\\"]/\\&/g')"
    fi
    [ "$1" = 'no one' ] || echo "replicaof $1"
  } >"$RUN/auth.conf"
}

# Whom to follow. A Redis that was the master comes back with less than its replicas have: it never goes on as master. With
# nobody to follow it is an orphan until the agents (sentinel.sh) have found out who has the most data.
leader() {
  view=$(survey "$SELF")
  master=$(agreed "$view")
  if [ "$master" = "$SELF" ]; then
    heir=$(best "$view")
    # Not an empty one, nor one that has just been started itself (offset 0), with less than this one may have: then the agents
    # decide, with time to look at everybody.
    if [ -n "$heir" ] && [ "$(row "$view" "$heir" 7)" != 0 ] && [ "$(row "$view" "$heir" 6)" -gt 0 ] && promote "$heir" "$view"; then
      master=$heir
    else
      master=
    fi
  fi
  if [ -n "$master" ]; then echo "$(address "$master") $PORT"; else echo "$ORPHAN"; fi
}

# Standalone: the master of a sentinel mode that this stack comes from, if there is one. Pods that are there and do not answer are
# asked again for a while: whoever went on without them would lose every session.
predecessor_of_standalone() {
  until=$(($(date +%s) + 20))
  while :; do
    silent=
    for host in $PREDECESSORS; do
      case $(ask "$host" "$PORT" 'ROLE' 2>/dev/null | head -n 1) in
        master) echo "$host" && return ;;
        '') ! resolves "$host" || silent="$silent $host" ;;
      esac
    done
    [ -n "$silent" ] || return
    [ "$(date +%s)" -lt "$until" ] || break
    sleep 1
  done
  log "going on without the sessions of$silent, which do not answer"
}

# Standalone: once all is copied, take over from the sentinel mode. Its agents stay quiet when they see the key `moved`.
take_over() {
  until here 'INFO replication' | grep -q '^master_link_status:up'; do sleep 0.5; done
  until ask "$1" "$PORT" 'SET session-store:moved standalone
CLIENT PAUSE 5000 WRITE' >/dev/null && level "ask $1 $PORT" here; do sleep 1; done
  here 'REPLICAOF NO ONE
DEL session-store:moved' >/dev/null
  ask "$1" "$PORT" "REPLICAOF $ORPHAN
CLIENT KILL TYPE normal SKIPME yes" >/dev/null
  log "took over from $1"
}

# Changed Secrets go into the running server.
apply() {
  commands=$(render_users | sed 's/^user /ACL SETUSER /')
  # All three at once: a new certificate fits the new key only.
  [ -z "$TLS" ] || commands="$commands
CONFIG SET tls-cert-file $SECRETS/redis-tls/tls.crt tls-key-file $SECRETS/redis-tls/tls.key tls-ca-cert-file $SECRETS/redis-tls/ca.crt"
  [ -z "$SENTINEL_PORT" ] || commands="$commands
CONFIG SET masterauth $(client_key)"
  answer=$(here "$commands") || return 1
  cp -f "$KEYS" "$RUN/applied"
  case $answer in
    *ERR*) log "a changed Secret was not taken: $(echo "$answer" | grep ERR | head -n 1)" ;;
    *) log 'a changed Secret was taken over, without a restart' ;;
  esac
}

watch() {
  seen=$(stamp)
  while sleep 2; do
    now=$(stamp)
    if [ "$now" != "$seen" ]; then
      # The internal password before stays known for a while: every kubelet refreshes its Secrets within that time.
      if [ -n "$SENTINEL_PORT" ] && [ -s "$RUN/applied" ] && ! cmp -s "$RUN/applied" "$KEYS"; then
        cp -f "$RUN/applied" "$RUN/retiring"
      fi
      apply && seen=$now
    elif [ -s "$RUN/retiring" ] && [ -n "$(find "$RUN/retiring" -mmin +2)" ]; then
      rm -f "$RUN/retiring"
      apply
    fi
  done
}

# A damaged append-only file is mended, or set aside where a master has it all, or refused (aof.sh).
mend() {
  aof_mend "$DATA/appendonlydir" && return
  if [ -n "$SENTINEL_PORT" ] && master=$(agreed "$(survey "$SELF")") && [ -n "$master" ] && [ "$master" != "$SELF" ]; then
    aof_set_aside "$DATA/appendonlydir"
  else
    aof_refuse "$DATA/appendonlydir"
  fi
}

stopping=
trap 'stopping=1; kill -TERM "$server" 2>/dev/null' TERM INT
watch &
while :; do
  mend
  if [ -n "$SENTINEL_PORT" ]; then
    render "$(leader)"
  else
    before=$(predecessor_of_standalone)
    render "${before:-no one}${before:+ $PORT}"
  fi
  # What a Redis that was killed had not written to its end.
  rm -f "$RUN/answered" "$DATA"/temp-*.rdb "$DATA"/temp-*.aof
  # From stdin: Sentinel's CONFIG REWRITE finds no file to put what it learned into.
  redis-server - <"$CONF/redis.conf" &
  server=$!
  (
    until here PING >/dev/null; do
      sleep 0.2
      kill -0 "$server" 2>/dev/null || exit
    done
    : >"$RUN/answered"
  ) &
  [ -z "${before:-}" ] || take_over "$before" &
  code=0
  # A signal of ours ends `wait`, not the server.
  while kill -0 "$server" 2>/dev/null; do
    wait "$server"
    code=$?
  done
  [ -z "$stopping" ] || exit 0
  # One that cannot even start is the kubelet's to show.
  [ -e "$RUN/answered" ] || exit "$code"
  log "redis-server ended with code $code: starting it again"
done
