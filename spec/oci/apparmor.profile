# The AppArmor profile of every container that asks for the runtime's default and is not privileged.
# Its name is that of containerd's built-in plugin, so that a node moved from one to the other
# confines running containers as before. Loaded by apparmor_parser when it is first needed, without
# the lines whose file the node lacks. The older form of include is what AppArmor 2 reads too.

abi <abi/3.0>,
#include <tunables/global>

profile cri-containerd.apparmor.d flags=(attach_disconnected,mediate_deleted) {
  #include <abstractions/base>

  network,
  # the kernel's crypto sockets have given containers the host's memory more than once
  deny network alg,
  capability,
  file,
  umount,

  # signals: from the host and from the runtimes, and among the container's own processes
  signal (receive) peer=unconfined,
  signal (receive) peer=runc,
  signal (receive) peer=crun,
  signal (send,receive) peer=cri-containerd.apparmor.d,

  # below /proc only the processes' own directories and the shm parameters may be written
  deny @{PROC}/* w,
  deny @{PROC}/{[^1-9/],[^1-9/][^0-9/],[^1-9s/][^0-9y/][^0-9s/],[^1-9/][^0-9/][^0-9/][^0-9/]*}/** w,
  deny @{PROC}/sys/[^k]** w,
  deny @{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/kcore rwklx,

  deny mount,

  # below /sys only /sys/fs/cgroup may be written
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,

  # processes of the container may trace each other, where yama allows it
  ptrace (trace,read,tracedby,readby) peer=cri-containerd.apparmor.d,
}
