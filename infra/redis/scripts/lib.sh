# shellcheck shell=sh
# What the scripts of a Redis pod share. topology.sh, sourced before, says who is who (infra/redis/conf.py renders it).
#
# A view is text, one line for each answer:
#   redis INDEX role link master_host offset beat keys loading last_io
#   sentinel INDEX master_host config_epoch
# Host `-` stands for none. `beat` is a number that the master writes every second (sentinel.sh): of two data sets the one with
# the higher beat is the younger, whatever was restarted, loaded from disk or cut off in between.

log() { echo "session-store: $*" >&2; }

# Nobody's replica: a Redis that serves reads and refuses writes.
ORPHAN='127.0.0.1 1'

# hashes_of FILE...: the passwords in those of the files that are there, as an ACL takes them.
hashes_of() {
  for key in "$@"; do
    [ ! -s "$key" ] || printf '#%s ' "$(sha256sum <"$key" | cut -c1-64)"
  done
}

# A pod that has not seen the new Secret yet still logs in with the password before.
internal_hashes() { hashes_of "$SECRETS/internal/internal" "$SECRETS/internal/internal-previous" "$RUN/retiring"; }

monitor_hashes() { hashes_of "$SECRETS/internal/monitor" "$SECRETS/internal/monitor-previous"; }

# look_up: write where every pod is into /etc/hosts, which is ours (members.py). A pod's Sentinel is connected to this Redis from
# where it is now; of who is not, the name server may know more; who cannot be found is where it was.
#
# Redis and Sentinel stand still while they look up a name. A name server that dies with a node takes half of all lookups with
# it for as long as the node counts as ready: just when the pods have to find each other, nobody would answer. And a name server
# with a cache sends them to where a pod was before its restart.
look_up() {
  [ -n "${pods:-}" ] || pods=$(for i in $(indexes); do echo "$(identity "$i" | cut -c1-8) $(address "$i")"; done)
  # A connection that is silent for longer is of a Sentinel that is gone. The last one is the youngest.
  heard=$(
    here 'CLIENT LIST TYPE normal' |
      sed -n 's/.* addr=\([0-9.]*\):.* name=sentinel-\([0-9a-f]*\)-cmd .* idle=[0-3] .*/\2 \1/p'
    [ -z "${POD_IP:-}" ] || echo "$(identity "$SELF" | cut -c1-8) $POD_IP"
  )
  known=$(
    echo '127.0.0.1 localhost'
    echo "$pods" | while read -r id host; do
      case $heard in
        *"$id "*) ip=${heard##*"$id "} ip=${ip%%[!0-9.]*} ;;
        *) ip=$(getent -s hosts:dns ahostsv4 "$host" | awk 'NR == 1 { print $1 }') ;;
      esac
      [ -n "$ip" ] || ip=$(awk -v host="$host" '$2 == host { print $1 }' "$HOSTS")
      [ -z "$ip" ] || echo "$ip $host"
    done
  )
  [ "$known" = "$(cat "$HOSTS")" ] || echo "$known" >"$HOSTS"
}

# ask HOST PORT COMMANDS: the answers to commands (one a line), nothing when there is none in time. HOST may be a socket's path.
# A password is in no argument: commands go in by stdin, the password by the environment of a process that lives for moments.
ask() {
  case $1 in
    /*) set -- "-s $1" "$3" ;;
    *) set -- "-h $1 -p $2 ${TLS:+--tls --cacert $SECRETS/redis-tls/ca.crt}" "$3" ;;
  esac
  for key in "$KEYS" "$KEYS_PREVIOUS" "$RUN/applied"; do
    [ -s "$key" ] || continue
    IFS= read -r password <"$key" || :
    # shellcheck disable=SC2086 # words on purpose
    answer=$(printf '%s\n' "$2" | REDISCLI_AUTH=$password timeout "${LIMIT:-1}" \
      redis-cli --no-auth-warning --user "$AGENT" $1 2>&1) || return 1
    case $answer in
      *WRONGPASS* | NOAUTH*) continue ;;
      'Could not connect'* | 'Error: '*) return 1 ;;
    esac
    printf '%s\n' "$answer"
    return 0
  done
  return 1
}

here() { ask "$SOCKET" - "$1"; }

# offset FIELD: that line of an INFO on stdin, without its carriage return.
offset() { sed -n "s/^$1:\([0-9]*\).*/\1/p"; }

indexes() { seq 0 $((REPLICAS - 1)); }

# index_of HOST: which pod of ours that is; nothing for another.
index_of() {
  for i in $(indexes); do
    [ "$(address "$i")" != "$1" ] || echo "$i"
  done
}

# resolves HOST: whether the name server knows it. A pod's name is known for as long as there is the pod, ready or not.
resolves() { getent -s hosts:dns ahosts "$1" >/dev/null; }

identity() { address "$1" | sha1sum | cut -c1-40; }

# The answers to QUESTION, as a line of a view. A pod's address may be another pod's by now: who answers must be who was asked.
QUESTION='CONFIG GET replica-announce-ip
INFO replication persistence keyspace
EVAL "return '"'beat:' .. (redis.call('get', KEYS[1]) or '0')"'" 1 session-store:beat'

redis_row() {
  ask "$2" "$PORT" "$QUESTION" | awk -F: -v i="$1" -v host="$(address "$1")" '
    NR == 2 && $0 != host { exit }
    { sub(/\r$/, ""); value[$1] = substr($0, length($1) + 2) }
    /^db[0-9]+:keys=/ { split($2, part, /[=,]/); keys += part[2] }
    END {
      if (!("role" in value)) exit
      slave = value["role"] == "slave"
      print "redis", i, value["role"], slave ? value["master_link_status"] : "-", slave ? value["master_host"] : "-",
        slave ? value["slave_repl_offset"] : value["master_repl_offset"], value["beat"] == "" ? 0 : value["beat"], keys + 0,
        value["loading"] + 0, slave ? value["master_last_io_seconds_ago"] : 0
    }'
}

sentinel_row() {
  ask "$(address "$1")" "$SENTINEL_PORT" "SENTINEL MYID
SENTINEL MASTER $SERVICE" | awk -v i="$1" -v id="$(identity "$1")" '
    NR == 1 { if ($0 != id) exit; next }
    NR % 2 == 0 { name = $0; next } { value[name] = $0 }
    END { if ("ip" in value) print "sentinel", i, value["ip"], value["config-epoch"] }'
}

# sentinels: a view of every Sentinel.
sentinels() {
  (
    for i in $(indexes); do sentinel_row "$i" & done
    wait
  )
}

# survey [INDEX]: a view of every pod but INDEX.
survey() {
  (
    for i in $(indexes); do
      [ "$i" != "${1:-}" ] || continue
      redis_row "$i" "$(address "$i")" &
      sentinel_row "$i" &
    done
    wait
  )
}

# agreed VIEW: index of the master that a majority of all Sentinels name.
agreed() {
  host=$(echo "$1" | awk -v need="$MAJORITY" '$1 == "sentinel" { n[$3]++ } END { for (h in n) if (n[h] >= need) print h }')
  [ -z "$host" ] || index_of "$host"
}

# row VIEW INDEX FIELD: a field of a Redis's line.
row() { echo "$1" | awk -v i="$2" -v field="$3" '$1 == "redis" && $2 == i { print $field }'; }

count() { echo "$1" | grep -c "^$2 "; }

# best VIEW: index of the Redis with the most data.
best() { echo "$1" | awk '$1 == "redis" && !$9' | sort -k7,7nr -k6,6nr -k8,8nr -k2,2n | awk 'NR == 1 { print $2 }'; }

# win_vote VIEW: be elected for a new epoch by a majority of all Sentinels, as a Sentinel is that wants to fail over. Whoever
# else tries meanwhile has another epoch, and the higher one wins everywhere. Sets $epoch. Votes are for the agent, not for the
# Sentinel of its pod: under one name both would win with the same votes, and could name two masters for the same epoch.
epoch=0
win_vote() {
  epoch=$(echo "$1" | awk -v top="$epoch" '$1 == "sentinel" && $4 + 0 > top + 0 { top = $4 } END { print top + 1 }')
  me=$(echo "agent $(address "$SELF")" | sha1sum | cut -c1-40)
  for step in 1 2 4 8 16 32; do
    # Each answers with whom it has voted for last, and in which epoch.
    votes=$(
      echo "$1" | awk '$1 == "sentinel" { print $2, $3 }' | {
        while read -r i named; do
          ask "$(address "$i")" "$SENTINEL_PORT" "SENTINEL IS-MASTER-DOWN-BY-ADDR $named $PORT $epoch $me" | tr '\n' ' ' &
        done
        wait
      } | awk -v me="$me" -v epoch="$epoch" -v RS=' ' '
        NR % 3 == 2 { leader = $0 }
        NR % 3 == 0 { if ($0 == epoch) { if (leader == me) mine++; else others++ } if ($0 + 0 > top) top = $0 + 0 }
        END { print mine + 0, others + 0, top + 0 }'
    )
    # shellcheck disable=SC2086 # words on purpose
    set -- "$1" $votes
    [ "$2" -lt "$MAJORITY" ] || return 0
    [ "$3" -eq 0 ] || break # somebody else is at it
    [ "$4" -lt "$epoch" ] || epoch=$4
    epoch=$((epoch + step))
  done
  log "no majority of Sentinels voted for this pod in epoch $epoch"
  return 1
}

# announce INDEX VIEW: tell every Sentinel of the view, in the words of Sentinels, that INDEX is the master as of $epoch.
announce() {
  (
    for i in $(echo "$2" | awk '$1 == "sentinel" { print $2 }'); do
      other=$(((i + 1) % REPLICAS)) # a Sentinel takes no news from itself
      ask "$(address "$i")" "$SENTINEL_PORT" \
        "PUBLISH __sentinel__:hello $(address $other),$SENTINEL_PORT,$(identity $other),$epoch,$SERVICE,$(address "$1"),$PORT,$epoch" >/dev/null &
    done
    wait
  )
}

# follow INDEX VIEW: make every other Redis of the view a replica of INDEX; connections that remember it as master are cut.
follow() {
  (
    for i in $(echo "$2" | awk '$1 == "redis" { print $2 }'); do
      [ "$i" != "$1" ] || continue
      ask "$(address "$i")" "$PORT" "REPLICAOF $(address "$1") $PORT
CLIENT KILL TYPE normal SKIPME yes" >/dev/null &
    done
    wait
  )
}

# crown INDEX VIEW: after the vote. The news first: an agent that sees a second master before it would undo it.
crown() {
  announce "$1" "$2"
  ask "$(address "$1")" "$PORT" 'REPLICAOF NO ONE' | grep -q '^OK' || return 1
  follow "$1" "$2"
}

# promote INDEX VIEW: make INDEX the master, with a majority's vote.
promote() {
  win_vote "$2" && crown "$1" "$2" || return 1
  log "$(address "$1") is the master now (epoch $epoch)"
}

# level MASTER REPLICA: wait, at most a second, until the Redis that command REPLICA asks has all that the one of MASTER wrote.
level() {
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12; do
    written=$($1 'INFO replication' | offset master_repl_offset)
    has=$($2 'INFO replication' | offset slave_repl_offset)
    [ -z "$written" ] || [ "$written" != "$has" ] || return 0
    sleep 0.05
  done
  return 1
}

# render_users: ACL lines; each user is known by every generation of its password that is valid.
render_users() {
  echo "user default on resetpass $(hashes_of "$SECRETS/redis/password" "$SECRETS/redis/previous") ~* &* +@all"
  # Nothing that shows a key, a value or a password: no CONFIG GET, no SLOWLOG GET.
  monitor=$(monitor_hashes)
  [ -z "$monitor" ] || echo "user monitor on resetpass $monitor resetchannels -@all +ping +role +info +latency|latest +slowlog|len"
  [ -n "$SENTINEL_PORT" ] || return 0
  internal=$(internal_hashes)
  echo "user agent on resetpass $internal ~* &* +@all"
  echo "user replication on resetpass $internal resetchannels -@all +psync +replconf +ping"
  # A Sentinel may promote, in a failover that it was elected for. It may not turn anybody into a replica: one that was cut off
  # does that to the new master, in the first moment after the cut, by what it knew before (+convert-to-slave).
  echo "user sentinel on resetpass $internal allchannels -@all +multi +slaveof|no +ping +exec +subscribe +config|rewrite +role +publish +info +client|setname +client|kill +script|kill"
}

# client_key: the password to log in to other pods with: all of them know the previous one while there is one.
client_key() {
  if [ -s "$KEYS_PREVIOUS" ]; then cat "$KEYS_PREVIOUS"; else cat "$KEYS"; fi
}

stamp() { cat "$SECRETS"/redis/* "$SECRETS"/internal/* "$SECRETS"/redis-tls/* 2>/dev/null | cksum; }
