#!/bin/bash
# Runs inside the node as its one service: mount what the host shares, run the job, send the result out.
# The job (seconds, shares, command) comes through QEMU's fw_cfg; the output leaves through the first
# virtio serial port, exit status and /out through the second, as a tar archive.
eval "$(cat /sys/firmware/qemu_fw_cfg/by_name/opt/node/job/raw)"
swapon /dev/vda
disks=(/dev/vd[b-z])
for i in "${!shares[@]}"; do
  mkdir -p "${shares[i]}" && mount -o ro "${disks[i]}" "${shares[i]}"
done
ip addr add 10.0.2.15/24 dev eth0 && ip link set eth0 up && ip route add default via 10.0.2.2
mkdir -p /out /run/node && cd /root
# through cat: the command may open its /dev/stdout again, and a port opens only once
exec 3> >(exec cat >/dev/vport*p1)
stream=$!
timeout -k 5 "$seconds" "${command[@]}" >&3 2>&1 3>&-
echo $? >/run/node/status
exec 3>&-
timeout 5 tail --pid=$stream -f /dev/null
tar -C /run/node --sparse -cf /dev/vport*p2 status -C / out
systemctl poweroff -ff
