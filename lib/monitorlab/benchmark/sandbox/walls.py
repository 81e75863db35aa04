"""The sandbox's walls: enters fresh Linux namespaces and starts a command as their first process.

It is started as a script, ``walls.py MEBIBYTES COMMAND...``, and imports the standard
library only. Inside there is no network, no other process, nothing to write to but a small file
system in memory at `WORKSHOP`, and no privilege. It stays beside the command and empties
`WORKSHOP` whenever the command asks; the command learns of both by two further arguments.

Calls to the C library are made here and never in the command, whose children run programs: what
can call C can read the memory in which a program's verdict is kept.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import struct
import sys
from pathlib import Path

WORKSHOP = "/run/sandbox"
NOBODY = 65534
FILES = 20_000
DEVICES = ("null", "zero", "full", "random", "urandom")

# From <sched.h>, <sys/mount.h>, <sys/prctl.h> and <linux/capability.h>.
_NEW_NAMESPACES = 0x20000 | 0x8000000 | 0x10000000 | 0x20000000 | 0x40000000
_NO_SETUID, _NO_DEVICES, _NO_EXEC, _READ_ONLY = 2, 4, 8, 1
_BARE = _NO_SETUID | _NO_DEVICES | _NO_EXEC
_REMOUNT, _BIND, _MOVE, _PRIVATE, _DETACH = 32, 4096, 8192, 1 << 18, 2
_MOUNT_SETATTR, _HERE, _RECURSIVE = 442, -100, 0x8000
_DEATH_SIGNAL, _KEEP_CAPABILITIES, _SECCOMP, _NO_NEW_PRIVILEGES, _AMBIENT = 1, 8, 22, 38, 47
_CAPABILITIES_V3, _READ_ALL_FILES = 0x20080522, 2
# System calls that reach into another process, with the arguments that must be 0 (which is oneself)
# for a call to be let through; without any it is refused.
_MACHINES: dict[str, tuple[int, dict[int, tuple[int, ...]]]] = {
    "x86_64": (0xC000003E, {
        # ptrace, process_vm_readv, process_vm_writev, pidfd_getfd
        101: (), 310: (), 311: (), 438: (),
        # prlimit64, sched_setparam, _setscheduler, _setaffinity, _setattr, ioprio_set, setpriority
        302: (0,), 142: (0,), 144: (0,), 203: (0,), 314: (0,), 251: (1,), 141: (0, 1),
    }),
    "aarch64": (0xC00000B7, {
        117: (), 270: (), 271: (), 438: (),
        261: (0,), 118: (0,), 119: (0,), 122: (0,), 274: (0,), 30: (1,), 140: (0, 1),
    }),
}  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    _call("mount", source.encode(), target.encode(), kind.encode(), flags, options.encode())


def _enter() -> int:
    """Enter new namespaces and give the user id that programs get there.

    Whoever may (root) keeps every id and lets programs run as nobody, because the number of
    processes is not limited for root. All others have no id but their own.
    """
    me, uid, gid = os.getpid(), os.geteuid(), os.getegid()
    rows = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    knows = any(int(first) <= NOBODY < int(first) + int(number) for first, _, number in rows)
    privileged = uid == 0 and knows
    begin, go = os.pipe()
    helper = os.fork()
    if helper == 0:  # the maps are written from outside
        try:
            os.close(go)
            os.read(begin, 1)
            for kind, own in (("uid", uid), ("gid", gid)):
                text = Path(f"/proc/self/{kind}_map").read_text() if privileged else ""
                keep = "".join(f"{a} {a} {n}\n" for a, _, n in map(str.split, text.splitlines()))
                if kind == "gid" and not privileged:
                    Path(f"/proc/{me}/setgroups").write_text("deny")
                Path(f"/proc/{me}/{kind}_map").write_text(keep or f"{own} {own} 1\n")
            os._exit(0)
        finally:
            os._exit(1)
    try:
        _call("unshare", _NEW_NAMESPACES)
    finally:
        os.close(begin)
        os.close(go)
        failed = os.waitpid(helper, 0)[1]
    if failed:
        raise PermissionError("the user and group ids could not be mapped")
    return NOBODY if privileged else uid


def _close_files() -> None:
    """Make everything read-only and hide processes, devices and sockets."""
    change = struct.pack("4Q", _READ_ONLY, 0, _PRIVATE, 0)
    _call("syscall", _MOUNT_SETATTR, _HERE, b"/", _RECURSIVE, change, ctypes.c_size_t(len(change)))
    for hidden in ("/run", "/proc"):
        _mount("tmpfs", hidden, "tmpfs", _BARE, "mode=755,size=64k")
    # New devices are put together in a place that is already ours and moved then.
    os.mkdir(WORKSHOP)
    _mount("tmpfs", WORKSHOP, "tmpfs", _BARE, "mode=755,size=64k")
    for name in DEVICES:
        Path(WORKSHOP, name).touch()
        _mount(f"/dev/{name}", f"{WORKSHOP}/{name}", "", _BIND)
    os.symlink(f"{WORKSHOP}/shm", f"{WORKSHOP}/shm")
    _mount(WORKSHOP, "/dev", "", _MOVE)
    for closed in ("/run", "/proc", "/dev"):
        _mount("", closed, "", _REMOUNT | _BIND | _READ_ONLY | _BARE)


def _new_workshop(uid: int, mebibytes: int) -> None:
    options = f"size={mebibytes}m,nr_inodes={FILES},mode=755,uid={uid}"
    _mount("tmpfs", WORKSHOP, "tmpfs", _BARE, options)


def _give_up_privileges(uid: int) -> None:
    """Become an ordinary user who can neither gain privileges nor reach into other processes.

    Root's programs may still read what root may read, since Python itself may be installed there.
    """
    keep = 0
    if uid != os.geteuid():
        keep = 1 << _READ_ALL_FILES
        _call("prctl", _KEEP_CAPABILITIES, 1, 0, 0, 0)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    header = struct.pack("Ii", _CAPABILITIES_V3, 0)
    _call("capset", header, struct.pack("6I", keep, keep, keep, 0, 0, 0))
    if keep:
        _call("prctl", _AMBIENT, 2, _READ_ALL_FILES, 0, 0)
    _call("prctl", _NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    _filter_calls()
    _call("prctl", _DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)


def _filter_calls() -> None:
    machine, calls = _MACHINES[os.uname().machine]
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    allow, refuse = 0x7FFF0000, 0x00050001  # the latter with EPERM
    lines = [(load, 0, 0, 4), (equal, 1, 0, machine), (answer, 0, 0, refuse)]
    lines += [(load, 0, 0, 0), (at_least, 0, 1, 0x40000000), (answer, 0, 0, refuse)]
    for number, arguments in calls.items():
        checks = [line for place in arguments for line in (
            (load, 0, 0, 16 + 8 * place), (equal, 1, 0, 0), (answer, 0, 0, refuse))]  # fmt: skip
        then = [*checks, (answer, 0, 0, allow if arguments else refuse)]
        lines += [(equal, 0, len(then), number), *then]
    lines.append((answer, 0, 0, allow))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    program = struct.pack("HP", len(lines), ctypes.addressof(code))
    _call("prctl", _SECCOMP, 2, program, 0, 0)


def _run_behind_walls() -> int:
    """Enter, start the command, and empty its folder as often as it asks."""
    mebibytes, command = int(sys.argv[1]), sys.argv[2:]
    uid = _enter()
    _close_files()
    _new_workshop(uid, mebibytes)
    outside, inside = socket.socketpair()
    os.chdir("/")
    first = os.fork()
    if first == 0:
        outside.close()
        os.set_inheritable(inside.fileno(), True)
        _give_up_privileges(uid)
        os.execv(command[0], [*command, WORKSHOP, str(inside.fileno())])
    inside.close()
    while outside.recv(1):
        _call("umount2", WORKSHOP.encode(), _DETACH)
        _new_workshop(uid, mebibytes)
        with contextlib.suppress(BrokenPipeError):
            outside.send(b".")
    return os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])


if __name__ == "__main__":
    sys.exit(_run_behind_walls())
