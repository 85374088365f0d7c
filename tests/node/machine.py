"""A Debian 13 node as a virtual machine: systemd, cgroup v2, AppArmor, swap, containerd 1.7.

QEMU emulates the processor, so no hardware virtualisation is needed: a boot takes about 15 s,
and all in it is some ten times slower than on the host. It has no network beyond itself.
"""

from __future__ import annotations

import hashlib
import io
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.harness import debian

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
TOOLS = ("mmdebstrap", "qemu-system-x86_64", "mke2fs", "debugfs", "mkswap")

PACKAGES = [
    # the machine
    *("systemd-sysv", "dbus", "udev", "kmod", "procps", "linux-image-cloud-amd64"),
    *("ca-certificates", "apparmor", "iproute2", "sudo"),
    # what ./dev setup asks for
    *("containerd", "runc", "containernetworking-plugins", "crun", "docker-registry", "skopeo"),
    *("busybox-static", "apache2-utils", "iptables", "openssl", "python3-venv"),
]

# Disabled: what a throw-away machine without logins, other disks or devices does not need.
MASKED_UNITS = [
    "tmp.mount",
    "getty.target",
    "systemd-logind.service",
    "systemd-user-sessions.service",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "fstrim.timer",
    "systemd-tmpfiles-clean.timer",
    "remote-fs.target",
    "systemd-pstore.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-machine-id-commit.service",
    "systemd-random-seed.service",
    "systemd-remount-fs.service",
    "systemd-update-done.service",
    "systemd-binfmt.service",
    "systemd-udev-trigger.service",
    "ldconfig.service",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
]

SERVICE = """\
[Service]
ExecStart=/usr/local/sbin/guest
Environment=HOME=/root LANG=C.UTF-8
Delegate=yes
DelegateSubgroup=command
OOMPolicy=continue
TasksMax=infinity
LimitNOFILE=1048576
"""

KERNEL_ARGUMENTS = (
    "root=/dev/nvme0n1 rw rootwait console=ttyS0 quiet loglevel=4 panic=-1 net.ifnames=0 psi=1"
    " audit=0 mitigations=off tsc=reliable systemd.show_status=0"
)


class Machine:
    """The node's disk images below ``directory``, and runs of throw-away copies of them."""

    def __init__(self, directory: Path):
        missing = [tool for tool in TOOLS if not shutil.which(tool)]
        if missing:
            sys.exit(
                f"the node needs {', '.join(missing)}:"
                " apt-get install mmdebstrap qemu-system-x86 e2fsprogs"
            )
        self.directory = directory

    def build(self) -> None:
        """Make kernel, root and swap images, unless those here were made from the same inputs."""
        inputs = (PROJECT / "pyproject.toml", HERE / "guest.sh", Path(__file__))
        key = hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()
        stamp = self.directory / "built-from"
        if stamp.exists() and stamp.read_text() == key:
            return
        shutil.rmtree(self.directory, ignore_errors=True)
        tree = self.directory / "tree"
        self.directory.mkdir(parents=True)
        self._bootstrap(tree)
        self._configure(tree)
        self._install_project(tree)
        (kernel,) = (tree / "boot").glob("vmlinuz-*")
        shutil.copy(kernel, self.directory / "vmlinuz")
        swap = self.directory / "swap.img"
        _sparse(swap, 1 << 30)
        subprocess.run(["mkswap", "-q", swap], check=True)
        _filesystem(tree, self.directory / "root.img", 16 << 30)
        shutil.rmtree(tree)
        stamp.write_text(key)

    def _bootstrap(self, tree: Path) -> None:
        subprocess.run(
            [
                *("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase"),
                *("--format=directory", f"--include={','.join(PACKAGES)}"),
                "--keyring=/usr/share/keyrings/debian-archive-keyring.gpg",
                '--aptopt=APT::Install-Recommends "false"',
                "--dpkgopt=path-exclude=/usr/share/doc/*",
                "--dpkgopt=path-exclude=/usr/share/man/*",
                "--dpkgopt=path-exclude=/usr/share/locale/*",
                *("trixie", tree, debian.mirror()),
            ],
            env={**os.environ, "INITRD": "No"},
            check=True,
        )

    def _configure(self, tree: Path) -> None:
        etc, units = tree / "etc", tree / "etc/systemd/system"
        (etc / "hostname").write_text("node\n")
        (etc / "hosts").write_text("127.0.0.1 localhost\n10.0.2.15 node\n")
        (etc / "resolv.conf").unlink(missing_ok=True)
        (etc / "resolv.conf").write_text("nameserver 127.0.0.1\n")  # no console: fails at once
        (etc / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
        modules = "overlay br_netfilter virtio_blk virtio_net qemu_fw_cfg"
        (etc / "modules-load.d/node.conf").write_text(modules.replace(" ", "\n") + "\n")
        (etc / "sysctl.d/90-node.conf").write_text(
            "net.ipv4.ip_forward=1\nnet.bridge.bridge-nf-call-iptables=1\n"
        )
        guest = tree / "usr/local/sbin/guest"
        shutil.copy(HERE / "guest.sh", guest)
        guest.chmod(0o755)
        (units / "node.service").write_text(SERVICE)
        wanted = units / "multi-user.target.wants"
        (wanted / "node.service").symlink_to("../node.service")
        for service in ("containerd", "docker-registry"):
            (wanted / f"{service}.service").unlink(missing_ok=True)
        for unit in MASKED_UNITS:
            (units / unit).unlink(missing_ok=True)
            (units / unit).symlink_to("/dev/null")

    def _install_project(self, tree: Path) -> None:
        """A .venv with the pinned packages for the node's Python, made at the host's speed."""
        home, wheels = tree / "root/project", tree / "root/wheels"
        home.mkdir()
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(PROJECT / name, home / name)
        for package in ("codegen", "generated", "runtime"):
            (home / package).mkdir()
            (home / package / "__init__.py").touch()
        groups = [f"--group={PROJECT}/pyproject.toml:{g}" for g in ("test", "lint", "nox")]
        target = (
            "--only-binary=:all: --python-version=3.13 --implementation=cp --abi=cp313 --abi=abi3"
        )
        platforms = [f"--platform=manylinux{p}_x86_64" for p in ("2014", "_2_17", "_2_28", "_2_34")]
        download = [sys.executable, "-m", "pip", "-q", "download", "-d", str(wheels)]
        dependencies = _dependencies()
        subprocess.run(
            [*download, *target.split(), "--abi=none", *platforms, *groups, *dependencies],
            check=True,
        )
        steps = (
            "cd /root/project && python3 -m venv .venv"
            " && .venv/bin/pip -q install --upgrade pip==26.2"
            " && .venv/bin/pip -q install -e '.[codegen]'"
            " --group test --group lint --group nox"
            " && touch .venv/.installed && .venv/bin/python -m compileall -q .venv"
        )
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": "/root/wheels",
            "HOME": "/root",
        }
        subprocess.run(["chroot", tree, "sh", "-ec", steps], env=environment, check=True)
        shutil.rmtree(wheels)

    def run(
        self, command: Sequence[str], *, shares: Mapping[Path, Path], seconds: int = 3600
    ) -> int:
        """Boot a throw-away copy, run ``command`` in it as root, and return its exit status.

        Output comes to our standard output as it is written. ``shares`` maps a path inside to the
        folder that is there, read-only, as it was at the start; what the command leaves in /out
        comes back as ``directory/out``.
        """
        with tempfile.TemporaryDirectory(dir=self.directory) as folder:
            scratch = Path(folder)
            quoted = " ".join(map(shlex.quote, command))
            folders = " ".join(shlex.quote(str(share)) for share in shares)
            job = f"seconds={seconds}\nshares=({folders})\ncommand=({quoted})\n"
            (scratch / "job").write_text(job)
            disks = ["-drive", f"if=virtio,file={self.directory}/swap.img,format=raw,snapshot=on"]
            for number, share in enumerate(shares.values()):
                image = scratch / f"{number}.img"
                _filesystem(share, image, _size_for(share), "-O", "^has_journal")
                disks += ["-drive", f"if=virtio,file={image},format=raw,readonly=on"]
            result = scratch / "result.tar"
            # A pipe in between: QEMU opens /dev/stdout anew, which would truncate a file behind it.
            with subprocess.Popen(
                [
                    "timeout",
                    "-k",
                    "5",
                    str(seconds + 120),
                    *self._qemu(scratch / "job", disks, result),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                env={**os.environ, "TMPDIR": folder},
            ) as machine:
                assert isinstance(machine.stdout, io.BufferedReader)
                while output := machine.stdout.read1():
                    sys.stdout.buffer.write(output)
                    sys.stdout.buffer.flush()
            if machine.returncode != 0 or not result.stat().st_size:
                sys.exit(f"no result from the node, see {self.directory}/console.log")
            with tarfile.open(result) as archive:
                status = archive.extractfile("status")
                assert status is not None
                shutil.rmtree(self.directory / "out", ignore_errors=True)
                members = [m for m in archive if m.name == "out" or m.name.startswith("out/")]
                archive.extractall(self.directory, members, filter="data")
                return int(status.read())

    def _qemu(self, job: Path, disks: Sequence[str], result: Path) -> list[str]:
        # Nehalem is x86-64-v2: emulating AVX costs more than it gains.
        return [
            *("setpriv", "--pdeathsig", "TERM", "qemu-system-x86_64"),
            *("-accel", "tcg,thread=multi", "-machine", "pc,usb=off", "-cpu", "Nehalem"),
            *("-smp", "2", "-m", "3072", "-nodefaults", "-no-user-config"),
            *("-display", "none", "-no-reboot", "-kernel", f"{self.directory}/vmlinuz"),
            *("-append", KERNEL_ARGUMENTS, "-fw_cfg", f"name=opt/node/job,file={job}"),
            *("-serial", f"file:{self.directory}/console.log"),
            *("-drive", f"if=none,id=root,file={self.directory}/root.img,format=raw,snapshot=on"),
            *("-device", "nvme,drive=root,serial=root"),
            *disks,
            *("-netdev", "user,id=net,restrict=on,ipv6=off"),
            *("-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-serial-pci"),
            *("-chardev", "file,id=stream,path=/dev/stdout"),
            *("-device", "virtserialport,chardev=stream,nr=1"),
            *("-chardev", f"file,id=result,path={result}"),
            *("-device", "virtserialport,chardev=result,nr=2"),
        ]


def _dependencies() -> list[str]:
    """The project's own pinned packages, and what builds it."""
    described = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    project = described["project"]
    return [
        *project["dependencies"],
        *project["optional-dependencies"]["codegen"],
        *described["build-system"]["requires"],
        "pip==26.2",
    ]


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def _size_for(tree: Path) -> int:
    """Bytes that hold ``tree`` as a file system, with room for its tables."""
    files = [path for path in tree.rglob("*") if not path.is_symlink()]
    content = sum(path.stat().st_size + 4096 for path in files)
    return content * 5 // 4 + (32 << 20)


def _filesystem(tree: Path, image: Path, size: int, *flags: str) -> None:
    """An ext4 image filled with ``tree``, without mounting anything."""
    _sparse(image, size)
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-b", "4096", "-m", "0", *flags, "-d", tree, image],
        check=True,
    )
