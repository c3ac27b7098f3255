#!/bin/bash
# Sets up Caddy, which speaks HTTPS to the world for the agent, or brings it up to date. Run as root, with caddy installed:
#
#   web.sh --host NAME|--ip ADDRESS --caddyfile FILE [--site-pem FILE --ca FILE] [--roots FILE] [--wait SECONDS]
#   web.sh --remove
#
# NAME or ADDRESS is how the world calls the machine. --site-pem is a finished certificate, its chain and its key, signed by
# --ca; the one on the machine stays while it is as good. --roots are authorities that Caddy trusts when it asks for a
# certificate itself; then this waits for it. Exit status: 77 no certificate, Caddy's own words on standard error.
#
# Running it again with nothing new changes nothing and restarts nothing; what somebody edited is put right. Caddy's data, with
# the certificates it got, stay. It may be killed after any line: files are put in place by renames, and what a restart still
# has to follow is in $dirty, written before the change.
set -euo pipefail
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL=C
umask 022

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ours=/etc/caddy/baal
dirty=/run/baal-web.changed
drop_in=/etc/systemd/system/caddy.service.d/baal.conf
# The certificate is renewed when it has fewer than 30 days left.
margin=$((30 * 24 * 3600))

fail() { echo "web: $*" >&2; exit 1; }
did() { echo "web: $*" || true; }
usage() { sed -n 4,5p "${BASH_SOURCE[0]}" | sed 's/^# */usage: /' >&2; exit 2; }
ctl() { timeout -k 5 90 systemctl "$@"; }

what='' name='' caddyfile='' site='' ca='' roots='' patience=180 remove=''
while [ $# -gt 0 ]; do
    case $1 in
        --host | --ip) what=${1#--} name=${2:-}; shift 2 || usage ;;
        --caddyfile) caddyfile=${2:-}; shift 2 || usage ;;
        --site-pem) site=${2:-}; shift 2 || usage ;;
        --ca) ca=${2:-}; shift 2 || usage ;;
        --roots) roots=${2:-}; shift 2 || usage ;;
        --wait) patience=${2:-}; shift 2 || usage ;;
        --remove) remove=yes; shift ;;
        *) usage ;;
    esac
done
[ "$(id -u)" = 0 ] || fail "run this as root"
trap '' HUP PIPE
exec 9>/run/baal-install.lock
flock -w 300 9 || fail "another installation has been at work for five minutes; look at it, then try again"

if [ -n "$remove" ]; then
    ctl disable --quiet --now caddy.service 2>/dev/null || true
    rm -rf "$ours" "$drop_in" /etc/caddy/Caddyfile "$dirty" /var/lib/caddy/.local /var/lib/caddy/.config
    rmdir --ignore-fail-on-non-empty "$(dirname "$drop_in")" 2>/dev/null || true
    ctl daemon-reload
    ctl reset-failed caddy.service 2>/dev/null || true
    did "configuration and certificates are gone; Debian's package stays"
    exit 0
fi

[ -n "$name" ] && [ -f "$caddyfile" ] || usage
command -v caddy >/dev/null || fail "caddy is not installed"

note_change() { printf '%s\n' "$1" >>"$dirty"; }
place() { # place SOURCE TARGET GROUP MODE: in one step
    if [ ! -L "$2" ] && cmp -s "$1" "$2" && [ "$(stat -c %U:%G:%a "$2")" = "root:$3:$4" ]; then return; fi
    [ ! -d "$2" ] || rm -rf "$2"
    rm -rf "$2.new"
    (umask 077; cat "$1" >"$2.new")
    chown "root:$3" "$2.new"
    chmod "$4" "$2.new"
    sync "$2.new"
    note_change "$2"
    mv -f -T "$2.new" "$2"
    did "wrote $2"
}
serves_name() { # serves_name FILE: the certificate in it is for our name, and still for longer than the margin
    openssl x509 -in "$1" -noout -checkend "${2:-$margin}" >/dev/null 2>&1 &&
        openssl x509 -in "$1" -noout "-check$what" "$name" 2>/dev/null | grep -q 'does match'
}

# ── Certificates that are given ────────────────────────────────────────────────────────────────────────────────────────
if [ "$(stat -c %U:%G:%a "$ours" 2>/dev/null)" != root:caddy:750 ]; then
    [ ! -e "$ours" ] || [ -d "$ours" ] || rm -f "$ours"
    install -d -o root -g caddy -m 750 "$ours"
fi
own_key() { # own_key FILE: key and certificate in it belong together
    [ "$(openssl pkey -in "$1" -pubout 2>/dev/null)" = "$(openssl x509 -in "$1" -noout -pubkey 2>/dev/null)" ]
}
if [ -n "$site" ]; then
    kept=$ours/site.pem
    if [ -f "$kept" ] && serves_name "$kept" && own_key "$kept" && openssl verify -CAfile "$ca" "$kept" >/dev/null 2>&1; then
        # The owner and mode may have been changed.
        place "$kept" "$kept" caddy 640
    else
        place "$site" "$kept" caddy 640
    fi
fi
[ -z "$roots" ] || place "$roots" "$ours/roots.pem" caddy 640

# ── Caddy ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
mkdir -p "$(dirname "$drop_in")"
place "$here/caddy.conf" "$drop_in" root 644
if ! cmp -s "$caddyfile" /etc/caddy/Caddyfile; then
    # As Caddy's user, so that nothing in its home becomes root's.
    said=$(setpriv --reuid caddy --regid caddy --clear-groups env HOME=/var/lib/caddy \
        timeout -k 2 60 caddy validate --adapter caddyfile --config - <"$caddyfile" 2>&1) ||
        { tail -n 5 <<<"$said" >&2; fail "Caddy does not accept its new configuration; the old one was left alone"; }
fi
place "$caddyfile" /etc/caddy/Caddyfile root 644
! grep -qsxF -e "$drop_in" "$dirty" || ctl daemon-reload
case $(ctl is-enabled caddy.service 2>/dev/null) in
    enabled) ;;
    masked*) ctl unmask --quiet caddy.service; ctl enable --quiet caddy.service; did "enabled caddy.service" ;;
    *) ctl enable --quiet caddy.service; did "enabled caddy.service" ;;
esac
said() { # said LINES [FILTER]: the last lines of the Caddy that runs now
    journalctl "_SYSTEMD_INVOCATION_ID=$(ctl show -p InvocationID --value caddy.service)" --no-pager -q -o cat | grep -e "${2:-}" | tail -n "$1" >&2
}
if [ -s "$dirty" ] || ! ctl is-active --quiet caddy.service; then
    ctl reset-failed caddy.service 2>/dev/null || true
    ctl restart caddy.service || { said 5 || true; fail "Caddy does not start"; }
    did "restarted caddy.service"
    # Not only when a certificate is there: asking for one again and again is what authorities punish.
    rm -f "$dirty"
else
    did "nothing was new"
fi

# ── What the world gets to see ─────────────────────────────────────────────────────────────────────────────────────────
seen=$(mktemp)
trap 'rm -f "$seen"' EXIT
if [ "$what" = ip ]; then sni=(-noservername); else sni=(-servername "$name"); fi
serves() {
    timeout 5 openssl s_client -connect 127.0.0.1:443 "${sni[@]}" </dev/null 2>/dev/null | openssl x509 -out "$seen" 2>/dev/null && serves_name "$seen" 0
}
for ((began = SECONDS; SECONDS - began <= patience; )); do
    if serves; then
        did "HTTPS for $name is there"
        exit 0
    fi
    sleep 0.1
    ctl is-active --quiet caddy.service || sleep 1
done
# One line for each authority that was asked; the rest tells it again for all of them.
said 3 'could not get certificate from issuer' || said 5 || true
exit 77
