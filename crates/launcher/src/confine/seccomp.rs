//! Which system calls are refused. A list of what to refuse: a shell runs whatever there is, so no list of what to allow
//! would be short. What is here either opens the kernel to attack, or reaches around Landlock, which knows files by path
//! but not other ways to them; the remarks say which.

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter, sock_filter,
};
use std::collections::BTreeMap;

/// Why a filter could not be set.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    #[error("seccomp: the filter cannot be built: {0}")]
    Build(#[from] BackendError),
    #[error("seccomp: the filter cannot be set: {0}")]
    Apply(#[from] seccompiler::Error),
    #[error("seccomp: this processor's system calls are not known")]
    Processor,
}

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// Always refused with EPERM.
const FORBIDDEN: &[c_long] = &[
    // other processes' memory, files and identity
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    // file systems and namespaces
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_fanotify_init,
    457, // statmount
    458, // listmount
    467, // open_tree_attr
    // kernel machinery with a history
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_memfd_secret,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    libc::SYS_kexec_file_load,
    // the machine
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_nfsservctl,
    libc::SYS_lookup_dcookie,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ustat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS__sysctl,
    // memory and queues that outlive a command and are shared with this user's other ones
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_semget,
    libc::SYS_msgget,
    libc::SYS_mq_open,
];

/// Refused as if the kernel had none of them, so that libraries take their other way. `clone3` hides its flags behind a
/// pointer, where a filter cannot look; io_uring does file and socket calls that a filter never sees.
const UNKNOWN: &[c_long] = &[
    libc::SYS_clone3,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // What one program takes of it is missing to all of the machine (fs.aio-max-nr).
    libc::SYS_io_setup,
    469, // file_setattr: a file's flags by path, which Landlock does not know
];

/// A watch on a directory tells the names of what is used in it, and Landlock does not know watches: refused to visitors,
/// of whom many are one user. Programs look again and again instead.
const WATCHING: &[c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_inotify_init,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
];

/// Extended attributes and access lists, which Landlock does not know; programs do without (EOPNOTSUPP).
const ATTRIBUTES: &[c_long] = &[
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    463, // setxattrat
    466, // removexattrat
];

/// `ioctl` requests that work like `fallocate`: FS_IOC_RESVSP, FS_IOC_RESVSP64, FS_IOC_ZERO_RANGE.
const PREALLOCATING: &[u64] = &[0x4030_5828, 0x4030_582a, 0x4030_5839];
/// `ioctl` requests that type into a terminal (TIOCSTI, TIOCLINUX), or send signals to whom one likes (FIOSETOWN,
/// SIOCSPGRP).
const MEDDLING: &[u64] = &[0x5412, 0x541c, 0x8901, 0x8902];
/// The same by `fcntl`: F_SETOWN, F_SETSIG, F_SETOWN_EX.
const OWNING: &[u64] = &[8, 10, 15];
/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const NAMESPACES: &[u64] = &[0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];

const STREAM: u64 = 1;
const DATAGRAM: u64 = 2;
/// Of a socket's type argument: the rest are SOCK_CLOEXEC and SOCK_NONBLOCK.
const SOCKET_TYPE: u64 = 0xf;

/// What no process here may do, the launcher included. no_new_privs is set with it.
pub fn enter() -> Result<(), SeccompError> {
    let mut forbidden = Rules::new();
    for call in FORBIDDEN {
        forbidden.insert(*call, Vec::new());
    }
    forbidden.insert(libc::SYS_clone, either(NAMESPACES.iter().map(|flag| masked(0, *flag, *flag)))?);
    forbidden.insert(libc::SYS_personality, vec![none_of(0, &[0, 0xffff_ffff])?]);
    forbidden.insert(libc::SYS_ioctl, either(MEDDLING.iter().map(|request| equal(1, *request)))?);
    forbidden.insert(libc::SYS_fcntl, either(OWNING.iter().map(|command| equal(1, *command)))?);
    forbidden.insert(libc::SYS_socket, sockets()?);
    // A pair of datagram sockets can be turned to any Unix socket by path, a pair of streams cannot. The number of another
    // family makes the kernel load its module.
    let mut pairs = types_but(&[STREAM, 5])?;
    pairs.push(none_of(0, &[libc::AF_UNIX as u64])?);
    forbidden.insert(libc::SYS_socketpair, pairs);
    apply(forbidden, libc::EPERM)?;

    apply(UNKNOWN.iter().map(|call| (*call, Vec::new())).collect(), libc::ENOSYS)?;

    // Space taken at one blow would be gone before the watch on the disk looks again.
    let mut unsupported = Rules::from([(libc::SYS_fallocate, Vec::new())]);
    unsupported.extend(ATTRIBUTES.iter().map(|call| (*call, Vec::new())));
    unsupported.insert(libc::SYS_ioctl, either(PREALLOCATING.iter().map(|request| equal(1, *request)))?);
    apply(unsupported, libc::EOPNOTSUPP)?;
    only_native_calls()
}

/// Change modes, owners and times of files by path, whatever Landlock says of that path.
const BY_PATH: &[c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    libc::SYS_fchmodat,
    452, // fchmodat2
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    libc::SYS_fchownat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utimes,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_futimesat,
];

/// Which argument of a call is the mode that a file gets. (Of `open` only where it makes a file.)
const MODES: &[(c_long, u8)] = &[
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, 1),
    (libc::SYS_fchmod, 1),
    (libc::SYS_fchmodat, 2),
    (452, 2), // fchmodat2
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_creat, 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mknod, 1),
    (libc::SYS_mknodat, 2),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, 2),
    (libc::SYS_openat, 3),
];
/// S_ISUID and S_ISGID: programs that somebody else would run as this user.
const IDENTITIES: [u64; 2] = [0o4000, 0o2000];

/// What a command may not do besides: touch the launcher, whose user it is, set the priorities of others, as one user may
/// with all processes of its own, and, where Landlock does not know truncation yet (ABI below 3), truncate files by path.
/// A visitor's may neither change modes and times by path nor watch directories: all chats' files belong to one user.
pub fn enter_as_command(launcher: u32, landlock_abi: u32, visitor: bool) -> Result<(), SeccompError> {
    let launcher = u64::from(launcher);
    let mut forbidden = Rules::new();
    // The launcher leads its session, so its process group has its number; -1 is everybody.
    let groups = [launcher, u64::from((launcher as u32).wrapping_neg()), 0xffff_ffff];
    forbidden.insert(libc::SYS_kill, either(groups.into_iter().map(|target| equal(0, target)))?);
    for call in [
        libc::SYS_tkill,
        libc::SYS_tgkill,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_rt_tgsigqueueinfo,
        libc::SYS_pidfd_open,
    ] {
        forbidden.insert(call, either([equal(0, launcher)].into_iter())?);
    }
    for call in [
        // Another process' limits: enough processor time less, and the kernel kills it.
        libc::SYS_prlimit64,
        libc::SYS_sched_setaffinity,
        libc::SYS_sched_setattr,
        libc::SYS_sched_setparam,
        libc::SYS_sched_setscheduler,
    ] {
        forbidden.insert(call, vec![none_of(0, &[0])?]);
    }
    // PRIO_PROCESS and IOPRIO_WHO_PROCESS; the others are groups of processes and all of a user.
    forbidden.insert(libc::SYS_setpriority, vec![none_of(0, &[0])?, none_of(1, &[0])?]);
    forbidden.insert(libc::SYS_ioprio_set, vec![none_of(0, &[1])?, none_of(1, &[0])?]);
    // Nobody serves from here, and whoever takes all ports leaves none to the machine's own connections. Landlock knows ports
    // of TCP from ABI 4 on; a visitor takes none of UDP either.
    forbidden.insert(libc::SYS_listen, Vec::new());
    if visitor || landlock_abi < 4 {
        forbidden.insert(libc::SYS_bind, Vec::new());
    }
    if visitor {
        apply(WATCHING.iter().map(|call| (*call, Vec::new())).collect(), libc::ENOSYS)?;
    }
    if landlock_abi < 3 {
        forbidden.insert(libc::SYS_truncate, Vec::new());
    }
    for (call, mode) in MODES {
        forbidden.insert(*call, identities(*call, *mode)?);
    }
    // Its mode cannot be seen here; programs use openat instead.
    apply(Rules::from([(libc::SYS_openat2, Vec::new())]), libc::ENOSYS)?;
    if visitor {
        forbidden.extend(BY_PATH.iter().map(|call| (*call, Vec::new())));
        // Without a path it is about an open file.
        let path = SeccompCondition::new(1, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?;
        forbidden.insert(libc::SYS_utimensat, vec![SeccompRule::new(vec![path])?]);
    }
    apply(forbidden, libc::EPERM)
}

/// Refuses modes that lend an identity.
fn identities(call: c_long, mode: u8) -> Result<Vec<SeccompRule>, BackendError> {
    #[cfg(target_arch = "x86_64")]
    let opens = [libc::SYS_open, libc::SYS_openat].contains(&call);
    #[cfg(not(target_arch = "x86_64"))]
    let opens = call == libc::SYS_openat;
    let rule = |bit: u64| {
        let mut conditions = vec![masked(mode, bit, bit)?];
        if opens {
            conditions.push(masked(mode - 1, libc::O_CREAT as u64, libc::O_CREAT as u64)?);
        }
        SeccompRule::new(conditions)
    };
    IDENTITIES.into_iter().map(rule).collect()
}

/// Only TCP and UDP over IPv4 and IPv6. MPTCP and SCTP pass by rules that are written for TCP; Unix sockets lead to
/// services that would start something for the caller outside of all walls (D-Bus, a user's systemd).
fn sockets() -> Result<Vec<SeccompRule>, BackendError> {
    let mut rules = types_but(&[STREAM, DATAGRAM])?;
    rules.push(none_of(0, &[libc::AF_INET as u64, libc::AF_INET6 as u64])?);
    rules.push(none_of(2, &[0, libc::IPPROTO_TCP as u64, libc::IPPROTO_UDP as u64])?);
    Ok(rules)
}

fn types_but(allowed: &[u64]) -> Result<Vec<SeccompRule>, BackendError> {
    let others = (0..=SOCKET_TYPE).filter(|kind| !allowed.contains(kind));
    either(others.map(|kind| masked(1, SOCKET_TYPE, kind)))
}

type Condition = Result<SeccompCondition, BackendError>;

fn equal(argument: u8, value: u64) -> Condition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn masked(argument: u8, mask: u64, value: u64) -> Condition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)
}

fn either(conditions: impl Iterator<Item = Condition>) -> Result<Vec<SeccompRule>, BackendError> {
    conditions.map(|condition| SeccompRule::new(vec![condition?])).collect()
}

fn none_of(argument: u8, values: &[u64]) -> Result<SeccompRule, BackendError> {
    let unequal = |value: &u64| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, *value);
    SeccompRule::new(values.iter().map(unequal).collect::<Result<_, _>>()?)
}

/// Another processor's calls (32 bits on a 64-bit kernel) end the process: the numbers would mean something else.
fn apply(rules: Rules, refusal: i32) -> Result<(), SeccompError> {
    let processor = TargetArch::try_from(std::env::consts::ARCH).map_err(|_| SeccompError::Processor)?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(refusal as u32), processor)?;
    Ok(apply_filter(&BpfProgram::try_from(filter)?)?)
}

/// The x32 numbers of x86-64 (bit 30) are other names for the same calls: whoever uses one is ended.
fn only_native_calls() -> Result<(), SeccompError> {
    const LOAD_NUMBER: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS, of offset 0 in seccomp_data
    const JUMP_IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    let step = |code, jf, k| sock_filter { code, jt: 0, jf, k };
    Ok(apply_filter(&[
        step(LOAD_NUMBER, 0, 0),
        step(JUMP_IF_AT_LEAST, 1, 0x4000_0000),
        step(RETURN, 0, libc::SECCOMP_RET_KILL_PROCESS),
        step(RETURN, 0, libc::SECCOMP_RET_ALLOW),
    ])?)
}
