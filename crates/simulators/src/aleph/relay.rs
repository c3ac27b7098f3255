//! Bytes between a caller and a host: the nodes' forwarded ports.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::Aleph;
use super::faults::{Kind, Occasion};

/// A forwarded port of a node. Dropping it does not close it: `stop` does.
#[derive(Debug, Clone)]
pub struct Forward {
    pub port: u16,
    /// Closes the port and cuts what goes through it.
    pub stop: CancellationToken,
}

/// Which instance's SSH a port leads to.
#[derive(Debug, Clone)]
pub struct Lead {
    pub party: String,
    pub item_hash: String,
    pub to: SocketAddr,
}

impl Forward {
    /// Opens a free port on `ip`. It works from now on; needs a running tokio runtime.
    pub fn open(aleph: &Aleph, ip: IpAddr, lead: Lead) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((ip, 0))?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let forward = Self { port: listener.local_addr()?.port(), stop: aleph.inner.stop.child_token() };
        tokio::spawn(forward.clone().accept(aleph.clone(), listener, lead));
        Ok(forward)
    }

    async fn accept(self, aleph: Aleph, listener: TcpListener, lead: Lead) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return,
            };
            let Ok((stream, _)) = accepted else { continue };
            let (aleph, lead, stop) = (aleph.clone(), lead.clone(), self.stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = ssh(&aleph, stream, &lead) => {}
                    () = aleph.is_dead(&lead.party) => {}
                    () = stop.cancelled() => {}
                }
            });
        }
    }
}

async fn ssh(aleph: &Aleph, stream: TcpStream, lead: &Lead) {
    let begun = aleph.inner.journal.begin(&lead.party, "SSH", "", &lead.item_hash);
    let occasion = Occasion { party: &lead.party, method: "SSH", route: "", text: &lead.item_hash };
    let fault = aleph.inner.faults.take(&[Kind::SshCut], &occasion);
    let limit = fault.as_ref().map(|fault| fault.bytes.unwrap_or(0));
    aleph.inner.journal.end(begun, None, fault.map(|fault| fault.kind));
    if limit != Some(0) {
        relay(stream, lead.to, &[], limit).await;
    }
}

/// Passes bytes both ways until one side ends or `limit` bytes went through in all. `first` was read from `stream` already.
pub async fn relay(mut stream: TcpStream, to: SocketAddr, first: &[u8], limit: Option<u64>) {
    // silent-ok: a host that does not answer looks to the caller like the connection's end, as it does with real forwarding
    let Ok(mut host) = TcpStream::connect(to).await else { return };
    // silent-ok: slower connections still work
    let _ = (stream.set_nodelay(true), host.set_nodelay(true));
    if host.write_all(first).await.is_err() {
        return;
    }
    let Some(limit) = limit else {
        // silent-ok: either side may go away at any time
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut host).await;
        return;
    };
    let left = AtomicU64::new(limit);
    let (mut from_caller, mut to_caller) = stream.split();
    let (mut from_host, mut to_host) = host.split();
    tokio::select! {
        () = pump(&mut from_caller, &mut to_host, &left) => {}
        () = pump(&mut from_host, &mut to_caller, &left) => {}
    }
}

/// Ends at the end of `from`, or when nothing is left to be passed.
async fn pump(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), left: &AtomicU64) {
    let mut buffer = vec![0; 4096];
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(read) if read > 0 => read,
            _ => return,
        };
        let wanted = u64::try_from(read).unwrap_or(u64::MAX);
        let before = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| Some(left.saturating_sub(wanted)));
        let before = before.unwrap_or_else(|left| left);
        let passed = usize::try_from(before.min(wanted)).unwrap_or(read);
        if to.write_all(&buffer[..passed]).await.is_err() || before <= wanted {
            return;
        }
    }
}
