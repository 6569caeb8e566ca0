# Sourced by the start script of a Redis pod: what to do about a damaged append-only file. POSIX sh.
#
#   if ! aof_mend /data/appendonlydir; then
#     aof_refuse /data/appendonlydir      # standalone: waits for a person, then sets the files aside
#     aof_set_aside /data/appendonlydir   # sentinel, a master is elsewhere: sync from it
#   fi
#
# While aof_refuse waits, $RUN/refused says why: the probes call the container alive, and not ready. It ends when
# /data/set-aside is made (`ops restore` does), or when the caller's trap sets $stopping.
#
# A torn tail (a power cut, a full disk) holds nothing that was ever acknowledged in full: it is
# cut off, and kept in a side file. Damage with valid commands behind it is another thing: to cut there would lose
# them silently, so a person decides.

aof_say() { printf 'session-store: %s\n' "$*"; }

# aof_mend DIR: 0 sound or mended, 2 damaged beyond that; says what it found.
aof_mend() {
  aof_dir=$1 aof_data=$(dirname "$1") aof_why=
  aof_manifest=$aof_dir/appendonly.aof.manifest aof_part=$aof_data/.aof-part
  rm -f "${RUN:-$aof_data}/refused" "$aof_part"
  [ -d "$aof_dir" ] || return 0
  if [ ! -e "$aof_manifest" ]; then
    for aof_file in "$aof_dir"/*.aof "$aof_dir"/*.rdb; do
      [ ! -e "$aof_file" ] || { aof_damaged "$aof_manifest is missing, but $aof_file is there"; return 2; }
    done
    return 0
  fi
  # Redis writes the manifest whole and renames it; `file NAME seq N type b|h|i`, h is what a rewrite replaced.
  aof_lines=$(tr -d '\000' < "$aof_manifest" | sed '/^#/d; /^$/d')
  if [ -z "$aof_lines" ] || printf '%s\n' "$aof_lines" | grep -Eqv '^file [^ /]+ seq [0-9]+ type [bhi]'; then
    aof_damaged "$aof_manifest is not readable"
    return 2
  fi
  aof_last=$(printf '%s\n' "$aof_lines" | awk '$6 == "i" { last = $2 } END { print last }')
  for aof_file in $(printf '%s\n' "$aof_lines" | awk '$6 != "h" { print $2 }'); do
    if [ ! -e "$aof_dir/$aof_file" ]; then
      aof_damaged "$aof_dir/$aof_file is missing"
      return 2
    fi
    aof_check "$aof_dir/$aof_file" && continue
    if [ "$aof_file" = "$aof_last" ] && aof_cut "$aof_dir/$aof_file"; then
      continue
    fi
    aof_damaged "$aof_why"
    return 2
  done
}

# aof_check FILE: is it sound? Else sets aof_why, aof_size and aof_good (bytes that are; -1: cannot be told).
aof_check() {
  aof_size=$(($(wc -c < "$1"))) aof_good=-1
  case $1 in
    *.rdb)
      aof_told=$(redis-check-rdb "$1" 2>&1) && return 0
      aof_at=$(printf '%s\n' "$aof_told" | awk '/RDB ERROR/ { on = 1; next } on { print; exit }')
      aof_why="$1 ($aof_size bytes) is damaged: ${aof_at:-$(printf '%s\n' "$aof_told" | tail -n 1)}"
      return 1
      ;;
  esac
  [ "$aof_size" -gt 0 ] || return 0
  aof_told=$(redis-check-aof "$1" 2>&1) && return 0
  aof_good=$(printf '%s\n' "$aof_told" | sed -n 's/.*ok_up_to=\([0-9]*\),.*/\1/p' | tail -n 1)
  aof_good=${aof_good:--1}
  if [ "$aof_good" -lt 0 ]; then
    aof_why="$1 ($aof_size bytes) cannot be checked: $(printf '%s\n' "$aof_told" | tail -n 1)"
  else
    aof_why="$1 ($aof_size bytes) is damaged at offset $aof_good"
  fi
  return 1
}

# aof_cut FILE: after a failed aof_check, drop the tail, unless it holds a valid command behind the damage.
aof_cut() {
  [ "$aof_good" -ge 0 ] || return 1
  aof_keep=$aof_good aof_full=$aof_size
  aof_transaction "$1" "$aof_keep"
  aof_from=$aof_at
  if [ "$aof_from" -lt "$aof_full" ] && aof_valid_after "$1" "$aof_from"; then
    aof_why="$1 ($aof_full bytes) is damaged at offset $aof_from, with valid commands after it (offset $aof_at)"
    return 1
  fi
  aof_side=$aof_data/$(basename "$1").dropped-$(date -u +%Y%m%dT%H%M%SZ)
  if ! tail -c +$((aof_keep + 1)) "$1" > "$aof_side" 2> /dev/null; then
    rm -f "$aof_side"
    aof_side='(not kept: no space)'
  fi
  truncate -s "$aof_keep" "$1" || { aof_why="$1 cannot be truncated to $aof_keep bytes"; return 1; }
  aof_say "the append-only file ended in a damaged tail: dropped $((aof_full - aof_keep)) bytes at offset $aof_keep of $1;" \
    "they are kept in $aof_side"
}

# aof_transaction FILE OFFSET: where the damage is. redis-check-aof names the start of an unfinished MULTI, whose
# commands are whole and no reason to refuse. Sets aof_at.
aof_transaction() {
  aof_at=$2
  if [ "$(tail -c +$((aof_at + 1)) "$1" | head -c 15 | tr -d '\000' | tr 'a-z' 'A-Z')" = "$(printf '*1\r\n$5\r\nMULTI\r\n')" ]; then
    aof_at=$((aof_at + 15))
    tail -c +$((aof_at + 1)) "$1" > "$aof_part" || return 0
    if [ ! -s "$aof_part" ] || redis-check-aof "$aof_part" > /dev/null 2>&1; then
      aof_at=$(($(wc -c < "$1")))
    else
      aof_more=$(redis-check-aof "$aof_part" 2>&1 | sed -n 's/.*ok_up_to=\([0-9]*\),.*/\1/p')
      aof_at=$((aof_at + ${aof_more:-0}))
    fi
    rm -f "$aof_part"
  fi
}

# aof_valid_after FILE OFFSET: does a whole command follow somewhere behind OFFSET? Sets aof_at to it.
aof_valid_after() {
  aof_cr=$(printf '\r')
  for aof_next in $(tail -c +$(($2 + 2)) "$1" | LC_ALL=C grep -abo "[*][1-9][0-9]*$aof_cr\$" | cut -d: -f1); do
    aof_at=$(($2 + 1 + aof_next))
    # No command of a session store is near this long.
    tail -c +$((aof_at + 1)) "$1" | head -c 16777216 > "$aof_part"
    aof_ok=$(redis-check-aof "$aof_part" 2>&1 | sed -n 's/.*ok_up_to=\([0-9]*\),.*/\1/p')
    aof_head=$(head -c 14 "$aof_part" | tr -d '\000')
    rm -f "$aof_part"
    [ "${aof_ok:-0}" -eq 0 ] && [ "$aof_head" != "$(printf '*1\r\n$4\r\nEXEC\r\n')" ] || return 0
  done
  return 1
}

# aof_damaged WHAT: the message, on the log and in $RUN/refused, which `ops restore` reads.
aof_damaged() {
  aof_latest=${AOF_BACKUP:-/etc/redis-backups/latest}
  {
    aof_say "$1"
    aof_say 'Redis does not start, so that nothing is lost silently.'
    if [ -s "$aof_latest" ]; then
      # First line: what and when; second line: the command.
      aof_say "The newest backup: $(sed -n 1p "$aof_latest")"
      aof_say "To go on with it:  $(sed -n 2p "$aof_latest")"
    else
      aof_say 'No backup is known here (ConfigMap redis-backups). To go on with one: python -m ops restore FILE --stack STACK'
    fi
    aof_say "To go on empty:    create $aof_data/set-aside; the damaged files are moved aside, not deleted"
  } > "${RUN:-$aof_data}/refused"
  cat "${RUN:-$aof_data}/refused"
}

# aof_refuse DIR: wait for set-aside beside DIR, saying why every minute (AOF_REPEAT seconds), then set the files aside.
aof_refuse() {
  aof_data=$(dirname "$1") aof_waited=0
  until [ -e "$aof_data/set-aside" ]; do
    [ -z "${stopping:-}" ] || exit 143
    # In the background, so that a trap of the caller's runs at once.
    sleep 1 &
    wait $! || true
    aof_waited=$((aof_waited + 1))
    if [ $((aof_waited % ${AOF_REPEAT:-60})) -eq 0 ]; then
      cat "${RUN:-$aof_data}/refused"
    fi
  done
  aof_set_aside "$1"
}

# aof_set_aside DIR: move the append-only files away; Redis starts empty, or syncs.
aof_set_aside() {
  aof_data=$(dirname "$1") aof_aside=$1.damaged-$(date -u +%Y%m%dT%H%M%SZ)
  [ ! -e "$aof_aside" ] || aof_aside=$aof_aside-$$
  [ ! -d "$1" ] || mv "$1" "$aof_aside"
  rm -f "${RUN:-$aof_data}/refused" "$aof_data/set-aside"
  aof_say "the damaged append-only files are in $aof_aside"
}
