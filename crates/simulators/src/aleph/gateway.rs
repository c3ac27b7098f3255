//! The gateway: TLS is passed on to the host whose name the ClientHello asks for, untouched.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use super::Aleph;
use super::faults::{Kind, Occasion};
use super::relay::relay;

/// How long a ClientHello may take.
const HELLO: Duration = Duration::from_secs(10);
/// Longest ClientHello, in bytes.
const MAX_HELLO: usize = 64 * 1024;

/// Accepts until everything stops.
pub async fn serve(aleph: Aleph, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = aleph.inner.stop.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else { continue };
        let aleph = aleph.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = pass(&aleph, stream) => {}
                () = aleph.is_dead("gateway") => {}
                () = aleph.inner.stop.cancelled() => {}
            }
        });
    }
}

async fn pass(aleph: &Aleph, mut stream: TcpStream) {
    let hello = tokio::time::timeout(HELLO, hello(&mut stream)).await;
    // silent-ok: who does not speak TLS or names no server is cut off, as by the real one
    let Ok(Some((read, name))) = hello else { return };
    let begun = aleph.inner.journal.begin("gateway", "TLS", "", &name);
    let host = aleph.host_of_name(&name);
    let text = host.as_ref().map_or("", |(item_hash, _, _)| item_hash);
    let fault = aleph
        .inner
        .faults
        .take(&[Kind::NotRouting], &Occasion { party: "gateway", method: "TLS", text, ..Occasion::default() });
    aleph.inner.journal.end(begun, Some(if host.is_some() { 200 } else { 404 }), fault.as_ref().map(|f| f.kind));
    if let (Some((_, crn, to)), None) = (host, fault) {
        tokio::select! {
            () = relay(stream, to, &read, None) => {}
            () = aleph.is_dead(&crn) => {}
        }
    }
}

/// The bytes of a ClientHello and the name it asks for.
async fn hello(stream: &mut TcpStream) -> Option<(Vec<u8>, String)> {
    let mut acceptor = rustls::server::Acceptor::default();
    let mut read = Vec::new();
    let mut buffer = vec![0; 4096];
    while read.len() < MAX_HELLO {
        let count = stream.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
        let mut new = buffer.get(..count)?;
        read.extend_from_slice(new);
        while !new.is_empty() {
            acceptor.read_tls(&mut new).ok()?;
            if let Some(accepted) = acceptor.accept().ok()? {
                let name = accepted.client_hello().server_name()?.to_ascii_lowercase();
                return Some((read, name));
            }
        }
    }
    None
}
