#!/bin/bash
# etcd.sh NODE: the store, one member. Subnets are leased from it; nothing that is in use hangs on it.
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

packages etcd-client etcd-server
routes "${OTHER_LANS[@]}" "$POOL"

put /etc/default/etcd <<EOF
ETCD_NAME=$NAME
ETCD_LISTEN_CLIENT_URLS=http://$ADDRESS:2379,http://127.0.0.1:2379
ETCD_ADVERTISE_CLIENT_URLS=http://$ADDRESS:2379
ETCD_LISTEN_PEER_URLS=http://$ADDRESS:2380
ETCD_INITIAL_ADVERTISE_PEER_URLS=http://$ADDRESS:2380
ETCD_INITIAL_CLUSTER=$NAME=http://$ADDRESS:2380
ETCD_LOG_LEVEL=warn
EOF

serve etcd
until_true 60 "etcd serves" etcdctl --endpoints="http://$ADDRESS:2379" endpoint health
