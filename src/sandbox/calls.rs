//! Which system calls serving takes, and the filters that say so to the kernel.
//!
//! What is not in a list fails with ENOSYS and not with EPERM: a C library that has learned a new call tries the old one
//! then. The lists hold what this program and its libraries call, by reading and by what strace
//! sees of a worker at work, and the calls that other C libraries make for the same.

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use std::collections::BTreeMap;

/// Allowed whatever their arguments.
#[rustfmt::skip]
const ALLOWED: &[c_long] = &[
    // Bytes: devices, control files, the log, the connection.
    libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev, libc::SYS_pread64, libc::SYS_pwrite64,
    libc::SYS_preadv, libc::SYS_pwritev, libc::SYS_preadv2, libc::SYS_pwritev2, libc::SYS_lseek, libc::SYS_fsync,
    libc::SYS_fdatasync, libc::SYS_ftruncate, libc::SYS_fallocate, libc::SYS_sync_file_range,
    // Files: devices and the configuration, /proc, user names.
    libc::SYS_openat, libc::SYS_close, libc::SYS_close_range, libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx,
    libc::SYS_fstatfs, libc::SYS_statfs, libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_readlinkat,
    libc::SYS_getdents64, libc::SYS_getcwd, libc::SYS_unlinkat, libc::SYS_renameat2, libc::SYS_linkat,
    libc::SYS_fchmod, libc::SYS_fchown, libc::SYS_fcntl, libc::SYS_flock, libc::SYS_dup, libc::SYS_dup3,
    libc::SYS_umask, libc::SYS_chdir, libc::SYS_fadvise64, libc::SYS_memfd_create,
    // Waiting.
    libc::SYS_ppoll, libc::SYS_pselect6, libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2, libc::SYS_eventfd2, libc::SYS_pipe2, libc::SYS_inotify_init1, libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch, libc::SYS_signalfd4, libc::SYS_timerfd_create, libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime, libc::SYS_pidfd_open, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Sockets that are there: fuser's, the keeper's, and what `socket` below lets be made.
    libc::SYS_socketpair, libc::SYS_connect, libc::SYS_sendto, libc::SYS_sendmsg, libc::SYS_sendmmsg,
    libc::SYS_recvfrom, libc::SYS_recvmsg, libc::SYS_recvmmsg, libc::SYS_shutdown, libc::SYS_getsockopt,
    libc::SYS_setsockopt, libc::SYS_getsockname, libc::SYS_getpeername,
    // Memory.
    libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise, libc::SYS_brk, libc::SYS_mincore, libc::SYS_mlock,
    libc::SYS_munlock, libc::SYS_msync, libc::SYS_membarrier,
    // Threads and signals.
    libc::SYS_futex, SYS_FUTEX_WAITV, libc::SYS_set_robust_list, libc::SYS_get_robust_list, libc::SYS_rseq,
    libc::SYS_set_tid_address, libc::SYS_gettid, libc::SYS_sched_yield, libc::SYS_sched_setaffinity,
    libc::SYS_sched_getaffinity, libc::SYS_sched_getscheduler, libc::SYS_sched_getparam, libc::SYS_getcpu,
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack, libc::SYS_restart_syscall, libc::SYS_exit, libc::SYS_exit_group,
    // Who is who. Of callers: getpgid.
    libc::SYS_getpid, libc::SYS_getppid, libc::SYS_getpgid, libc::SYS_getsid, libc::SYS_setsid, libc::SYS_getuid,
    libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid, libc::SYS_getgroups, libc::SYS_getresuid,
    libc::SYS_getresgid, libc::SYS_capget,
    // The machine, and time where the vDSO does not tell it.
    libc::SYS_uname, libc::SYS_sysinfo, libc::SYS_getrusage, libc::SYS_getrandom, libc::SYS_clock_gettime,
    libc::SYS_clock_getres, libc::SYS_clock_nanosleep, libc::SYS_nanosleep, libc::SYS_gettimeofday, libc::SYS_times,
];

/// Not in every version of libc's list: its number is the same on all processors.
const SYS_FUTEX_WAITV: c_long = 449;

/// The same by their old names, which newer processors do not have.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const OLD_NAMES: &[c_long] = &[
    libc::SYS_open, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_readlink, libc::SYS_unlink,
    libc::SYS_rename, libc::SYS_renameat, libc::SYS_link, libc::SYS_getdents, libc::SYS_dup2, libc::SYS_pipe,
    libc::SYS_poll, libc::SYS_select, libc::SYS_epoll_create, libc::SYS_epoll_wait, libc::SYS_eventfd,
    libc::SYS_inotify_init, libc::SYS_signalfd, libc::SYS_getpgrp, libc::SYS_time, libc::SYS_getrlimit,
    libc::SYS_arch_prctl,
];
#[cfg(target_arch = "aarch64")]
const OLD_NAMES: &[c_long] = &[libc::SYS_renameat, libc::SYS_getrlimit];
#[cfg(target_arch = "riscv64")]
const OLD_NAMES: &[c_long] = &[libc::SYS_getrlimit];

/// Nothing of ours, of the C library or of a name service ever calls these: who does has come in from outside, and shall
/// not get to try the next thing.
#[rustfmt::skip]
const FATAL: &[c_long] = &[
    // Other programs and other processes.
    libc::SYS_execve, libc::SYS_execveat, libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd, libc::SYS_pidfd_send_signal, libc::SYS_kcmp, libc::SYS_userfaultfd,
    // What is mounted, and other views of the machine.
    libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root, libc::SYS_chroot, libc::SYS_open_tree,
    libc::SYS_move_mount, libc::SYS_fsopen, libc::SYS_fsconfig, libc::SYS_fsmount, libc::SYS_fspick,
    libc::SYS_mount_setattr, libc::SYS_unshare, libc::SYS_setns, libc::SYS_open_by_handle_at, libc::SYS_mknodat,
    // The kernel.
    libc::SYS_init_module, libc::SYS_finit_module, libc::SYS_delete_module, libc::SYS_kexec_load, libc::SYS_bpf,
    libc::SYS_perf_event_open, libc::SYS_add_key, libc::SYS_request_key, libc::SYS_keyctl, libc::SYS_reboot,
    libc::SYS_swapon, libc::SYS_swapoff, libc::SYS_syslog, libc::SYS_acct, libc::SYS_quotactl,
    libc::SYS_sethostname, libc::SYS_setdomainname, libc::SYS_settimeofday, libc::SYS_clock_settime,
    libc::SYS_clock_adjtime, libc::SYS_adjtimex,
    // Other users.
    libc::SYS_setuid, libc::SYS_setgid, libc::SYS_setreuid, libc::SYS_setregid, libc::SYS_setresuid,
    libc::SYS_setresgid, libc::SYS_setgroups, libc::SYS_setfsuid, libc::SYS_setfsgid, libc::SYS_capset,
];

#[cfg(target_arch = "x86_64")]
const FATAL_BY_OLD_NAMES: &[c_long] =
    &[libc::SYS_mknod, libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt, libc::SYS_kexec_file_load];
#[cfg(not(target_arch = "x86_64"))]
const FATAL_BY_OLD_NAMES: &[c_long] = &[];

/// What devices and the connection are asked by ioctl(2): of block devices their size and their blocks, of /dev/fuse
/// another descriptor. What the standard library and the C library ask of descriptors by themselves.
const IOCTLS: &[u64] = &[
    0x8004_e500, // FUSE_DEV_IOC_CLONE
    0x8008_1272, // BLKGETSIZE64
    0x8008_1280, // BLKGETDISKSEQ
    0x1260,      // BLKGETSIZE
    0x1268,      // BLKSSZGET
    0x127b,      // BLKPBSZGET
    0x125e,      // BLKROGET
    0x5401,      // TCGETS
    0x802c_542a, // TCGETS2
    0x541b,      // FIONREAD
    0x5421,      // FIONBIO
    0x5451,      // FIOCLEX
];

/// Names of threads, and of memory in newer C libraries; how late a thread may be woken.
const PRCTLS: &[u64] = &[
    libc::PR_SET_NAME as u64,
    libc::PR_GET_NAME as u64,
    libc::PR_SET_TIMERSLACK as u64,
    libc::PR_GET_DUMPABLE as u64,
    libc::PR_GET_NO_NEW_PRIVS as u64,
    libc::PR_CAPBSET_READ as u64,
    libc::PR_SET_VMA as u64,
];

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) enum CallsError {
    Filter(#[from] seccompiler::Error),
    Program(#[from] seccompiler::BackendError),
}

impl CallsError {
    /// The kernel knows nothing of filters.
    pub(super) fn is_missing(&self) -> bool {
        let errno = |error: &std::io::Error| error.raw_os_error();
        matches!(self, Self::Filter(seccompiler::Error::Seccomp(error))
            if matches!(errno(error), Some(libc::ENOSYS | libc::EINVAL)))
    }
}

/// Puts the filters in force for this thread and all that it makes; how many calls are allowed, and how many are fatal.
pub(super) fn install() -> Result<(usize, usize), CallsError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let allowed = allowed()?;
    let fatal: BTreeMap<_, _> =
        FATAL.iter().chain(FATAL_BY_OLD_NAMES).map(|call| (*call, Vec::new())).collect();
    let numbers = (allowed.len(), fatal.len());
    let refuse = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let programs: [BpfProgram; 2] = [
        SeccompFilter::new(fatal, SeccompAction::Allow, SeccompAction::KillProcess, arch)?.try_into()?,
        SeccompFilter::new(allowed, refuse, SeccompAction::Allow, arch)?.try_into()?,
    ];
    // The stricter one last: it does not allow for another.
    programs.iter().try_for_each(|program| seccompiler::apply_filter(program))?;
    Ok(numbers)
}

/// Every allowed call, with what its arguments must be like: one of the rules must hold, none is needed where there is none.
fn allowed() -> Result<BTreeMap<c_long, Vec<SeccompRule>>, seccompiler::BackendError> {
    use SeccompCmpOp::{Eq, MaskedEq};
    let mut calls: BTreeMap<_, _> = ALLOWED.iter().chain(OLD_NAMES).map(|call| (*call, Vec::new())).collect();
    // An argument of 32 bits: the upper half of the register is anything.
    let is = |argument, how, value: u64| {
        SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, value)?])
    };
    let any = |argument, values: &[u64]| {
        values.iter().map(|value| is(argument, Eq, *value)).collect::<Result<Vec<_>, _>>()
    };
    calls.insert(libc::SYS_ioctl, any(1, IOCTLS)?);
    calls.insert(libc::SYS_prctl, any(0, PRCTLS)?);
    // Name services are asked by sockets with paths. No others by this call (io_uring can make some).
    calls.insert(libc::SYS_socket, any(0, &[libc::AF_UNIX as u64])?);
    // One's own limits, and abort.
    calls.insert(libc::SYS_prlimit64, any(0, &[0])?);
    calls.insert(libc::SYS_tgkill, any(0, &[std::process::id().into()])?);
    // A thread of ours steps back behind others of ours; nobody goes before others of the machine (that takes a capability).
    for call in [libc::SYS_getpriority, libc::SYS_setpriority] {
        calls.insert(call, any(0, &[libc::PRIO_PROCESS as u64])?);
    }
    // Threads and no processes. The arguments of clone3 are in memory, where a filter cannot see them: it is not there, and
    // C libraries use clone.
    let thread = (libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND) as u64;
    calls.insert(libc::SYS_clone, vec![is(0, MaskedEq(thread), thread)?]);
    // No memory that is written and run at once. (Name services are libraries, so there must be some that is run.)
    let (write, execute) = (libc::PROT_WRITE as u64, libc::PROT_EXEC as u64);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        calls.insert(call, vec![is(2, MaskedEq(write), 0)?, is(2, MaskedEq(execute), 0)?]);
    }
    Ok(calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_both_allowed_and_fatal() {
        let allowed = allowed().unwrap();
        for call in FATAL.iter().chain(FATAL_BY_OLD_NAMES) {
            assert!(!allowed.contains_key(call), "{call}");
        }
    }

    #[test]
    fn each_is_in_one_list_and_once() {
        let all: Vec<_> = ALLOWED.iter().chain(OLD_NAMES).chain(FATAL).chain(FATAL_BY_OLD_NAMES).collect();
        let mut once = all.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), all.len());
    }
}
