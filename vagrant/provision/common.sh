# Sourced by the others: what this node is, and how a machine is brought to a state. Everything here may run any
# number of times; the second time it changes nothing.
#
# $1 is the node's name in topology.json. Read from there: NAME, RACK, ADDRESS, LAN (its rack's network), TORS
# (the addresses of its rack's ToRs), POOL.
#
# LAB_OFFLINE=1: nothing is fetched from the internet; Grafana, which is not in Debian, is then left out.
# LAB_PACKAGE=/path/to/wayleave_….deb: this package instead of the one in target/debian.
# shellcheck shell=bash

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
NAME=${1:?usage: $0 NODE, a name in topology.json}

say() { echo "$NAME: $*" >&2; }
die() { say "$*"; exit 1; }

# install PACKAGE…: those that are missing, without what they only recommend.
packages() {
    local package missing=()
    for package; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    [ -z "${LAB_OFFLINE-}" ] || die "not there, and LAB_OFFLINE is set: ${missing[*]}"
    say "installing ${missing[*]}"
    # Lists of the box are old: ask again once.
    [ -e /run/lab-apt-updated ] || apt-get -q update
    touch /run/lab-apt-updated
    DEBIAN_FRONTEND=noninteractive apt-get -y -q install --no-install-recommends "${missing[@]}"
}

packages jq

# topology FILTER: what jq makes of topology.json, with $name as this node's name and $rack as its rack's. FILTER is jq's.
topology() { jq -er --arg name "$NAME" --arg rack "${RACK-}" "$1" "$TOP/vagrant/topology.json"; }

# shellcheck disable=SC2016 # jq's variables
{
    RACK=$(topology '(.tors + .hosts + .services)[] | select(.name == $name) | .rack') || die "not in topology.json"
    ADDRESS=$(topology '(.tors + .hosts + .services)[] | select(.name == $name) | .address')
    POOL=$(topology .pool)
    LAN=$(topology '.racks[] | select(.name == $rack) | .lan')
    other_lans=$(topology '.racks[] | select(.name != $rack) | .lan')
    tors=$(topology '.tors[] | select(.rack == $rack) | .address')
}
mapfile -t OTHER_LANS <<<"$other_lans"
mapfile -t TORS <<<"$tors"
export ADDRESS POOL LAN OTHER_LANS

# Files that the next `serve` is about. One that changed has a mark until it is in use: a run may end in between.
about=()
mark() { echo "/var/lib/lab/changed/${1//\//_}"; }
changed() { # FILE: is written now
    about+=("$1")
    install -D /dev/null "$(mark "$1")"
}

# put FILE [MODE [OWNER]]: what comes in is the whole of FILE.
put() {
    local file=$1 mode=${2:-644} owner=${3:-root:root} new
    new=$(mktemp)
    cat >"$new"
    if ! cmp -s "$new" "$file"; then
        say "$file"
        changed "$file"
        install -D -m "$mode" -o "${owner%:*}" -g "${owner#*:}" "$new" "$file"
    fi
    about+=("$file")
    rm "$new"
}

# serve UNIT: it runs now and after every boot, with what is new.
serve() {
    local file marks=()
    for file in "${about[@]}"; do [ ! -e "$(mark "$file")" ] || marks+=("$(mark "$file")"); done
    [ ${#marks[@]} = 0 ] || systemctl daemon-reload
    systemctl is-enabled --quiet "$1" || systemctl enable --quiet "$1"
    if ! systemctl is-active --quiet "$1"; then
        systemctl start "$1"
    elif [ ${#marks[@]} != 0 ]; then
        systemctl restart "$1"
    fi
    [ ${#marks[@]} = 0 ] || rm -f "${marks[@]}"
    about=()
}

# until_true SECONDS WHAT COMMAND…: waits for COMMAND to succeed.
until_true() {
    local limit=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$limit" ] || die "waited in vain: $what"
        sleep 0.2
    done
}

# sysctls 'KEY = VALUE'…: now and after every boot.
sysctls() {
    put /etc/sysctl.d/60-lab.conf < <(printf '%s\n' "$@")
    sysctl -q -p /etc/sysctl.d/60-lab.conf
}

# routes PREFIX…: by all ToRs of the rack, now and after every boot. The default route of a virtual machine is
# Vagrant's.
routes() {
    local prefix via=()
    for prefix in "${TORS[@]}"; do via+=(nexthop via "$prefix"); done
    # A ToR that is gone is not used.
    sysctls 'net.ipv4.fib_multipath_use_neigh = 1' 'net.ipv4.fib_multipath_hash_policy = 1'
    put /usr/local/sbin/lab-routes 755 < <(
        echo '#!/bin/sh -e'
        for prefix; do echo "ip route replace $prefix ${via[*]}"; done
    )
    put /etc/systemd/system/lab-routes.service <<'EOF'
[Unit]
Description=Routes to the other racks
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/lab-routes

[Install]
WantedBy=multi-user.target
EOF
    serve lab-routes
}

# install_wayleave: the Debian package in target/debian, or LAB_PACKAGE.
install_wayleave() {
    local package=${LAB_PACKAGE-}
    [ -n "$package" ] ||
        package=$(find "$TOP/target/debian" -name "wayleave_*_$(dpkg --print-architecture).deb" 2>/dev/null || true)
    [ -n "$package" ] || die "no package to install: \`make deb\` in the source tree, then \`vagrant rsync\` here"
    [[ $package != *$'\n'* ]] || die "which of these is it? Remove all but one:"$'\n'"$package"
    about+=(/var/lib/lab/wayleave.deb)
    # The same version may have been built again.
    ! cmp -s "$package" /var/lib/lab/wayleave.deb || return 0
    say "installing ${package##*/}"
    DEBIAN_FRONTEND=noninteractive apt-get -y -q -o Dpkg::Options::=--force-confold --reinstall --allow-downgrades \
        --no-install-recommends install "$package"
    changed /var/lib/lab/wayleave.deb
    install -m 644 "$package" /var/lib/lab/wayleave.deb
}
