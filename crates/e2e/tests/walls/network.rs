//! Reaching this machine, its network and the metadata service.

use crate::attack::Attack;

/// Beyond a link there is another host: it answers at a public address, at the metadata service's and at a private one,
/// and redirects to where it is told. This machine serves at all of its addresses.
pub const WORLD: &str = r#"
ip netns add far
ip link add out type veth peer name in netns far
ip address add 203.0.113.1/24 dev out && ip link set out up
ip -n far address add 203.0.113.2/24 dev in && ip -n far link set in up && ip -n far link set lo up
for a in 198.51.100.1 169.254.169.254 10.66.66.66; do
    ip -n far address add $a/32 dev lo
    ip route add $a/32 via 203.0.113.2
done
grep -q far.e2e /etc/hosts || printf '%s\n' '198.51.100.1 far.e2e' '169.254.169.254 metadata.e2e' '127.0.0.1 near.e2e' >> /etc/hosts
cat > /root/far.py <<'P'
import http.server, socket, sys, urllib.parse
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        here = self.request.getsockname()[0]
        url = urllib.parse.urlparse(self.path)
        to = urllib.parse.parse_qs(url.query).get("to")
        self.send_response(302 if to else 200)
        if to: self.send_header("Location", to[0])
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(b"a public page\n" if here.endswith("198.51.100.1") else b"CANARY-place %s\n" % here.encode())
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() and sys.argv[2] == "dual" else socket.AF_INET
Server(("", int(sys.argv[1])), Handler).serve_forever()
P
systemd-run -q --unit=e2e-far ip netns exec far python3 /root/far.py 80 four
systemd-run -q --unit=e2e-near python3 /root/far.py 9091 $([ -e /proc/sys/net/ipv6/conf/lo ] && [ "$(cat /proc/sys/net/ipv6/conf/lo/disable_ipv6)" = 0 ] && echo dual || echo four)
systemd-run -q --unit=e2e-udp python3 -c '
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("0.0.0.0", 9092))
while True: open("/run/e2e-udp", "ab").write(s.recv(100))'
for i in $(seq 50); do curl -sf -m 1 http://198.51.100.1/ && curl -sf -m 1 http://127.0.0.1:9091/ && break; sleep 0.1; done
"#;

pub const ATTACKS: &[Attack] = &[
    Attack::new("the metadata service", "curl -sS -m 3 http://169.254.169.254/"),
    Attack::new("the metadata service, by redirect", "curl -sSL -m 3 'http://198.51.100.1/?to=http://169.254.169.254/'"),
    Attack::new("the metadata service, by name", "curl -sS -m 3 http://metadata.e2e/"),
    Attack::new("the metadata service, IPv6-mapped", "curl -sS -m 3 'http://[::ffff:169.254.169.254]/'"),
    Attack::new("the metadata service, decimal", "curl -sS -m 3 http://2852039166/"),
    Attack::new("the metadata service, hexadecimal and octal", "curl -sS -m 3 http://0xa9fea9fe/; curl -sS -m 3 http://0251.0376.0251.0376/"),
    Attack::new("the private network", "curl -sS -m 3 http://10.66.66.66/"),
    Attack::new("the server at 127.0.0.1:8080", "curl -sS -m 3 http://127.0.0.1:8080/health"),
    Attack::new("the server at localhost, by name and redirect", "curl -sS -m 3 http://near.e2e:8080/health; curl -sSL -m 3 'http://198.51.100.1/?to=http://127.0.0.1:8080/health'"),
    Attack::new("the server at 0.0.0.0 and 127.1", "curl -sS -m 3 http://0.0.0.0:8080/health; curl -sS -m 3 http://127.1:8080/health"),
    Attack::new("the server, by MPTCP", "python3 -c '\nimport socket\ns = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262); s.settimeout(3); s.connect((\"127.0.0.1\", 8080))\ns.send(b\"GET /health HTTP/1.0\\r\\n\\r\\n\"); print(s.recv(2000))'"),
    Attack::new("the server, by fast open", "timeout 3 python3 -c '\nimport socket\ns = socket.socket(); s.sendto(b\"GET /health HTTP/1.0\\r\\n\\r\\n\", 0x20000000, (\"127.0.0.1\", 8080)); print(s.recv(2000))'"),
    // Containers have no IPv6, so root may have no success.
    Attack::untried("a local service at ::1", "curl -sS -m 3 'http://[::1]:9091/'"),
    Attack::new("a local service at the machine's own address", "curl -sS -m 3 http://203.0.113.1:9091/"),
    Attack::new("the machine's SSH, by loopback", "timeout 3 bash -c 'exec 3<>/dev/tcp/127.0.0.1/22 && head -c 4 <&3 | grep SSH' && breach"),
    Attack::new("the machine's SSH, by its own address", "timeout 3 bash -c 'exec 3<>/dev/tcp/203.0.113.1/22 && head -c 4 <&3 | grep SSH' && breach"),
    Attack::new("the model's host, past the server", "timeout 3 bash -c 'exec 3<>/dev/tcp/{host}/{model}' && breach"),
    Attack::untried("a local service, by UDP", "rm -f /run/e2e-udp; python3 -c '\nimport socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nfor a in (\"127.0.0.1\", \"203.0.113.1\"):\n  try: s.sendto(b\"x\", (a, 9092))\n  except OSError as e: print(e)'")
        .prepared("rm -f /run/e2e-udp")
        .checked("sleep 0.2; ! test -s /run/e2e-udp"),
    Attack::new("raw and packet sockets", "python3 -c '\nimport socket\nfor family, kind, number in ((2, 3, 1), (17, 3, 3), (16, 3, 0), (40, 1, 0)):\n  try: socket.socket(family, kind, number); print(\"BRE\" \"ACH\", family)\n  except OSError as e: print(e)'"),
    Attack::untried("serve the outside, or pose as the server", "python3 -m http.server 7777 >/dev/null 2>&1 & python3 -m http.server 7778 --bind 127.0.0.1 >/dev/null 2>&1 & sleep 4; kill %1 %2")
        .prepared("rm -f /run/e2e-served; systemd-run -q --unit=e2e-poll-$RANDOM bash -c 'for i in $(seq 40); do ip netns exec far curl -s -m 0.3 http://203.0.113.1:7777/; curl -s -m 0.3 http://127.0.0.1:7777/; curl -s -m 0.3 http://127.0.0.1:7778/; sleep 0.05; done > /run/e2e-served'")
        .checked("sleep 0.5; ! test -s /run/e2e-served"),
];
