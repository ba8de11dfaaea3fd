#!/bin/bash
# host.sh NODE: a container host. wayleave leases a subnet and tells the ToRs; Docker's bridge takes it; one container.
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

packages busybox-static docker.io iputils-ping nftables
routes "${OTHER_LANS[@]}"

install_wayleave
# shellcheck disable=SC2016 # jq's variables
{
    asn=$(topology '.hosts[] | select(.name == $name) | .asn')
    etcd=$(topology '.services[] | select(.name == "etcd") | .address')
    peers=$(topology '.tors[] | select(.rack == $rack) |
        "\n[[bgp.peers]]\nname = \"\(.name)\"\naddress = \"\(.address)\"\nasn = \(.asn)\nbfd = { interval = \"300ms\" }"')
}
put /etc/wayleave/wayleave.toml <<EOF
[node]
name = "$NAME"
address = "$ADDRESS"

[network]
pools = ["$POOL"]
tunnel = "never" # the ToRs know the way to every container

[store]
kind = "etcd"
endpoints = ["http://$etcd:2379"]

[bgp]
asn = $asn
mesh = false # the ToRs pass on what the other hosts say
$peers

[metrics]
listen = "$ADDRESS:9887"
EOF
wayleave check >/dev/null || die "its configuration is not usable: wayleave check"
serve wayleave

# Docker's bridge is the subnet: FLANNEL_SUBNET and FLANNEL_MTU come from subnet.env, which is there for good once
# there is a lease.
put /etc/systemd/system/docker.service.d/wayleave.conf <<'EOF'
[Unit]
Wants=wayleave.service
After=wayleave.service

[Service]
EnvironmentFile=-/run/wayleave/subnet.env
ExecStartPre=/usr/bin/timeout 600 /bin/sh -c 'until [ -s /run/wayleave/subnet.env ]; do sleep 0.2; done'
ExecStart=
ExecStart=/usr/sbin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock --bip=${FLANNEL_SUBNET} --mtu=${FLANNEL_MTU}
EOF
until_true 600 "a subnet from etcd; \`wayleave lease\` says more" test -s /run/wayleave/subnet.env
serve docker
until_true 60 "Docker answers" docker version

# A container that says on port 80 whom it sees: `wget -qO- http://ADDRESS/cgi-bin/who`.
if ! docker image inspect lab/box >/dev/null 2>&1; then
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    install -D -m 755 /bin/busybox "$root/bin/busybox"
    mkdir -p "$root"/{dev,etc,proc,sys,tmp}
    for tool in sh httpd wget ping nc ip sleep; do ln -s busybox "$root/bin/$tool"; done
    mkdir -p "$root/www/cgi-bin"
    cat >"$root/www/cgi-bin/who" <<'EOF'
#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\n%s\n' "$REMOTE_ADDR"
EOF
    chmod 755 "$root/www/cgi-bin/who"
    tar -C "$root" -c . | docker import - lab/box >/dev/null
fi
if ! docker container inspect box >/dev/null 2>&1; then
    # httpd as the first process takes no SIGTERM.
    docker run --detach --name box --hostname "box-$NAME" --restart always --stop-signal KILL \
        lab/box httpd -f -p 0.0.0.0:80 -h /www >/dev/null
fi
