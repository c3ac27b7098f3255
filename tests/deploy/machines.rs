//! Machines that the tests of this process share: making one takes longer than cleaning it.

use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, Once};

use baal_e2e::{Kind, Machine, reaper};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Machines at one time, over all tests. Each takes about 40 MiB, and some CPU while something is installed.
const AT_ONCE: u32 = 7;

static FREE: Mutex<Vec<Machine>> = Mutex::new(Vec::new());
static ROOM: LazyLock<std::sync::Arc<Semaphore>> = LazyLock::new(|| Semaphore::new(AT_ONCE as usize).into());
static MADE: AtomicUsize = AtomicUsize::new(0);

/// A machine that this test alone uses, until it is dropped.
pub struct Host {
    machine: Option<Machine>,
    _room: OwnedSemaphorePermit,
}

impl Host {
    pub fn machine(&self) -> &Machine {
        self.machine.as_ref().unwrap()
    }

    /// Its address now.
    pub fn ip(&self) -> IpAddr {
        self.machine().place().unwrap().0
    }

    /// Removes everything that an agent left, but Debian's packages.
    pub fn clean(&self) -> anyhow::Result<()> {
        clean(self.machine())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Cleaned by who takes it next: here there may be a panic.
        FREE.lock().unwrap().extend(self.machine.take());
    }
}

/// So many clean machines, none of which others use. Waits until there are so many.
pub async fn take(count: u32) -> Vec<Host> {
    assert!(count <= AT_ONCE, "there are only {AT_ONCE} machines");
    // All at once, so that two tests never wait for each other.
    let mut room = ROOM.clone().acquire_many_owned(count).await.unwrap();
    let hosts = (0..count).map(|_| {
        let permit = room.split(1).unwrap();
        tokio::task::spawn_blocking(move || Host { machine: Some(clean_machine().unwrap()), _room: permit })
    });
    let hosts: Vec<_> = hosts.collect();
    let mut taken = Vec::new();
    for host in hosts {
        taken.push(host.await.unwrap());
    }
    taken
}

fn clean_machine() -> anyhow::Result<Machine> {
    let used = FREE.lock().unwrap().pop();
    if let Some(machine) = used {
        if machine.place().is_err() {
            machine.on()?;
        }
        match clean(&machine) {
            Ok(()) => return Ok(machine),
            Err(error) => eprintln!("a machine cannot be cleaned, another is made: {error:#}"),
        }
    }
    make(Kind::Packaged)
}

fn make(kind: Kind) -> anyhow::Result<Machine> {
    static REAPER: Once = Once::new();
    let run = format!("deploy-{}", std::process::id());
    REAPER.call_once(|| reaper(&run).unwrap());
    Machine::named(&format!("{run}-{}", MADE.fetch_add(1, Ordering::Relaxed)), kind, &run)
}

/// Nothing of an agent is left afterwards, whatever state it was in.
const CLEAN: &str = r#"set -e
systemctl stop caddy.service baal-agent.service 2>/dev/null || true
bash /run/uninstall.sh --purge >/dev/null
systemctl disable --quiet caddy.service 2>/dev/null || true
rm -rf /etc/caddy /var/lib/caddy /etc/systemd/system/caddy.service.d /usr/local/lib/baal /root/baal /root/.baal* /etc/baal
install -d /etc/caddy
! getent passwd caddy >/dev/null || install -d -o caddy -g caddy -m 750 /var/lib/caddy
nft flush ruleset 2>/dev/null || true
systemctl daemon-reload
systemctl reset-failed
"#;

fn clean(machine: &Machine) -> anyhow::Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/agent/systemd/uninstall.sh");
    machine.copy(&[&script], "/run")?;
    machine.root(CLEAN)?;
    Ok(())
}
