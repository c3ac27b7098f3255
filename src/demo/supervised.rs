//! Child processes that end with this one, even when it is killed.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Takes a signal, seconds and a command line, runs the command and waits for it. When standard input ends, because the
/// owner closed it or died, it asks the program to stop by the signal and kills it after the seconds.
const WRAPPER: &str = r#"
signal=$1 grace=$2
shift 2
exec 3<&0
"$@" 3<&- &
program=$!
{
    read -r _ <&3
    kill -s "$signal" "$program"
    while [ "$grace" -gt 0 ] && kill -0 "$program"; do sleep 1; grace=$((grace - 1)); done
    kill -s KILL "$program"
} >/dev/null 2>&1 &
guard=$!
exec 3<&-
wait "$program"
status=$?
kill "$guard" 2>/dev/null
exit "$status"
"#;

/// How a program is run.
pub struct Spec<'a> {
    /// The name in messages.
    pub name: &'static str,
    pub program: &'a OsStr,
    pub args: &'a [&'a OsStr],
    /// The whole environment, but for `PATH`, which is handed on.
    pub env: &'a [(&'a str, &'a OsStr)],
    /// Gets standard output and standard error, appended.
    pub log: &'a Path,
    /// Whether standard output is kept for [`Supervised::first_line`] instead.
    pub speaks: bool,
    /// The signal that asks the program to stop, without `SIG`.
    pub signal: &'static str,
    /// How long the program may take to stop before it is killed; whole seconds.
    pub grace: Duration,
}

/// A running child. It is asked to stop when this is dropped, and dropping waits for it.
pub struct Supervised {
    name: &'static str,
    child: Child,
    log: PathBuf,
    grace: Duration,
}

impl Supervised {
    /// Starts a program in a process group of its own, so that Ctrl-C in the terminal reaches only this process, which
    /// then stops its children in order.
    pub fn spawn(spec: &Spec<'_>) -> io::Result<Self> {
        let log = File::options().create(true).append(true).open(spec.log)?;
        let child = Command::new("/bin/sh")
            .args(["-c", WRAPPER, "sh"])
            .arg(spec.signal)
            .arg(spec.grace.as_secs().to_string())
            .arg(spec.program)
            .args(spec.args)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(spec.env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(if spec.speaks { Stdio::piped() } else { log.try_clone()?.into() })
            .stderr(log)
            .process_group(0)
            .spawn()?;
        Ok(Self { name: spec.name, child, log: spec.log.to_owned(), grace: spec.grace })
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The process id of the program itself; `None` once it has ended.
    pub fn pid(&self) -> Option<rustix::process::Pid> {
        let wrapper = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{wrapper}/task/{wrapper}/children")).ok()?;
        // The program was started before the guard, which may be all that is left.
        let children: Vec<_> = children.split_whitespace().collect();
        match children[..] {
            [program, _guard] => rustix::process::Pid::from_raw(program.parse().ok()?),
            _ => None,
        }
    }

    /// The first line that the program writes to standard output: `Ok(None)` if it closes it before. For programs
    /// started with `speaks`; works once.
    pub async fn first_line(&mut self) -> io::Result<Option<String>> {
        let Some(stdout) = self.child.stdout.take() else { return Ok(None) };
        let (line, stdout) = tokio::task::spawn_blocking(move || {
            let mut reader = BufReader::new(stdout);
            let mut line = String::new();
            reader.read_line(&mut line).map(|_| (line, reader.into_inner()))
        })
        .await??;
        // Kept open: the program should not fail over a second line.
        self.child.stdout = Some(stdout);
        Ok(Some(line).filter(|line| !line.is_empty()))
    }

    /// How the program ended, or `None` while it runs. A program ended by a signal has status 128 + signal.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Asks the program to stop and waits until it has; it is killed after its grace.
    pub async fn stop(mut self) -> io::Result<()> {
        self.child.stdin.take();
        while self.child.try_wait()?.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.child.stdin.take();
        let deadline = Instant::now() + self.grace + Duration::from_secs(2);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The last lines of a log, for an error message.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    // The end is enough: a log can be large.
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(16 * 1024)..]).into_owned();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
impl Supervised {
    /// Kills the wrapper and its guard but not the program, as the kernel may when memory runs out.
    pub fn kill_wrapper(&mut self) {
        let wrapper = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{wrapper}/task/{wrapper}/children")).unwrap();
        let guard = children.split_whitespace().nth(1).unwrap().parse().unwrap();
        let guard = rustix::process::Pid::from_raw(guard).unwrap();
        rustix::process::kill_process(guard, rustix::process::Signal::KILL).unwrap();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
