"""What runs inside a light guest: shell scripts for busybox, and nothing else of this machine.

The guest's root is a tmpfs with one program in it. Each interface takes the addresses that its config drive tells, else
one by DHCP (with routes and MTU). The guest reads its metadata from its config drive, else by HTTP, sets its host name,
runs user data that is a script, and answers HTTP on port 80 with its name and echo on port 7.
"""

ENTER = """\
# $1 busybox, $2 root directory, $3 console log, $4 where these scripts are, $5 name without metadata, $6 config drive
set -e
exec >>"$3" 2>&1 </dev/null
$1 mount -t tmpfs -o size=16m,mode=755 guest "$2"
cd "$2"
$1 mkdir bin dev etc old proc root run tmp www
for program in cat chmod cp cut grep hostname httpd ip kill nc sed sh sleep timeout udhcpc umount wget; do
  $1 ln -s busybox bin/$program
done
: > bin/busybox; $1 mount --bind "$1" bin/busybox
for device in null zero urandom; do : > dev/$device; $1 mount --bind /dev/$device dev/$device; done
$1 cp "$4"/init "$4"/network "$4"/dhcp "$4"/metadata .
[ -z "$6" ] || $1 cp -r "$6" config
$1 chmod 755 init dhcp metadata
$1 mount -t proc proc proc
$1 pivot_root . old
exec bin/busybox chroot . /bin/busybox env -i PATH=/bin HOME=/root /bin/sh /init "$5"
"""

INIT = """\
name=$1
say() { echo "guest $(cut -d' ' -f1 /proc/uptime) $*"; }
dhcp() { udhcpc -f -t 20 -T 1 -A 3 -i $1 -s /dhcp -O staticroutes -O mtu -O search >/dev/null & }
reply_by() { /dhcp reply_by "$@"; }
trap 'say power button; exit 0' TERM
umount -l /old
hostname guest
ip link set lo up
nc -ll -p 7 -e /bin/cat &
. /network
cat /etc/resolv.conf.* >/etc/resolv.conf 2>/dev/null
sh /metadata "$name" &
say ready
while :; do sleep 3600 & wait $!; done
"""

DHCP = """\
#!/bin/sh
# Interface ethN: routes have the metric N, so that the first interface's win. What is sent from an address of another
# one leaves by that one.
reply_by() {  # FAMILY INTERFACE NUMBER ADDRESS GATEWAY
  ip -$1 rule del from $4 lookup $((100 + $3)) 2>/dev/null
  ip -$1 rule add from $4 lookup $((100 + $3))
  ip -$1 route replace default via $5 dev $2 table $((100 + $3))
}
number=${interface#eth}
case $1 in
reply_by) shift; reply_by "$@";;
deconfig)
  [ -f /run/lease.$interface ] && ip -4 addr del $(cat /run/lease.$interface) dev $interface
  ip link set $interface up;;
bound|renew)
  [ -n "$mtu" ] && ip link set $interface mtu $mtu
  ip -4 addr add $ip/$mask dev $interface 2>/dev/null
  echo $ip/$mask > /run/lease.$interface
  if [ -n "$staticroutes" ]; then  # RFC 3442: they replace the router option
    set -- $staticroutes
    while [ $# -ge 2 ]; do
      if [ "$2" = 0.0.0.0 ]; then ip route replace $1 dev $interface metric $number
      else ip route replace $1 via $2 dev $interface onlink metric $number; fi
      [ "$1" = 0.0.0.0/0 ] && gateway=$2
      shift 2
    done
  else
    for gateway in $router; do
      ip route replace default via $gateway dev $interface onlink metric $number; break
    done
  fi
  [ $number != 0 ] && [ -n "$gateway" ] && reply_by 4 $interface $number $ip $gateway
  { [ -n "$domain" ] && echo search ${search:-$domain}; for d in $dns; do echo nameserver $d; done; } \\
    > /etc/resolv.conf.$interface
  cat /etc/resolv.conf.* > /etc/resolv.conf
  echo "guest $(cut -d' ' -f1 /proc/uptime) lease $interface $ip/$mask router=$router mtu=$mtu" >> /proc/1/fd/1;;
esac
"""

METADATA = """\
name=$1
base=http://169.254.169.254/openstack/latest
say() { echo "guest $(cut -d' ' -f1 /proc/uptime) $*"; }
now() { cut -d. -f1 /proc/uptime; }
serving=
serve() {
  hostname "$1"; echo "$1" > /www/index.html
  [ -n "$serving" ] || httpd -p 80 -h /www
  serving=yes
}
if [ -f /config/openstack/latest/meta_data.json ]; then
  cp /config/openstack/latest/meta_data.json /config/openstack/latest/user_data /run/ 2>/dev/null
  from=drive
fi
began=$(now)
until [ -n "$from" ] || timeout 2 wget -q -O /run/meta_data.json $base/meta_data.json 2>/dev/null; do
  waited=$(($(now) - began))
  [ $waited -ge 5 ] && [ -z "$serving" ] && { say no metadata yet; serve "$name"; }
  [ $waited -ge 60 ] && { say no metadata; exit; }
  sleep 0.1
done
found=$(sed -n 's/.*"hostname" *: *"\\([^"]*\\)".*/\\1/p' /run/meta_data.json)
serve "${found%%.*}"
say "metadata hostname=$(hostname)"
[ -n "$from" ] || timeout 5 wget -q -O /run/user_data $base/user_data 2>/dev/null
[ -s /run/user_data ] || exit
case $(sed -n '1s/^\\(#!\\).*/\\1/p' /run/user_data) in
'#!') sh /run/user_data; say "user data done: $?";;
esac
"""
