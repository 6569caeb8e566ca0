# shellcheck shell=sh
# Container `discovery`: what Prometheus scrapes, and its rules, from the API server. (Debian's Prometheus has no Kubernetes
# discovery of its own.) Labels as docs/metrics.md promises them; the PodMonitors of infra/monitoring.py give the same.
set -u
cd "${FOLDER:-/discovered}" || exit 1
account=/var/run/secrets/kubernetes.io/serviceaccount

# The token goes in by stdin: no argument shows it.
get() {
  printf 'header = "Authorization: Bearer %s"' "$(cat $account/token)" |
    curl --silent --show-error --fail --max-time 10 --cacert $account/ca.crt --config - "https://kubernetes.default.svc/api/v1/$1"
}

# Of a pod's containers, the one that has the port.
# shellcheck disable=SC2016 # jq's variables
TARGETS='[.items[] | select(.metadata.annotations["prometheus.io/scrape"] == "true" and .status.podIP and .status.phase == "Running")
  | .metadata as $m | $m.annotations["prometheus.io/port"] as $port
  | (first(.spec.containers[] | select(any(.ports[]?; .containerPort == ($port | tonumber))) | .name) // "") as $container
  | ($m.labels | with_entries(select(.key | IN("app", "app.kubernetes.io/component", "session-store/mode",
      "session-store/password-generation")) | .key |= gsub("[^a-z]"; "_"))) as $labels
  | {targets: ["\(.status.podIP):\($port)"], labels: ({namespace: $m.namespace, pod: $m.name, container: $container,
      job: "\($m.namespace)/\($labels.app // "")", __metrics_path__: ($m.annotations["prometheus.io/path"] // "/metrics")} + $labels)}]'

# Each key *.yaml of the labelled ConfigMaps, in any namespace, is a rule file.
# shellcheck disable=SC2016 # jq's variables
RULES='.items[] | .metadata as $m | .data // {} | to_entries[] | select(.key | endswith(".yaml"))
  | "\($m.namespace).\($m.name).\(.key) \(.value | @base64)"'

targets() {
  get pods >pods.new && jq "$TARGETS" <pods.new >targets.new && mv targets.new targets.json
}

rules() {
  get 'configmaps?labelSelector=session-store/alerts%3Dtrue' >maps.new && jq --raw-output "$RULES" <maps.new >files.new || return
  rm -rf next && mkdir next
  while read -r name text; do
    echo "$text" | base64 -d >"next/$name"
  done <files.new
  refused=
  for file in next/*; do
    [ -e "$file" ] || continue
    why=$(promtool check rules "$file" 2>&1) || { refused="$refused$why " && rm "$file"; }
  done
  [ "$refused" = "${told:-}" ] || echo "refused: $refused"
  told=$refused
  if ! diff -r rules next >/dev/null; then
    rm -rf rules && mv next rules
    curl --silent --show-error --fail --max-time 10 --request POST http://localhost:9090/-/reload
    echo "rules now: $(ls rules)"
  fi
}

mkdir -p rules
while :; do
  targets
  rules
  sleep 5
done
