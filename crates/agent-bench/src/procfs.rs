//! What the kernel tells about processes (proc(5)).

use anyhow::Context;
use std::time::Duration;

/// Clock ticks a second in the kernel's answers; the same on every architecture that Linux gives to programs today.
const TICKS_PER_SECOND: u64 = 100;

/// CPU time of a process and its threads so far, in user and kernel mode. Counted in steps of 10 ms.
///
/// # Errors
/// The process is gone.
pub fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(") ").context("/proc/PID/stat has no name")?;
    // utime and stime are fields 14 and 15; the first one here is the third.
    let ticks = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>()).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// Time that all processors together spent at work so far.
///
/// # Errors
/// The kernel's answer cannot be read.
pub fn all_cpu() -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let fields = line.split_whitespace().skip(1).map(str::parse::<u64>).collect::<Result<Vec<_>, _>>()?;
    // user nice system idle iowait irq softirq steal; what follows is counted in user and nice already.
    let ticks: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|&field| fields.get(field)).sum();
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// Resident memory in MiB: all of it, and the part that is no file's (the rest is mostly the binary itself).
///
/// # Errors
/// The process is gone.
pub fn memory(pid: u32) -> anyhow::Result<(f64, f64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let mib = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(value.trim().strip_suffix(" kB")?.parse::<f64>().ok()? / 1024.0)
    };
    mib("VmRSS:").zip(mib("RssAnon:")).context("/proc/PID/status tells no memory")
}

/// CPU time of the agent, of this process and of everybody together.
#[derive(Clone, Copy)]
pub struct Cpu {
    /// The agent.
    pub agent: Duration,
    /// Driver and model.
    pub own: Duration,
    /// Everybody.
    pub all: Duration,
}

impl Cpu {
    /// So far.
    ///
    /// # Errors
    /// The agent is gone.
    pub fn now(agent: u32) -> anyhow::Result<Self> {
        Ok(Self { agent: cpu(agent)?, own: cpu(std::process::id())?, all: all_cpu()? })
    }

    /// What came since.
    pub fn since(self, earlier: Self) -> Self {
        Self { agent: self.agent - earlier.agent, own: self.own - earlier.own, all: self.all - earlier.all }
    }

    /// What neither the agent nor this process used.
    pub fn others(self) -> Duration {
        self.all.saturating_sub(self.agent + self.own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_and_no_more_time_than_all() {
        let own = std::process::id();
        let (resident, anonymous) = memory(own).expect("read");
        assert!(resident >= anonymous && anonymous > 0.0, "{resident} {anonymous}");
        assert!(Cpu::now(own).is_ok_and(|cpu| cpu.own <= cpu.all));
    }
}
