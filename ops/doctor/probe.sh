# Run in container `redis` by `ops doctor`, with the database and the prefix of the sessions: what this Redis says, in sections.
# Changes nothing. Passwords leave only as SHA-256; what sessions hold is looked at by the doctor and never shown.
: "${CONF:=/etc/redis}"
. "$CONF/topology.sh"
. "$CONF/lib.sh"
LIMIT=6

echo '@clock'
date +%s
echo '@disk'
df -kP "$DATA" | tail -n 1
echo '@mounted'
echo "$(hashes_of "$SECRETS/redis/password") $(hashes_of "$SECRETS/redis/previous")"
echo '@refused'
cat "$RUN/refused" 2>/dev/null
echo '@ping'
echo PING | timeout "$LIMIT" redis-cli -s "$SOCKET" 2>&1
echo '@logins'
for key in "$KEYS" "$KEYS_PREVIOUS" "$RUN/applied"; do
  [ -s "$key" ] || continue
  IFS= read -r password <"$key" || :
  echo PING | REDISCLI_AUTH=$password timeout "$LIMIT" redis-cli --no-auth-warning --user "$AGENT" -s "$SOCKET" 2>&1 | tail -n 1
done
echo '@info'
# Without errorstats: `here` takes a WRONGPASS that is counted there for its own.
here 'INFO server clients memory persistence stats replication'
echo '@config'
here 'CONFIG GET maxmemory*'
echo '@user'
here 'ACL GETUSER default'
if [ -n "$SENTINEL_PORT" ]; then
  echo '@sentinel'
  ask "$(address "$SELF")" "$SENTINEL_PORT" "SENTINEL GET-MASTER-ADDR-BY-NAME $SERVICE
SENTINEL CKQUORUM $SERVICE"
fi
echo '@sessions'
keys=$(here "SELECT $1
SCAN 0 MATCH $2* COUNT 1000" | grep "^$2[A-Za-z0-9_:.-]*\$" | head -n 100)
[ -z "$keys" ] || here "SELECT $1
$(for key in $keys; do printf 'ECHO %s\nTTL %s\nGET %s\n' "$key" "$key" "$key"; done)" | tail -n +2
