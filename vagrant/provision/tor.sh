#!/bin/bash
# tor.sh NODE: a top-of-rack router, FRR.
#
# Towards hosts it takes anybody of the rack's LAN by dynamic neighbours, and of them only parts of the pool: hosts
# come and go without a change here. Towards the other rack it announces its LAN and what hosts told. BFD everywhere.
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

packages frr
sysctls 'net.ipv4.ip_forward = 1' 'net.ipv4.fib_multipath_hash_policy = 1'

put /etc/frr/daemons 640 frr:frr <<'EOF'
bgpd=yes
bfdd=yes
frr_profile="datacenter"
vtysh_enable=yes
zebra_options="  -A 127.0.0.1 -s 90000000"
bgpd_options="   -A 127.0.0.1"
bfdd_options="   -A 127.0.0.1"
staticd_options="-A 127.0.0.1"
EOF

# shellcheck disable=SC2016 # jq's variables
{
    asn=$(topology '.tors[] | select(.name == $name) | .asn')
    # The ToRs at the other ends of its uplinks.
    fabric=$(topology '.uplinks[].ends | select(has($name)) | to_entries[] | select(.key != $name)
        | " neighbor \(.value) peer-group fabric\n neighbor \(.value) description \(.key)"')
}
put /etc/frr/frr.conf 640 frr:frr <<EOF
frr defaults datacenter
hostname $NAME
log syslog informational
service integrated-vtysh-config
!
bfd
 profile lab
  transmit-interval 300
  receive-interval 300
  detect-multiplier 3
 exit
exit
!
ip prefix-list pool seq 5 permit $POOL ge 20 le 30
!
route-map containers permit 10
 match ip address prefix-list pool
exit
!
route-map everything permit 10
exit
!
router bgp $asn
 bgp router-id $ADDRESS
 bgp graceful-restart
 bgp bestpath as-path multipath-relax
 neighbor hosts peer-group
 neighbor hosts remote-as external
 neighbor hosts update-source $ADDRESS
 neighbor hosts bfd profile lab
 neighbor fabric peer-group
 neighbor fabric remote-as external
 neighbor fabric bfd profile lab
$fabric
 bgp listen range $LAN peer-group hosts
 !
 address-family ipv4 unicast
  network $LAN
  maximum-paths 8
  neighbor hosts maximum-prefix 100
  neighbor hosts route-map containers in
  neighbor hosts route-map containers out
  neighbor fabric route-map everything in
  neighbor fabric route-map everything out
 exit-address-family
exit
EOF

serve frr
