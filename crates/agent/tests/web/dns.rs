//! A name server: UDP, A and AAAA records of a table, and as many answers as there were questions.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::UdpSocket;

/// A name server that runs until the test's runtime ends.
pub struct NameServer {
    pub address: SocketAddr,
    questions: Arc<AtomicUsize>,
}

impl NameServer {
    /// Serves these addresses. A name with several rounds of them answers each in turn for A questions, its last one
    /// for ever, with a time to live of 0: the name that changes under its visitor.
    pub async fn start(names: &[(&str, &[&[&str]])]) -> Self {
        let table: HashMap<String, Vec<Vec<IpAddr>>> = names
            .iter()
            .map(|(name, rounds)| {
                let addresses = |round: &&[&str]| round.iter().map(|text| text.parse().expect("an address")).collect();
                ((*name).to_owned(), rounds.iter().map(addresses).collect())
            })
            .collect();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        let address = socket.local_addr().expect("its address");
        let questions = Arc::new(AtomicUsize::new(0));
        let counted = questions.clone();
        tokio::spawn(async move {
            let mut rounds = HashMap::new();
            let mut packet = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut packet).await {
                if let Some(answer) = answer(&packet[..length], &table, &mut rounds) {
                    counted.fetch_add(1, Ordering::SeqCst);
                    socket.send_to(&answer, from).await.expect("it is sent");
                }
            }
        });
        Self { address, questions }
    }

    pub fn questions(&self) -> usize {
        self.questions.load(Ordering::SeqCst)
    }
}

const A: u16 = 1;
const AAAA: u16 = 28;

fn answer(
    query: &[u8],
    table: &HashMap<String, Vec<Vec<IpAddr>>>,
    rounds: &mut HashMap<String, usize>,
) -> Option<Vec<u8>> {
    let (mut at, mut labels) = (12, Vec::new());
    while *query.get(at)? > 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(query.get(at + 1..at + 1 + length)?).to_lowercase());
        at += 1 + length;
    }
    let question = query.get(12..at + 5)?;
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    let name = labels.join(".");
    let known = table.get(&name);
    let addresses = known.map_or(&[][..], |all| {
        let round = rounds.entry(name).or_default();
        let now = &all[(*round).min(all.len() - 1)];
        *round += usize::from(kind == A);
        now
    });
    let records: Vec<Vec<u8>> = addresses
        .iter()
        .filter_map(|address| match address {
            IpAddr::V4(address) if kind == A => Some(address.octets().to_vec()),
            IpAddr::V6(address) if kind == AAAA => Some(address.octets().to_vec()),
            _ => None,
        })
        .collect();
    let mut out = query[..2].to_vec();
    // An answer with recursion; 3 is "no such name".
    out.extend([0x81, if known.is_some() { 0x80 } else { 0x83 }, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    out.extend(question);
    for record in records {
        out.extend([0xc0, 12, 0, kind as u8, 0, 1, 0, 0, 0, 0, 0, record.len() as u8]);
        out.extend(record);
    }
    Some(out)
}
