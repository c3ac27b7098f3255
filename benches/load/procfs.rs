//! What the kernel tells of processes and machine (proc(5)).

use std::time::Duration;

use anyhow::Context as _;

/// Clock ticks a second in the kernel's answers; the same on every architecture that Linux gives to programs today.
const TICKS: u64 = 100;

/// CPU time of a process and its threads so far. Counted in steps of 10 ms.
pub fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(") ").context("/proc/PID/stat has no name")?;
    // utime, stime and those of children that were waited for are fields 14 to 17; the first one here is the third.
    let ticks = fields.split(' ').skip(11).take(4).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS))
}

/// CPU time of a process and of all that it started and that still run: Postgres is a process for each connection.
pub fn family_cpu(pid: u32) -> anyhow::Result<Duration> {
    let mut sum = cpu(pid)?;
    for child in children(pid) {
        // silent-ok: it has ended since; its parent has its time by now or soon.
        sum += family_cpu(child).unwrap_or_default();
    }
    Ok(sum)
}

fn children(pid: u32) -> Vec<u32> {
    // silent-ok: a process that has ended has no children.
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// Resident memory, in MiB.
pub fn memory(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("/proc/PID/status tells no memory")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

/// Time that all processors together spent at work so far.
pub fn all_cpu() -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let fields = line.split_whitespace().skip(1).map(str::parse::<u64>).collect::<Result<Vec<_>, _>>()?;
    // user nice system idle iowait irq softirq steal; what follows is counted in user and nice already.
    let ticks: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|&field| fields.get(field)).sum();
    Ok(Duration::from_millis(ticks * 1000 / TICKS))
}

/// The machine in one line.
pub fn machine() -> anyhow::Result<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("")
        .trim_start_matches([' ', '\t', ':']);
    let processors = std::thread::available_parallelism()?;
    let today = chrono::DateTime::<chrono::Utc>::from(std::time::SystemTime::now());
    Ok(format!("{processors} processors ({model}), {}", today.format("%Y-%m-%d")))
}
