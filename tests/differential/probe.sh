#!/bin/sh
# Prints what the first process of a container sees. Runs with the busybox of the image.
section() { echo "=== $1"; }
section env; env -u SHLVL -u PWD -u _ | sort
section status; grep -vE '^(Name|Pid|Tgid|Ngid|PPid|TracerPid|State|Threads|FDSize|Vm|Rss|Huge|voluntary|nonvoluntary|SigQ|NSpid|NStgid|NSpgid|NSsid|Mems_allowed:|Cpus_allowed:|Speculation|SpeculationI|x86|untag|Kthread|CoreDumping|THP)' /proc/self/status
section limits; cat /proc/self/limits
section values
for file in /proc/self/oom_score_adj /proc/sys/kernel/hostname /proc/sys/kernel/shm_rmid_forced \
  /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range \
  /proc/self/uid_map /proc/self/gid_map \
  /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory/memory.memsw.limit_in_bytes \
  /sys/fs/cgroup/cpu/cpu.shares /sys/fs/cgroup/cpu/cpu.cfs_quota_us \
  /sys/fs/cgroup/cpu/cpu.cfs_period_us /sys/fs/cgroup/cpuset/cpuset.cpus \
  /sys/fs/cgroup/cpuset/cpuset.mems /sys/fs/cgroup/pids/pids.max \
  /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory.swap.max /sys/fs/cgroup/cpu.weight \
  /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpuset.cpus /sys/fs/cgroup/pids.max
do
  echo "$file: $(head -n 20 $file 2>&1 | tr '\n' ' ')"
done
echo "cwd: $(pwd)"
echo "umask: $(umask)"
echo "processes: $(ls /proc 2>/dev/null | grep -c '^[0-9]' | sed 's/^[1-9]$/its own/; t; s/.*/those of the node/')"
section devices_allowed; sort /sys/fs/cgroup/devices/devices.list 2>&1
section mountinfo; cat /proc/self/mountinfo
section dev; ls -lnR /dev 2>&1 | sed -E 's/ +[A-Z][a-z]{2} +[0-9]+ +[0-9:]+ / /; /^total/d; /^d/d; / console$/s/^.*$/console/'
section hosts; cat /etc/hosts 2>&1
section hostname; cat /etc/hostname 2>&1
section resolv_conf; cat /etc/resolv.conf 2>&1
section write; touch /written 2>&1; touch /etc/hosts 2>&1; touch /sys/fs/cgroup/written 2>&1
section files; ls -ldn / /etc/hosts /etc/hostname /etc/resolv.conf /dev/shm /volume /data 2>&1 | sed -E 's/ +[0-9]+ [A-Z][a-z]{2} +[0-9]+ +[0-9:]+ / /'
