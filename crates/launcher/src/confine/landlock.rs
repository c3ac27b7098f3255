//! Which files can be reached: Landlock domains, one around the launcher and a narrower one around every command.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};
use rustix::fs::{FileType, fstat};
use std::path::Path;

/// What a shell needs to find and run programs.
const PROGRAMS: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// The files of /etc that programs look at. Not all of it: unit files, web servers' and databases' configurations are
/// there too. Where one is a symbolic link, the rule is for what it leads to.
const CONFIGURATION: &[&str] = &[
    "/etc/alternatives",
    "/etc/bash.bashrc",
    "/etc/ca-certificates",
    "/etc/ca-certificates.conf",
    "/etc/debian_version",
    "/etc/fonts",
    "/etc/gai.conf",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/inputrc",
    "/etc/java-17-openjdk",
    "/etc/java-21-openjdk",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/locale.alias",
    "/etc/localtime",
    "/etc/magic",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/passwd",
    "/etc/perl",
    "/etc/pki/tls",
    "/etc/profile",
    "/etc/protocols",
    "/etc/python3",
    "/etc/python3.11",
    "/etc/python3.13",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/terminfo",
    "/etc/timezone",
    "/etc/vim",
    "/etc/wgetrc",
];

/// What the kernel tells about the machine and about nobody's processes.
const MACHINE: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/filesystems",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/ostype",
    "/proc/sys/kernel/pid_max",
    "/proc/sys/kernel/random",
    "/proc/sys/vm/overcommit_memory",
    "/proc/uptime",
    "/proc/version",
    "/sys/devices/system/cpu",
];

const DEVICES: &[&str] = &["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

/// Why a domain could not be entered.
#[derive(Debug, thiserror::Error)]
#[error("Landlock: {0}")]
pub struct LandlockError(#[from] RulesetError);

/// What a domain leaves open.
#[derive(Debug, Default)]
pub struct Open<'a> {
    /// Directories in which everything may be done, except making devices and sockets.
    pub own: Vec<&'a Path>,
    /// Files that may be run.
    pub run: Vec<&'a Path>,
    /// Directories whose files may be read and written and that may be made and removed: cgroups.
    pub cgroups: Vec<&'a Path>,
    /// The processes of this machine. Their memory, environment and files stay closed: Landlock forbids to trace what is
    /// outside of the domain; names, states and command lines can be read.
    pub processes: bool,
}

/// Enters a domain for good, and tells the kernel's ABI; 0 when there is no Landlock, which stops nothing here: what is
/// missing is found out by the probe, and whether it is missed is the agent's decision.
pub fn enter(open: &Open) -> Result<u32, LandlockError> {
    // Everything that the crate knows is forbidden unless a rule allows it; an older kernel leaves out what it lacks.
    let abi = ABI::V10;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let devices = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let own = AccessFs::from_all(abi)
        & !(AccessFs::MakeBlock | AccessFs::MakeChar | AccessFs::MakeSock | AccessFs::IoctlDev | AccessFs::ResolveUnix);
    let cgroups = read | AccessFs::WriteFile | AccessFs::MakeDir | AccessFs::RemoveDir;
    let mut domain = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        // No port of TCP is anybody's here; connecting is left to the firewall, which knows other protocols as well.
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(abi))?
        .create()?;
    domain = all(domain, PROGRAMS, read | AccessFs::Execute)?;
    domain = all(domain, CONFIGURATION, read)?;
    domain = all(domain, MACHINE, read)?;
    domain = all(domain, DEVICES, devices)?;
    domain = all(domain, &open.own, own)?;
    domain = all(domain, &open.run, AccessFs::ReadFile | AccessFs::Execute)?;
    domain = all(domain, &open.cgroups, cgroups)?;
    if open.processes {
        domain = all(domain, &["/proc"], read)?;
    }
    Ok(match domain.restrict_self()?.landlock {
        LandlockStatus::Available { effective_abi, kernel_abi } => {
            kernel_abi.and_then(|version| u32::try_from(version).ok()).unwrap_or(effective_abi as u32)
        }
        _ => 0,
    })
}

/// Adds a rule for each of these that exists.
fn all(
    mut domain: RulesetCreated,
    paths: &[impl AsRef<Path>],
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, LandlockError> {
    for path in paths {
        // silent-ok: what does not exist needs no rule
        let Ok(file) = PathFd::new(path) else { continue };
        let directory = fstat(&file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        // The kernel refuses rules about a file that only make sense for a directory.
        let access = if directory { access } else { access & AccessFs::from_file(ABI::V10) };
        domain = domain.add_rule(PathBeneath::new(file, access))?;
    }
    Ok(domain)
}
