#!/bin/sh
# The CronJob's script: an RDB of a replica (standalone: of the only Redis) into $FOLDER, beside it its checksum.
# Environment: HOSTS PORT TLS USERNAME KEYS (files with the password, newest first) MODE FOLDER KEEP; infra/backup.py sets it.
set -u
umask 077

# The password is in the environment of redis-cli only, never in an argument.
cli() {
  # shellcheck disable=SC2086 # words on purpose
  REDISCLI_AUTH=$(cat "$key") redis-cli --no-auth-warning --user "$USERNAME" -h "$host" -p "$PORT" ${TLS:+--tls --cacert "$TLS"} "$@"
}

# In sentinel mode never the master: Sentinel would take redis-cli's --rdb for a replica of it.
fits() {
  told=
  for key in $KEYS; do
    [ -s "$key" ] || continue
    told=$(cli INFO replication 2>&1 | tr -d '\r')
    case $told in
      *WRONGPASS* | *NOAUTH*) continue ;;
      *role:slave*master_link_status:up*) return 0 ;;
      *role:master*) [ "$MODE" = standalone ] && return 0 ;;
    esac
    break
  done
  echo "$host: $(printf '%s\n' "$told" | grep -E '^(role|master_link_status):|rror|NOAUTH|WRONGPASS|not connect' | head -n 2 | tr '\n' ' ')" >&2
  return 1
}

rm -f "$FOLDER"/*.partial
for host in $HOSTS ''; do
  [ -n "$host" ] || { echo 'No replica is in sync: no backup.' >&2; exit 1; }
  fits && break
done

name=redis-$(date -u +%Y%m%dT%H%M%SZ).rdb
trap 'rm -f "$FOLDER"/*.partial' EXIT
trap 'exit 143' TERM INT
cli --rdb "$FOLDER/$name.partial" >"${TMPDIR:-/tmp}/said" 2>&1 &
wait $! || {
  echo "The backup from $host failed: $(tail -n 2 "${TMPDIR:-/tmp}/said" | tr '\n' ' ')" >&2
  df -h "$FOLDER" >&2
  exit 1
}
redis-check-rdb "$FOLDER/$name.partial" >"${TMPDIR:-/tmp}/said" || { tail -n 3 "${TMPDIR:-/tmp}/said" >&2; exit 1; }
(cd "$FOLDER" && sha256sum "$name.partial" | sed 's/\.partial$//' >"$name.sha256.partial") || exit 1
sync "$FOLDER/$name.partial" "$FOLDER/$name.sha256.partial"
mv "$FOLDER/$name.sha256.partial" "$FOLDER/$name.sha256"
mv "$FOLDER/$name.partial" "$FOLDER/$name"

ls -1r "$FOLDER" | grep -E '^redis-[0-9TZ]+\.rdb$' | tail -n +$((KEEP + 1)) | while read -r old; do
  rm -f "$FOLDER/$old" "$FOLDER/$old.sha256"
  echo "pruned $old"
done
echo "backup: $name $(cut -d' ' -f1 "$FOLDER/$name.sha256") $(($(wc -c <"$FOLDER/$name"))) bytes, from $host"
