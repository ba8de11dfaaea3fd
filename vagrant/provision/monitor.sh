#!/bin/bash
# monitor.sh NODE: Prometheus on port 9090 with the alerts of grafana/alerts, Grafana on port 3000 with the
# dashboards of grafana/dashboards. No password, as the lab is nobody else's.
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

packages curl prometheus
routes "${OTHER_LANS[@]}" "$POOL"

# shellcheck disable=SC2016 # jq's variables
{
    hosts=$(topology '.hosts[] | select(.memory) |
        "      - targets: [\"\(.address):9887\"]\n        labels: { instance: \(.name) }"')
    etcd=$(topology '.services[] | select(.name == "etcd") | .address')
}
put /etc/prometheus/wayleave.yml <"$TOP/grafana/alerts/wayleave.yml"
put /etc/prometheus/prometheus.yml <<EOF
global:
  scrape_interval: 15s
  evaluation_interval: 15s
rule_files: [/etc/prometheus/wayleave.yml]
scrape_configs:
  - job_name: wayleave
    static_configs:
$hosts
  - job_name: etcd
    static_configs:
      - targets: ["$etcd:2379"]
  - job_name: prometheus
    static_configs:
      - targets: ["localhost:9090"]
EOF
promtool check config /etc/prometheus/prometheus.yml >/dev/null
serve prometheus
until_true 60 "Prometheus is ready" curl -fsS http://localhost:9090/-/ready

for file in datasources/prometheus.yml dashboards/wayleave.yml; do
    put "/etc/grafana/provisioning/$file" <"$TOP/grafana/provisioning/$file"
done
for file in "$TOP"/grafana/dashboards/*.json; do
    put "/var/lib/grafana/dashboards/wayleave/${file##*/}" <"$file"
done
put /etc/systemd/system/grafana-server.service.d/lab.conf <<'EOF'
[Service]
Environment=PROMETHEUS_URL=http://localhost:9090
Environment=GF_AUTH_ANONYMOUS_ENABLED=true
Environment=GF_AUTH_ANONYMOUS_ORG_ROLE=Admin
Environment=GF_ANALYTICS_REPORTING_ENABLED=false
EOF
if [ -z "${LAB_OFFLINE-}" ]; then
    packages ca-certificates
    # Debian has no Grafana; this is how its makers say to install it.
    if [ ! -s /etc/apt/keyrings/grafana.asc ]; then
        curl -fsS https://apt.grafana.com/gpg.key | install -D -m 644 /dev/stdin /etc/apt/keyrings/grafana.asc
        echo 'deb [signed-by=/etc/apt/keyrings/grafana.asc] https://apt.grafana.com stable main' \
            >/etc/apt/sources.list.d/grafana.list
        rm -f /run/lab-apt-updated
    fi
    packages grafana
    serve grafana-server
    until_true 120 "Grafana answers" curl -fsS http://localhost:3000/api/health
fi
