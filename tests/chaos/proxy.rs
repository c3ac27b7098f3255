//! A TCP proxy that breaks what goes through it.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::chance::Chance;
use crate::harness::Stack;

/// Where a proxy leads.
#[derive(Debug, Clone)]
pub enum Target {
    /// A port of this machine.
    Port(u16),
    /// A socket in the file system.
    Socket(PathBuf),
}

/// How connections are treated.
#[derive(Debug, Clone, Copy)]
pub enum Treatment {
    Fair,
    /// Each direction of each connection ends after a random number of bytes below this, small numbers as likely as large ones;
    /// one in three then keeps silent for a while first, and half of them end by a reset.
    Breaking(u64),
}

type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

struct Shared {
    targets: Mutex<Vec<Target>>,
    next: AtomicUsize,
    treatment: Mutex<Treatment>,
    /// Grows whenever all open connections are to end.
    generation: watch::Sender<u64>,
    cuts: AtomicUsize,
    chance: Chance,
}

/// A way to somewhere, which ends when this is dropped.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens; it leads nowhere yet.
    pub async fn start(chance: &Chance) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            targets: Mutex::default(),
            next: AtomicUsize::new(0),
            treatment: Mutex::new(Treatment::Fair),
            generation: watch::Sender::new(0),
            cuts: AtomicUsize::new(0),
            chance: chance.child(),
        });
        let task = tokio::spawn(accept(listener, shared.clone()));
        Self { port, shared, task }
    }

    /// The port of 127.0.0.1 that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// New connections go to these in turn, or to the next one that takes them.
    pub fn lead_to(&self, targets: Vec<Target>) {
        *self.shared.targets.lock().unwrap() = targets;
    }

    /// As behind a load balancer.
    pub fn lead_to_replicas(&self, stack: &Stack) {
        self.lead_to((0..stack.replicas()).map(|index| Target::Port(stack.baal(index).port())).collect());
    }

    /// From now on; connections that are open end.
    pub fn treat(&self, treatment: Treatment) {
        *self.shared.treatment.lock().unwrap() = treatment;
        self.cut_all();
    }

    /// Ends all open connections at once.
    pub fn cut_all(&self) {
        self.shared.generation.send_modify(|generation| *generation += 1);
    }

    /// How many connections it has broken.
    pub fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        connections.spawn(carry(near, shared.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(mut near: TcpStream, shared: Arc<Shared>) {
    let mut generation = shared.generation.subscribe();
    generation.mark_unchanged();
    let _ = near.set_nodelay(true); // silent-ok: a slower way still leads there
    let Some((far_reader, far_writer)) = far_side(&shared).await else { return };
    let (there, back) = match *shared.treatment.lock().unwrap() {
        Treatment::Fair => (u64::MAX, u64::MAX),
        Treatment::Breaking(most) => (shared.chance.of_any_size(most), shared.chance.of_any_size(most)),
    };
    let broken = {
        let (near_reader, near_writer) = near.split();
        let passing = async {
            let through =
                async { tokio::try_join!(pass(near_reader, far_writer, there), pass(far_reader, near_writer, back)) };
            let broken = through.await.is_err_and(|end| matches!(end, End::Spent));
            if broken && shared.chance.once_in(3) {
                tokio::time::sleep(shared.chance.pause(100..2_500)).await;
            }
            broken
        };
        tokio::select! {
            broken = passing => broken,
            _ = generation.changed() => true,
        }
    };
    if broken {
        shared.cuts.fetch_add(1, Ordering::Relaxed);
        if shared.chance.once_in(2) {
            let _ = near.set_zero_linger(); // silent-ok: then it ends in an orderly way
        }
    }
}

/// The first target, from the next in turn, that takes a connection.
async fn far_side(shared: &Shared) -> Option<(Reader, Writer)> {
    let targets = shared.targets.lock().unwrap().clone();
    let first = shared.next.fetch_add(1, Ordering::Relaxed);
    for place in 0..targets.len() {
        match &targets[(first + place) % targets.len()] {
            Target::Port(port) => {
                if let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).await {
                    let _ = far.set_nodelay(true); // silent-ok: as above
                    let (reader, writer) = far.into_split();
                    return Some((Box::new(reader), Box::new(writer)));
                }
            }
            Target::Socket(path) => {
                if let Ok(far) = UnixStream::connect(path).await {
                    let (reader, writer) = far.into_split();
                    return Some((Box::new(reader), Box::new(writer)));
                }
            }
        }
    }
    None
}

/// Why nothing passes any more.
enum End {
    /// As many bytes have passed as were to.
    Spent,
    /// One of the sides has gone.
    Gone,
}

/// Passes on so many bytes at most.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, most: u64) -> Result<(), End> {
    let mut left = most;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await.map_err(|_| End::Gone)?;
        if read == 0 {
            return to.shutdown().await.map_err(|_| End::Gone);
        }
        let passing = read.min(usize::try_from(left).unwrap_or(usize::MAX));
        to.write_all(&buffer[..passing]).await.map_err(|_| End::Gone)?;
        left -= passing as u64;
        if left == 0 {
            return Err(End::Spent);
        }
    }
}
